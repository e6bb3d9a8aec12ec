"""summary.csv: what a sweep found, a row a seed."""
import csv
import io
import sys

import filelock
import numpy as np

from tbtt.command import UserError
from tbtt.dataset import Dataset
from tbtt.files import write_file
from tbtt.results import best_row, find_seeds, format_number, last_row, parse_number, read_info, read_lines, read_results

TASKS = {'math': 'math', 'facts': 'facts', 'both': 'math+facts'}    # name in tbtt.paper -> in the column `tasks`
PAIR = '5,7'    # that the paper holds out, as in the column `heldout`
SCORES = ('add', 'sub', 'heldout', 'facts', 'combined')
# What each seed's row says. `best_*` are the scores at the evaluation that the paper reports, the first with the highest
# combined score; `last_*` those of the last. For each score `top_*` is its highest value ever, `top_*_iter` the
# evaluation at which that was first reached, and `top_*_stayed` 1 where it never fell again. All scores are percent;
# `seen` is arithmetic without the held-out expressions.
# `seconds` are those of the process, which may have trained other seeds at the same time.
SETTINGS = ('n_layer', 'n_head', 'n_embd', 'mlp_expansion', 'dropout', 'weight_decay', 'max_iters')
COLUMNS = ('run', 'folder', 'tasks', 'heldout', *SETTINGS, 'seed', 'num_params', 'iter', 'finished', 'diverged', 'seconds',
           'best_iter', *(f'best_{score}' for score in SCORES), *(f'last_{score}' for score in SCORES),
           'last_seen', 'best_heldout_correct', 'last_heldout_correct', 'heldout_total', 'train_loss', 'val_loss', 'seen_prob',
           'heldout_prob', 'facts_prob',
           *(f'top_{score}{what}' for score in SCORES for what in ('', '_iter', '_stayed')))
TEXT = {'run', 'folder', 'tasks', 'heldout', 'base'}
NEEDED = ('folder', 'tasks', 'n_embd', 'weight_decay', 'seed', 'num_params', 'finished')


def summarise(sweep):
    """-> list of {column: value}, a row a seed of the sweep's runs that has results, None where a column does not apply"""
    rows = []
    for run in sweep.runs:
        place = sweep.folder / run.name
        found = [folder for part in (place, *sorted(place.glob('seeds_*-*'))) for folder in find_seeds(part)]
        if not found:
            continue
        sweep.prepare(run)    # the folder may have come here without its data
        config = run.config()
        dataset = Dataset(config.dataset, config.block_size)
        about = {'run': run.name, **run.axes, 'tasks': '+'.join(dataset.tasks), 'heldout': heldout_of(dataset),
                 **{name: getattr(config, name) for name in SETTINGS}}
        seeds = range(sweep.seed, sweep.seed + sweep.num_seeds)
        rows += [{**about, 'folder': str(folder.relative_to(sweep.folder)), **row} for folder in found
                 if (row := seed_row(folder))['seed'] in seeds]
    return rows


def heldout_of(dataset):
    """The held-out pairs as prepare.py takes them: 5,7;3,8"""
    pairs = getattr(dataset.tasks.get('math'), 'heldout', ())
    return ';'.join(f'{a},{b}' for a, b in pairs)


def seed_row(folder):
    """What results.csv and run.json of one seed say. -> {column: value}"""
    results, info = read_results(folder / 'results.csv'), read_info(folder)
    best, last = best_row(results, 'combined'), last_row(results)
    row = {'seed': info.get('seed'), 'num_params': info.get('num_params'), 'iter': int(results['iter'][last]),
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
    """The rows of several summary.csv, finished ones only: numbers as floats, None where blank, and in `path` the folder
    of the seed. Raises `UserError` naming file and line."""
    rows = {}
    for path in paths:
        header, lines = read_lines(path)
        missing = [column for column in NEEDED if column not in header]
        if missing:
            raise UserError(f'{path}: line 1 lacks the column {missing[0]}: give a summary.csv of sweep.py')
        for line, cells in lines:
            if len(cells) != len(header):
                raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: make it anew with sweep.py')
            row = {column: cell if column in TEXT else parse_number(cell, f'{path}: line {line}, {column}') if cell else None
                   for column, cell in zip(header, cells)}
            if row['finished']:
                row['path'] = path.parent / row['folder']
                rows[identity(row)] = row    # two sweeps may share a run: a seed counts once
    return list(rows.values())


def identity(row):
    """What makes a seed's run the one that it is."""
    return tuple(row.get(name) for name in ('tasks', 'heldout', *SETTINGS, 'seed'))
