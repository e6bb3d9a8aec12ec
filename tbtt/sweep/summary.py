"""summary.csv: what a sweep found, a row a seed; and which seeds were trained as the paper trains."""
import csv
import functools
import hashlib
import io
import json
import sys

import filelock
import numpy as np

from tbtt import paper
from tbtt.cli import UserError
from tbtt.config import ROOT, load_config
from tbtt.dataset import Dataset
from tbtt.atomic import write_file
from tbtt.results import best_row, find_seeds, format_number, last_row, parse_number, read_info, read_lines, read_results
from tbtt.tasks import KINDS

TASKS = {'math': 'math', 'facts': 'facts', 'both': 'math+facts'}    # name in tbtt.paper -> in the column `tasks`
PAIR = '5,7'    # that the paper holds out, as in the column `heldout`
SCORES = ('add', 'sub', 'heldout', 'facts', 'combined')
# What each seed's row says. `best_*` are the scores at the evaluation that the paper reports, the first with the highest
# combined score; `last_*` those of the last. For each score `top_*` is its highest value ever, `top_*_iter` the
# evaluation at which that was first reached, and `top_*_stayed` 1 where it never fell again. All scores are percent;
# `seen` is arithmetic without the held-out expressions.
# `seconds` are those of the process, which may have trained other seeds at the same time.
SETTINGS = ('n_layer', 'n_head', 'n_embd', 'mlp_expansion', 'dropout', 'weight_decay', 'max_iters')
RECIPE = ('block_size', 'bias', 'batch_size', 'gradient_accumulation_steps', 'learning_rate', 'min_lr', 'warmup_iters',
          'lr_decay_iters', 'decay_lr', 'beta1', 'beta2', 'grad_clip')
COLUMNS = ('run', 'folder', 'tasks', 'heldout', *SETTINGS, 'seed', 'num_params', 'iter', 'finished', 'diverged', 'seconds',
           'best_iter', *(f'best_{score}' for score in SCORES), *(f'last_{score}' for score in SCORES),
           'last_seen', 'best_heldout_correct', 'last_heldout_correct', 'heldout_total', 'train_loss', 'val_loss', 'seen_prob',
           'heldout_prob', 'facts_prob',
           *(f'top_{score}{what}' for score in SCORES for what in ('', '_iter', '_stayed')), 'data', *RECIPE)
TEXT = {'run', 'folder', 'tasks', 'heldout', 'base', 'data'}
NEEDED = ('folder', 'tasks', 'n_embd', 'weight_decay', 'seed', 'num_params', 'finished', 'iter')    # never blank


def summarise(sweep):
    """Yields the rows of the sweep's runs. One that cannot be read is named on standard error, and keeps no other out."""
    for run in sweep.runs:
        try:
            yield from summarise_run(sweep, run)
        except UserError as error:
            print(f'not in the table: {run.name}: {" ".join(str(error).split())}', file=sys.stderr)


def summarise_run(sweep, run):
    """-> list of {column: value}, a row a seed of the run that has results, None where a column does not apply"""
    place = sweep.folder / run.name
    found = [folder for part in (place, *sorted(place.glob('seeds_*-*'))) for folder in find_seeds(part)]
    if not found:
        return []
    sweep.prepare(run)    # the folder may have come here without its data
    config = run.config()
    dataset = Dataset(config.dataset, config.block_size)
    about = {'run': run.name, **run.axes, 'tasks': '+'.join(dataset.tasks), 'heldout': heldout_of(dataset),
             'data': data_digest(dataset.tasks)}
    seeds = range(sweep.seed, sweep.seed + sweep.num_seeds)
    return [{**about, 'folder': str(folder.relative_to(sweep.folder)), **row} for folder in found
            if (row := seed_row(folder))['seed'] in seeds]


def heldout_of(dataset):
    """The held-out pairs as prepare.py takes them: 5,7;3,8"""
    pairs = getattr(dataset.tasks.get('math'), 'heldout', ())
    return ';'.join(f'{a},{b}' for a, b in pairs)


def data_digest(tasks):
    """What is asked and how often it is trained on, {name: task}, as a short text."""
    described = {name: task.describe() for name, task in tasks.items()}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def papers_recipe(task, model):
    """{column: value} of how the paper trains a model in a task, whatever its size, weight decay and dropout."""
    config = load_config([ROOT / 'config' / f'train_{paper.run_name(task, model)}.py'], {})
    tasks = {name: KINDS[name]() for name in TASKS[task].split('+')}
    return {'tasks': TASKS[task], 'data': data_digest(tasks), 'max_iters': paper.ITERS,
            **{name: getattr(config, name) for name in RECIPE}}


def as_the_paper(row, task, model='n14'):
    """Was a seed trained as the paper trains that model? Its size, weight decay and dropout are not looked at."""
    return all(row.get(column) == value for column, value in papers_recipe(task, model).items())


def seed_row(folder):
    """What results.csv and run.json of one seed say. -> {column: value}"""
    results, info = read_results(folder / 'results.csv'), read_info(folder)
    last = last_row(results)
    best = last if np.isnan(results['combined_acc']).all() else best_row(results, 'combined')    # without tasks no scores
    trained = info.get('config', {})    # whatever is asked for now
    settings = {name: trained.get(name) for name in (*SETTINGS, *RECIPE)}
    row = {**{name: int(value) if isinstance(value, bool) else value for name, value in settings.items()},
           'seed': info.get('seed'), 'num_params': info.get('num_params'), 'iter': int(results['iter'][last]),
           'finished': int(info.get('finished', False)), 'diverged': info.get('diverged'), 'seconds': info.get('seconds'),
           'best_iter': int(results['iter'][best]), 'heldout_total': results['heldout_total'][last]}
    for name, at in (('best', best), ('last', last)):
        row |= {f'{name}_{score}': results[f'{score}_acc'][at] for score in SCORES}
        row[f'{name}_heldout_correct'] = results['heldout_correct'][at]
    right, asked = (results[f'add_{what}'][last] + results[f'sub_{what}'][last]
                    - np.nan_to_num(results[f'heldout_{what}'][last]) for what in ('correct', 'total'))
    row['last_seen'] = 100 * right / asked
    for column in ('train_loss', 'val_loss', 'seen_prob', 'heldout_prob', 'facts_prob'):
        row[column] = results[column][last]
    for score in SCORES:
        values = results[f'{score}_acc']
        if not np.isnan(values).all():
            first = int(np.nanargmax(values))
            row |= {f'top_{score}': values[first], f'top_{score}_iter': int(results['iter'][first]),
                    f'top_{score}_stayed': int((values[first:] >= values[first]).all())}
    return {column: None if isinstance(value, float) and np.isnan(value) else value for column, value in row.items()}


def write_summary(path, rows):
    """Write rows as CSV, whole or not at all; the axes that are no COLUMNS come last. Rows of other runs and seeds that
    are there already stay, as long as their folders do: one may have asked for a part of the sweep. -> how many there are

    One process at a time does so. rows may be a generator: what it reads is then not older than what another wrote.
    """
    with filelock.FileLock(path.with_name(f'.{path.name}.lock')):
        rows = [{column: value if isinstance(value, str) else format_number(value) for column, value in row.items()}
                for row in rows]
        ours = {row['folder'] for row in rows}
        before = rows_before(path)
        rows = [row for row in before if row['folder'] not in ours and (path.parent / row['folder']).exists()] + rows
        if not rows:
            return 0
        columns = [*COLUMNS, *dict.fromkeys(column for row in rows for column in row if column not in COLUMNS)]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, text.getvalue().encode())
        return len(rows)


def rows_before(path):
    """The rows of a summary that is there already. All of it can be had from the run folders: what cannot be read is as
    good as absent."""
    try:
        header, lines = read_lines(path) if path.exists() else ([], [])
        if lines and 'folder' not in header or any(len(cells) != len(header) for _, cells in lines):
            raise UserError(f'{path}: lacks fields')
    except UserError as error:
        print(f'{error}; its rows are left out: run the whole sweep again to have them back', file=sys.stderr)
        return []
    return [dict(zip(header, cells)) for _, cells in lines]


def read_summaries(paths):
    """The rows of several summary.csv: numbers as floats, None where blank, and in `path` the folder of the seed. Seeds that
    are not finished, or whose loss was once not finite, are left out. Raises `UserError` naming file and line."""
    rows = {}
    for path in paths:
        header, lines = read_lines(path)
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise UserError(f'{path}: line 1 lacks the column {missing[0]}: give a summary.csv of sweep.py, made anew by it')
        for line, cells in lines:
            if len(cells) != len(header):
                raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: make it anew with sweep.py')
            row = {column: cell if column in TEXT else parse_number(cell, f'{path}: line {line}, {column}') if cell else None
                   for column, cell in zip(header, cells)}
            blank = [column for column in NEEDED if row[column] in (None, '')]
            if blank:
                raise UserError(f'{path}: line {line}: {blank[0]} is blank: make it anew with sweep.py')
            if row['finished'] and row['diverged'] is None:
                row['path'] = path.parent / row['folder']
                rows[identity(row)] = row    # two sweeps may share a run: a seed counts once
    return list(rows.values())


def identity(row):
    """What makes a seed's run the one that it is."""
    return tuple(row[name] for name in ('tasks', 'heldout', 'data', *SETTINGS, *RECIPE, 'seed'))
