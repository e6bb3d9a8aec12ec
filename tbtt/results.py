"""Read and write results.csv, which has one row per evaluation; find the best row and the seeds of a run.

The columns follow from the tasks (`tbtt/tasks.py`). Columns that do not apply to a run (facts in an
arithmetic run) are blank. `add_*` and `sub_*` count all pairs of operands, including held-out pairs. `*_acc`
are percent. `*_prob` are means over prompts of the exact probability of the right answer (teacher-forced,
temperature 1). `heldout_answered` of `heldout_questions` counts questions: each question is asked several
times, and it is answered if enough of its answers are right. `order_learned` is the share of the order of the
lines that the model has learned, computed from the loss (`tbtt/order.py`; below 0 as long as the lines are
not known). `other_order_loss` is the loss on the same lines in another order.
"""
import csv
import functools
import io
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tbtt.cli import UserError, study_package
from tbtt.config import MOST_STEPS
from tbtt.layout import RESULTS, seed_folders
from tbtt.tasks import TASKS, Task

if TYPE_CHECKING:    # needed only for a table
    import pandas

NUM_SAMPLES, ENOUGH = 10, 6    # samples per question (as in the paper), and right ones to answer it
# The columns that the paper's own files have too; the other columns may be absent.
NEEDED_RESULTS = ('iter', 'add_correct', 'add_total', 'sub_correct', 'sub_total', 'facts_correct',
                  'facts_total', 'train_loss', 'val_loss')
ORDER_COLUMNS = ('order_learned', 'other_order_loss')
INFO = {'seed': int, 'num_params': int, 'iter_num': int, 'finished': bool, 'diverged': int,
        'seconds': int | float, 'config': dict}    # types of keys of run.json, if it has them
MEND = 'correct the line, or train the run again'

Results = dict[str, np.ndarray]    # {column: (T,) float64}, one number per evaluation, NaN if blank


def result_columns() -> list[str]:
    """The columns of results.csv, in their order."""
    tasks = TASKS.values()
    return ['iter', *(column for task in tasks for column in task.count_columns()), 'combined_acc',
            'train_loss', 'val_loss', *(column for task in tasks for column in task.probability_columns()),
            *(column for task in tasks for column in task.answered_columns()), *ORDER_COLUMNS]


def counted_groups() -> list[str]:
    """The groups of questions whose right answers are counted: add, sub, heldout, facts."""
    return [group for task in TASKS.values() for group in task.counted()]


def heldout_groups() -> list[str]:
    """The groups of questions that are never trained on."""
    return [task.heldout_group for task in TASKS.values() if task.heldout_group]


def scores() -> dict[str, tuple[str, ...]]:
    """{score: the groups that it counts}: one score per task, and `combined` of all questions."""
    parts = {name: task.scored for name, task in TASKS.items()}
    return {**parts, 'combined': tuple(group for groups in parts.values() for group in groups)}


def group_label(group: str) -> str:
    """The name of a group of questions in figures and tables."""
    return next(task.labels[group] for task in TASKS.values() if group in task.labels)


def read_results(path: str | Path) -> Results:
    """Read a results.csv, ours or the paper's.

    The keys are `result_columns()` and an accuracy of every group (`add_acc`, `heldout_acc`, ...). All
    accuracies are percent, computed from the counts. If a file has no `heldout_answered`, it is filled in
    where the counts leave no doubt (`answered_bounds`). Raises `UserError` that names the file and the
    line.
    """
    header, lines = read_lines(path)
    missing = [column for column in NEEDED_RESULTS if column not in header]
    if missing:
        raise UserError(f'{path}: line 1 lacks the column {missing[0]}: give a results.csv of a training run')
    results = {column: np.full(len(lines), np.nan) for column in result_columns()}
    for row, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: complete or '
                            f'delete it')
        for column, text in zip(header, cells):
            if column in results and text.strip():
                results[column][row] = parse_number(text, f'{path}: line {line}')
    check_rows(results, path, [line for line, _ in lines])
    for group in counted_groups():    # 0 of 0 is no score
        blank = ~(results[f'{group}_total'] > 0)
        results[f'{group}_correct'][blank] = results[f'{group}_total'][blank] = np.nan
        results[f'{group}_acc'] = percent_right(results, [group])
    for group in heldout_groups():
        fill_answered(results, group)
    blank_scores = {f'{score}_acc': np.full(len(lines), np.nan) for score in scores()}
    return results | blank_scores | score_columns(results)


def read_lines(path: str | Path, mend: str = 'train the run first or name another folder'
               ) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names in the header, and (line number, cells) of each further line that is not blank. Raises
    `UserError` if there are none, or if the file cannot be read, is no CSV text or is cut off. mend: what to
    do, for the message."""
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
        reader = csv.reader(io.StringIO(text), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}: {mend}') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: line 1: this is no CSV text: {mend}') from error
    # Without the last newline, the last number may lack digits.
    if lines and not text.endswith('\n') and len(lines[-1][1]) == len(lines[0][1]):
        raise UserError(f'{path}: line {reader.line_num} is cut off: complete or delete it')
    if not lines:
        raise UserError(f'{path} is empty: {mend}')
    if len(lines) < 2:
        raise UserError(f'{path}: line 2: no evaluation here: train until the first one is written')
    return [name.strip() for name in lines[0][1]], lines[1:]


def parse_number(text: str, where: str) -> float:
    """The number in a text. Raises `UserError` if there is none. where: file and line, for the message."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f'{where}: expected a number, got {text!r}: {MEND}') from None


def check_rows(results: Results, path: str | Path, lines: Sequence[int]) -> None:
    """Iterations must rise, and nothing may be right more often than it was asked."""
    iters = results['iter']
    faults = {'iter is no whole number of steps': ~((iters <= MOST_STEPS) & (iters == np.floor(iters))),
              'iter is not above the one before': ~(np.diff(iters, prepend=-1) > 0)}
    pairs = [(f'{group}_correct', f'{group}_total') for group in counted_groups()]
    pairs += [(f'{group}_answered', f'{group}_questions') for group in heldout_groups()]
    for right, asked in pairs:
        possible = (0 <= results[right]) & (results[right] <= results[asked])
        possible |= np.isnan(results[right]) & np.isnan(results[asked])
        faults[f'{right} is not between 0 and {asked}'] = ~possible
    for fault, rows in faults.items():
        if rows.any():
            raise UserError(f'{path}: line {lines[rows.argmax()]}: {fault}: {MEND}')


def percent_right(counts: Mapping, groups: Iterable[str]) -> float | np.ndarray:
    """Percent right over all questions of these groups together. counts: {column: number or (T,) array}"""
    return 100 * sum(counts[f'{group}_correct'] for group in groups) / sum(counts[f'{group}_total']
                                                                           for group in groups)


def seen_percent(results: Results, task: type[Task]) -> np.ndarray:
    """Percent right of a task's questions that were trained on, one number per evaluation."""
    def count(what: str) -> np.ndarray:
        heldout = np.nan_to_num(results[f'{task.heldout_group}_{what}']) if task.heldout_group else 0
        return sum(results[f'{group}_{what}'] for group in task.scored) - heldout
    return 100 * count('correct') / count('total')


def score_columns(counts: Mapping) -> dict:
    """The accuracies (percent) that follow from counts, {column: number or (T,) array}: `math_acc`,
    `facts_acc`, `combined_acc`, as far as their questions were asked."""
    found = {}
    for score, groups in scores().items():
        asked = [group for group in groups if not np.isnan(counts.get(f'{group}_total', np.nan)).all()]
        if asked:
            found[f'{score}_acc'] = percent_right(counts, asked)
    return found


def answered_bounds(correct: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest possible number of answered questions if `correct` of `total` answers are
    right.

    Each question is asked NUM_SAMPLES times, and it is answered if at least ENOUGH answers are right. 40 of
    40 mean 4 of 4 questions, 3 of 40 mean none, but 10 of 40 may mean one question or none.
    """
    questions = total // NUM_SAMPLES
    # Right answers above ENOUGH - 1 per question: with no more than that, no question has to be answered.
    spare = correct - (ENOUGH - 1) * questions
    least = np.ceil(np.clip(spare, 0, None) / (NUM_SAMPLES - ENOUGH + 1))
    return least, np.minimum(correct // ENOUGH, questions)


def answered_text(correct: float, total: float, answered: float = np.nan) -> str:
    """How many questions are answered, in words: `3 of 4`; `2 to 4 of 4` if only the counts are known and
    leave it open; '' if nothing was asked, or `total` is not a multiple of NUM_SAMPLES."""
    if not total > 0 or total % NUM_SAMPLES:
        return ''
    least, most = (answered, answered) if answered == answered else answered_bounds(np.array(correct),
                                                                                    np.array(total))
    number = f'{least:.0f}' if least == most else f'{least:.0f} to {most:.0f}'
    return f'{number} of {total / NUM_SAMPLES:.0f}'


def fill_answered(results: Results, group: str) -> None:
    """Fill in the number of answered questions where a row lacks it and its counts leave no doubt."""
    correct, total, answered, questions = (results[f'{group}_{what}']
                                           for what in ('correct', 'total', 'answered', 'questions'))
    blank = np.isnan(questions) & (total % NUM_SAMPLES == 0)
    questions[blank] = total[blank] // NUM_SAMPLES
    with np.errstate(invalid='ignore'):    # blanks, and any number of a damaged file
        least, most = answered_bounds(correct, total)
    sure = blank & (least == most)
    answered[sure] = least[sure]


def format_results(rows: Iterable[Mapping]) -> str:
    """The CSV text of rows, {column: number} each. A column that is None or absent is blank. Floats can be
    read back exactly.

    Keys that are not columns are left out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, result_columns(), extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows({column: format_number(value) for column, value in row.items()} for row in rows)
    return text.getvalue()


def append_row(text: str, row: Mapping) -> str:
    """The text of a results.csv with one more row. If it has other columns than ours, because it is from an
    older version or from the paper, it first gets our columns; the columns that it lacks are blank."""
    columns = result_columns()
    reader = csv.DictReader(io.StringIO(text.removeprefix('\ufeff')), skipinitialspace=True)
    if [name.strip() for name in reader.fieldnames or []] != columns:
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows({name.strip(): cell for name, cell in old.items() if name} for old in reader)
        text = out.getvalue()
    return text + format_results([row]).split('\n', 1)[1]


def format_number(value: float | None) -> str:
    """Python's shortest text that reads back as the same number, for NumPy's numbers too."""
    if value is None:
        return ''
    return str(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))


def best_row(results: Results, score: str) -> int:
    """The first row with the highest `score` (of `scores`); the best checkpoint is from this row. Raises
    ValueError if there is none."""
    return int(np.nanargmax(results[f'{score}_acc']))


def last_row(results: Results) -> int:
    """The row of the last evaluation."""
    return len(results['iter']) - 1


def find_seeds(folder: str | Path) -> list[Path]:
    """The folders of seeds that have a results.csv: the folder itself, or the `seed_*` folders below it, in
    order."""
    folder = Path(folder)
    if (folder / RESULTS).exists():
        return [folder]
    return [seed for seed in seed_folders(folder) if (seed / RESULTS).exists()]


def seeds_in(folder: str | Path) -> list[Path]:
    """As `find_seeds`. Raises `UserError` if there is none."""
    found = find_seeds(folder)
    if not found:
        raise UserError(f'no results.csv in {folder} or in a seed_* folder below it: train it, or name '
                        f'another folder')
    return found


def read_seeds(folders: Sequence[Path]) -> list[Results]:
    """The results of seeds, from the folders that `find_seeds` gives."""
    return [read_results(folder / RESULTS) for folder in folders]


def stack_seeds(seeds: Sequence[Results]) -> Results:
    """The results of R seeds as {column: (R, T) array} over the T iterations that any of them has. NaN where
    a seed has no such evaluation (it diverged earlier, or has not come so far); `iter` is (T,)."""
    iterations = functools.reduce(np.union1d, [seed['iter'] for seed in seeds])
    stacked = {column: np.full((len(seeds), len(iterations)), np.nan) for column in seeds[0]}
    for row, seed in enumerate(seeds):
        for column, values in seed.items():
            stacked[column][row, np.isin(iterations, seed['iter'])] = values
    return {**stacked, 'iter': iterations}


def read_info(folder: str | Path, name: str = 'run.json') -> dict:
    """The content of run.json, which says how a run was made; {} if there is none."""
    path = Path(folder) / name
    try:
        info = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    except (RecursionError, ValueError) as error:
        raise UserError(f'{path}: damaged ({error}): delete it or train the run again') from error
    if not isinstance(info, dict):
        raise UserError(f'{path}: damaged (no object of names and values): delete it or train the run again')
    for key, kind in INFO.items():
        if not isinstance(info.get(key), kind | None):
            raise UserError(f'{path}: damaged ({key} is {str(info[key])[:40]!r}): delete it or train the run '
                            f'again')
    return info


class RunResults(dict):
    """The results of a run, {column: array}. Arrays are (T,) for one seed and (R, T) for several, one row per
    seed, NaN where a seed has no number; `iter` is (T,). The columns are those of `read_results`.

    seeds: the numbers of the seeds. info: the content of run.json of each seed, a list of dicts.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        results = read_seeds(folders)
        super().__init__(stack_seeds(results) if len(folders) > 1 else results[0])
        self.info = [read_info(folder) for folder in folders]
        self.seeds = [info.get('seed') for info in self.info]

    def to_pandas(self) -> 'pandas.DataFrame':
        """A table with a row for each evaluation of each seed, and the seed in the column `seed`. Columns
        without any number are left out. Raises `UserError` if pandas is missing."""
        frame = study_package('pandas').DataFrame
        shape = len(self.seeds), len(self['iter'])
        long = {'seed': np.repeat(self.seeds, shape[1]), 'iter': np.tile(self['iter'].astype(int), shape[0])}
        columns = {name: values.ravel() for name, values in self.items() if name not in long}
        return frame(long | columns).dropna(axis='columns', how='all')


def load_results(path: str | Path) -> RunResults:
    """The results of a run, of one seed or of several. path: the run's folder, or a file in it.

    Raises `UserError` if there are none.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    folders = find_seeds(folder)
    if not folders:
        raise UserError(f'no results in {folder}: name the folder of a run, or train it first')
    return RunResults(folders)
