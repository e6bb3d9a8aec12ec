"""summary.csv: what a sweep found, one row per seed; and which seeds were trained as in the paper."""
import csv
import functools
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np

from tbtt import paper
from tbtt.atomic import write_file
from tbtt.cli import UserError
from tbtt.results import (
    NUM_SAMPLES,
    ORDER_COLUMNS,
    Results,
    answered_bounds,
    best_row,
    counted_groups,
    find_seeds,
    format_number,
    heldout_groups,
    last_row,
    parse_number,
    read_info,
    read_lines,
    read_results,
    seen_percent,
)
from tbtt.tasks import TASKS, Task

if TYPE_CHECKING:    # both load torch, which reading a summary does not need
    from tbtt.dataset import Dataset
    from tbtt.sweep.plan import Run, Sweep

PAIR = '5,7'    # the pair that the paper holds out, as in the column `heldout`
SETTINGS = (*paper.SHAPE, *paper.REGULARISATION, 'max_iters')
TEXT = {'run', 'folder', 'tasks', 'heldout', 'base', 'data', 'windows', 'line_order'}
BEFORE = {'windows': 'any', 'line_order': 'fixed'}    # values for runs that are older than these settings
NEVER_BLANK = ('folder', 'n_embd', 'weight_decay', 'seed', 'num_params', 'finished', 'iter')
# How many held-out questions are answered, and when all are. Summaries of older versions lack these columns.
ANSWERED = ('best_{}_answered', 'last_{}_answered', '{}_questions')
ALL_ANSWERED = ('{}_answered_iter', '{}_lost_iter')


def summary_columns() -> list[str]:
    """The columns of a seed's row, in the order of summary.csv.

    `best_*` are the scores at the evaluation that the paper reports: the first with the highest combined
    score. `last_*` are the scores at the last evaluation. For each score `top_*` is its highest value,
    `top_*_iter` the evaluation that first reached it, and `top_*_stayed` 1 if it never fell below it again.
    All scores are percent. `seen` is arithmetic without the held-out expressions. `*_answered` of
    `*_questions` are held-out questions, each asked ten times. `*_answered_iter` is the first evaluation at
    which all of them are answered; `*_lost_iter` is the evaluation after the last one at which all are, blank
    if there is none. `order_learned` and `other_order_loss` are from the last evaluation (see
    `tbtt/results.py`). `seconds` are of the process, which may have trained other seeds at the same time.
    """
    scores, heldout = [*counted_groups(), 'combined'], heldout_groups()
    seen = [task.seen_group for task in TASKS.values() if task.seen_group]
    probabilities = [column for task in TASKS.values() for column in task.probability_columns()]
    return ['run', 'folder', 'tasks', 'heldout', *SETTINGS, 'seed', 'num_params', 'iter', 'finished',
            'diverged', 'seconds',
            'best_iter', *(f'best_{score}' for score in scores), *(f'last_{score}' for score in scores),
            *(f'last_{group}' for group in seen), *(column for group in heldout for column in
                                                    (f'best_{group}_correct', f'last_{group}_correct',
                                                     f'{group}_total')),
            'train_loss', 'val_loss', *probabilities,
            *(f'top_{score}{what}' for score in scores for what in ('', '_iter', '_stayed')), 'data',
            *paper.TRAINING,
            *(column.format(group) for group in heldout for column in (*ANSWERED, *ALL_ANSWERED)),
            *ORDER_COLUMNS]


def summarise(sweep: 'Sweep') -> Iterator[dict]:
    """Yields the rows of the sweep's runs. A run that cannot be read is named on standard error; the others
    still get their rows."""
    for run in sweep.runs:
        try:
            yield from summarise_run(sweep, run)
        except UserError as error:
            print(f'not in the table: {run.name}: {" ".join(str(error).split())}', file=sys.stderr)


def summarise_run(sweep: 'Sweep', run: 'Run') -> list[dict]:
    """-> list of {column: value}, one row for each seed of the run that has results; None if a column does
    not apply"""
    place = sweep.folder / run.name
    found = [folder for part in (place, *sorted(place.glob('seeds_*-*'))) for folder in find_seeds(part)]
    if not found:
        return []
    sweep.prepare(run)    # the folder may have been copied here without its data
    from tbtt.dataset import Dataset

    config = run.config()
    dataset = Dataset(config.dataset, config.block_size)
    about = {'run': run.name, **run.axes, 'tasks': '+'.join(dataset.tasks), 'heldout': heldout_of(dataset),
             'data': data_digest(dataset.tasks, in_blocks(dataset))}
    seeds = range(sweep.seed, sweep.seed + sweep.num_seeds)
    return [{**about, 'folder': str(folder.relative_to(sweep.folder)), **row} for folder in found
            if (row := seed_row(folder))['seed'] in seeds]


def heldout_of(dataset: 'Dataset') -> str:
    """The held-out pairs in the form that prepare.py takes: 5,7;3,8"""
    pairs = getattr(dataset.tasks.get('math'), 'heldout', ())
    return ';'.join(f'{a},{b}' for a, b in pairs)


def in_blocks(dataset: 'Dataset') -> bool:
    """Are the lines of each task in one block, and not mixed with those of other tasks?"""
    task_of = {line: name for name, task in dataset.tasks.items() for line in task.lines()}
    lines = dataset.codec.decode(dataset.train.tolist()).splitlines(keepends=True)
    return len(list(itertools.groupby(lines, task_of.get))) == len(dataset.tasks)


def data_digest(tasks: dict[str, Task], blocks: bool = True) -> str:
    """A short text that identifies the tasks, {name: task}: what is asked, how often it is trained on, and
    whether tasks are mixed."""
    described = {name: task.describe() for name, task in tasks.items()}
    if blocks and len(tasks) > 1:
        # No `order` means mixed tasks, as in older versions.
        described['order'] = 'blocks'
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def row_of_paper(experiment: str, model: str, wd: bool = False) -> dict:
    """{column: value} of all columns that say how a run is trained, for one of the paper's runs."""
    digest = data_digest({task.name: task() for task in paper.tasks_of(experiment)})
    return {'tasks': paper.tasks_column(experiment), 'data': digest, **paper.recipe(experiment, model, wd)}


def as_the_paper(row: dict, experiment: str, model: str = 'n14', wd: bool = False,
                 but: tuple[str, ...] = ()) -> bool:
    """Was a seed trained as the paper trains that model? but: columns that are not compared"""
    expected = row_of_paper(experiment, model, wd)
    return all(row.get(column) == value for column, value in expected.items() if column not in but)


def seed_row(folder: Path) -> dict:
    """What results.csv and run.json of one seed say. -> {column: value}, None if a column does not apply"""
    results, info = read_results(folder / 'results.csv'), read_info(folder)
    last = last_row(results)
    # Without tasks there are no scores.
    best = last if np.isnan(results['combined_acc']).all() else best_row(results, 'combined')
    trained = info.get('config', {})    # the settings it was trained with, whatever the sweep sets now
    settings = {name: trained.get(name, BEFORE.get(name)) for name in (*SETTINGS, *paper.TRAINING)}
    row = {**{name: int(value) if isinstance(value, bool) else value for name, value in settings.items()},
           'seed': info.get('seed'), 'num_params': info.get('num_params'), 'iter': int(results['iter'][last]),
           'finished': int(info.get('finished', False)), 'diverged': info.get('diverged'),
           'seconds': info.get('seconds'),
           'best_iter': int(results['iter'][best])}
    for task in TASKS.values():
        row |= task_columns(task, results, best, last)
    row |= {column: results[column][last] for column in ('train_loss', 'val_loss', *ORDER_COLUMNS)}
    row |= score_columns('combined', results, best, last)
    return {column: None if isinstance(value, float) and np.isnan(value) else value
            for column, value in row.items()}


def task_columns(task: type[Task], results: Results, best: int, last: int) -> dict:
    """The columns of a seed's row for one task. best, last: rows of the results"""
    row = {column: results[column][last] for column in task.probability_columns()}
    for group in task.counted():
        row |= score_columns(group, results, best, last)
    if (group := task.heldout_group) is None:
        return row
    row |= {f'{group}_{what}': results[f'{group}_{what}'][last] for what in ('total', 'questions')}
    for when, at in (('best', best), ('last', last)):
        row |= {f'{when}_{group}_{what}': results[f'{group}_{what}'][at] for what in ('correct', 'answered')}
    row |= all_answered(results, group)
    if task.seen_group:
        row[f'last_{task.seen_group}'] = seen_percent(results, task)[last]
    return row


def all_answered(results: Results, group: str) -> dict:
    """The first evaluation at which all questions of a held-out group are answered, and the one after the
    last."""
    there = results[f'{group}_answered'] == results[f'{group}_questions']
    if not there.any():
        return {}
    first, after = there.argmax(), len(there) - there[::-1].argmax()
    gone = {f'{group}_lost_iter': int(results['iter'][after])} if after < len(there) else {}
    return {f'{group}_answered_iter': int(results['iter'][first]), **gone}


def score_columns(score: str, results: Results, best: int, last: int) -> dict:
    """A score at the evaluation that the paper reports, at the last one, and at its highest."""
    values = results[f'{score}_acc']
    row = {f'best_{score}': values[best], f'last_{score}': values[last]}
    if not np.isnan(values).all():
        first = int(np.nanargmax(values))
        row |= {f'top_{score}': values[first], f'top_{score}_iter': int(results['iter'][first]),
                f'top_{score}_stayed': int((values[first:] >= values[first]).all())}
    return row


def write_summary(path: Path, rows: Iterable[dict]) -> int:
    """Write rows as CSV, all or none. Axes that are not in `summary_columns` come last. Rows of other runs
    and seeds that are in the file already stay as long as their folders exist: this call may be for only a
    part of the sweep. -> number of rows in the file

    A lock lets one process at a time do this. rows may be a generator: it then reads while the lock is held,
    so what it reads is not older than what another process wrote.
    """
    with filelock.FileLock(path.with_name(f'.{path.name}.lock')):
        rows = [{column: value if isinstance(value, str) else format_number(value)
                 for column, value in row.items()}
                for row in rows]
        ours = {row['folder'] for row in rows}
        before = rows_before(path)
        kept = [row for row in before if row['folder'] not in ours
                and (path.parent / row['folder'] / 'results.csv').exists()]
        rows = kept + rows
        if not rows:
            path.unlink(missing_ok=True)
            return 0
        columns = list(dict.fromkeys([*summary_columns(), *(column for row in rows for column in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, text.getvalue().encode())
        return len(rows)


def rows_before(path: Path) -> list[dict]:
    """The rows of an existing summary; none if it cannot be read, since all of it can be made again from the
    run folders."""
    try:
        header, lines = read_lines(path) if path.exists() else ([], [])
        if lines and 'folder' not in header or any(len(cells) != len(header) for _, cells in lines):
            raise UserError(f'{path}: lacks fields')
    except UserError as error:
        print(f'{error}; its rows are left out: run the whole sweep again to have them back', file=sys.stderr)
        return []
    return [dict(zip(header, cells)) for _, cells in lines]


def read_summaries(paths: Iterable[Path]) -> list[dict]:
    """The rows of several summary.csv: numbers as floats, None if blank, and in `path` the folder of the
    seed. Seeds that are not finished, or whose loss was not finite at some point, are left out. Raises
    `UserError` that names the file and the line."""
    rows = {}
    for path in paths:
        header, lines = read_lines(path, mend='make it with sweep.py, or name another')
        younger = {column.format(group) for group in heldout_groups()
                   for column in (*ANSWERED, *ALL_ANSWERED)}
        younger |= {*BEFORE, *ORDER_COLUMNS}
        missing = [column for column in summary_columns() if column not in header and column not in younger]
        if missing:
            raise UserError(f'{path}: line 1 lacks the column {missing[0]}: give a summary.csv of sweep.py, '
                            f'written by this version')
        for line, cells in lines:
            if len(cells) != len(header):
                raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: make it anew '
                                f'with sweep.py')
            row = dict.fromkeys(younger)
            row |= {column: read_cell(column, cell, f'{path}: line {line}, {column}')
                    for column, cell in zip(header, cells)}
            row |= {column: row[column] or value for column, value in BEFORE.items()}
            blank = [column for column in NEVER_BLANK if row[column] in (None, '')]
            if blank:
                raise UserError(f'{path}: line {line}: {blank[0]} is blank: make it again with sweep.py')
            if row['finished'] and row['diverged'] is None:
                row['path'] = path.parent / row['folder']
                for group in heldout_groups():
                    row |= answered_columns(row, group)
                rows[identity(row)] = row    # two sweeps may share a run, but a seed counts once
    return list(rows.values())


def read_cell(column: str, cell: str, where: str) -> float | str | None:
    """A cell of a summary; None if it is blank. In an axis that is not in `summary_columns`, such as an
    option of prepare.py, a cell may be any text. Raises `UserError` that names `where`."""
    if column in TEXT:
        return cell
    if not cell:
        return None
    try:
        return parse_number(cell, where)
    except UserError:
        if column in summary_columns():
            raise
        return cell


def answered_columns(row: dict, group: str) -> dict:
    """How many held-out questions a seed answers, as recorded. For a summary of an older version it follows
    from the counts, or is None if they leave doubt."""
    total = row[f'{group}_total']
    if not total or row.get(f'{group}_questions') is not None:
        return {column.format(group): row.get(column.format(group)) for column in ANSWERED}
    found = {f'{group}_questions': total // NUM_SAMPLES}
    for when in ('best', 'last'):
        least, most = answered_bounds(np.array(row[f'{when}_{group}_correct'], float), np.array(total))
        found[f'{when}_{group}_answered'] = float(least) if least == most else None
    return found


def identity(row: dict) -> tuple:
    """A key: rows that have the same one are of the same training."""
    return tuple(row[name] for name in ('tasks', 'heldout', 'data', *SETTINGS, *paper.TRAINING, 'seed'))
