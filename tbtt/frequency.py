"""Recall against frequency: how well a run answers the frequent and the rare questions of its training
data."""
import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tbtt.atomic import write_file
from tbtt.cli import UserError
from tbtt.figures import markdown_table
from tbtt.results import parse_number, read_lines


class Recall(NamedTuple):
    """How well one seed of a run answers one question of its training data: a row of frequency.csv."""
    run: str
    parameters: int
    seed: int
    task: str
    question: str
    occurrences: int    # in the training data
    recalled: float     # percent of the samples that are right


def write_frequency(path: Path, rows: Sequence[Recall]) -> None:
    """Write frequency.csv, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([Recall._fields, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.getvalue().encode())


def read_frequency(path: str | Path) -> list[Recall]:
    """The rows of a frequency.csv. Raises `UserError` naming the file and the line."""
    header, lines = read_lines(path)
    if tuple(header) != Recall._fields:
        raise UserError(f'{path}: line 1: expected the columns {", ".join(Recall._fields)}: make it with '
                        f'eval_frequency.py')
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: make it with '
                            f'eval_frequency.py')
        run, parameters, seed, task, question, *numbers = cells
        parameters, seed, occurrences, recalled = (parse_number(cell, f'{path}: line {line}')
                                                   for cell in (parameters, seed, *numbers))
        if not (np.isfinite([parameters, seed]).all() and occurrences >= 1 and 0 <= recalled <= 100):
            raise UserError(f'{path}: line {line}: expected parameters, a seed, occurrences of at least 1 '
                            f'and 0 to 100 percent recalled')
        rows.append(Recall(run, int(parameters), int(seed), task, question, int(occurrences), recalled))
    return rows


def recall_of(rows: Sequence[Recall], run: str, task: str) -> tuple[np.ndarray, np.ndarray]:
    """-> occurrences of each question of a task, and percent recalled, the mean over the seeds of the run:
    (Q,) each"""
    found = defaultdict(list)
    for row in rows:
        if (row.run, row.task) == (run, task):
            found[row.question, row.occurrences].append(row.recalled)
    return np.array([times for _, times in found],
                    float), np.array([np.mean(each) for each in found.values()])


class Octave(NamedTuple):
    """Questions of about the same frequency: 1, 2 to 3, 4 to 7, ..."""
    occurrences: float    # their geometric mean
    recalled: float       # percent, the mean
    error: float          # standard error of that mean, 0 for one question
    questions: int


def octaves(occurrences: np.ndarray, recalled: np.ndarray) -> dict[int, Octave]:
    """{octave: what is recalled of its questions}. occurrences, recalled: (Q,) each"""
    bins = np.floor(np.log2(occurrences)).astype(int)
    found = {}
    for octave in np.unique(bins).tolist():
        x, y = occurrences[bins == octave], recalled[bins == octave]
        error = y.std(ddof=1) / np.sqrt(len(y)) if len(y) > 1 else 0.0
        found[octave] = Octave(np.exp(np.log(x).mean()), y.mean(), error, len(y))
    return found


class AskedRun(NamedTuple):
    """A run that occurs in the rows."""
    name: str
    parameters: int
    seeds: int


def runs_of(rows: Sequence[Recall], task: str) -> list[AskedRun]:
    """The runs that were asked a task, the smallest model first."""
    names = sorted({(row.parameters, row.run) for row in rows if row.task == task})
    return [AskedRun(name, parameters, len({row.seed for row in rows if row.run == name}))
            for parameters, name in names]


def frequency_table(rows: Sequence[Recall]) -> str:
    """Markdown with one table per task and one line per run: percent recalled by occurrences."""
    parts = []
    for task in dict.fromkeys(row.task for row in rows):
        found = {run: octaves(*recall_of(rows, run.name, task)) for run in runs_of(rows, task)}
        columns = sorted({octave for each in found.values() for octave in each})
        heads = ['once' if octave == 0 else f'{2**octave} to {2**(octave + 1) - 1} times'
                 for octave in columns]
        lines = [[run.name, f'{run.parameters:,}', str(run.seeds),
                  *(f'{each[octave].recalled:.0f}%' if octave in each else '' for octave in columns)]
                 for run, each in found.items()]
        parts.append(markdown_table([task, 'parameters', 'seeds', *heads], lines))
    return '\n\n'.join(parts)
