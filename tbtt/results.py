"""results.csv: what an evaluation found, one row each; the best row; what many seeds say together."""
import csv
import functools
import io
import json
import math
import numbers
import statistics
from pathlib import Path

import numpy as np

from tbtt.cli import UserError

# What does not apply to a run (facts in an arithmetic run) is blank. `add_*` and `sub_*` count all pairs of operands,
# the held-out ones included. `*_acc` are percent. `*_prob` are means over prompts of the exact probability of the right
# answer (teacher-forced, temperature 1), in arithmetic apart for what was seen in training and what was held out.
COLUMNS = ('iter', 'add_correct', 'add_total', 'sub_correct', 'sub_total', 'math_acc', 'heldout_correct',
           'heldout_total', 'facts_correct', 'facts_total', 'facts_acc', 'combined_acc', 'train_loss', 'val_loss',
           'seen_prob', 'heldout_prob', 'facts_prob')
# What the paper's own files have too; the later columns may be absent.
NEEDED = ('iter', 'add_correct', 'add_total', 'sub_correct', 'sub_total', 'facts_correct', 'facts_total', 'train_loss',
          'val_loss')
MEND = 'mend the line or train the run anew'
COUNTED = ('add', 'sub', 'heldout', 'facts')
SCORES = {'math': ('add', 'sub'), 'facts': ('facts',), 'combined': ('add', 'sub', 'facts')}


def read_results(path):
    """A results.csv, ours or the paper's, as {column: float64 array of one number an evaluation}; NaN where blank.

    The keys are COLUMNS plus `add_acc`, `sub_acc` and `heldout_acc`. All accuracies are percent, computed from the
    counts. Raises UserError that names the file and the line.
    """
    header, lines = read_lines(path)
    missing = [column for column in NEEDED if column not in header]
    if missing:
        raise UserError(f'{path}: line 1 lacks the column {missing[0]}: give a results.csv of a training run')
    results = {column: np.full(len(lines), np.nan) for column in COLUMNS}
    for row, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise UserError(f'{path}: line {line} has {len(cells)} of {len(header)} fields: complete or delete it')
        for column, text in zip(header, cells):
            if column in results and text.strip():
                results[column][row] = parse_number(text, f'{path}: line {line}')
    check_rows(results, path, [line for line, _ in lines])
    return with_accuracies(results)


def read_lines(path):
    """The header's names and a list of (line number, cells), blank lines left out; UserError if there are none."""
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
        reader = csv.reader(io.StringIO(text), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}: train the run first or name another folder') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: line 1: this is no CSV text: give a results.csv of a training run') from error
    if lines and not text.endswith('\n') and len(lines[-1][1]) == len(lines[0][1]):    # its last number may lack digits
        raise UserError(f'{path}: line {reader.line_num} is cut off: complete or delete it')
    if len(lines) < 2:
        raise UserError(f'{path}: line {len(lines) + 1}: no evaluation here: train until the first one is written')
    return [name.strip() for name in lines[0][1]], lines[1:]


def parse_number(text, where):
    """The float that `text` spells."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f'{where}: expected a number, got {text!r}: {MEND}') from None


def check_rows(results, path, lines):
    """Iterations must rise, and nothing may be right more often than it was asked."""
    iters = results['iter']
    faults = {'iter is not above the one before': ~(np.diff(iters, prepend=-1) > 0)}
    for name in COUNTED:
        correct, total = results[f'{name}_correct'], results[f'{name}_total']
        possible = (0 <= correct) & (correct <= total) | np.isnan(correct) & np.isnan(total)
        faults[f'{name}_correct is not between 0 and {name}_total'] = ~possible
    for fault, rows in faults.items():
        if rows.any():
            raise UserError(f'{path}: line {lines[rows.argmax()]}: {fault}: {MEND}')


def with_accuracies(results):
    """`results` with every accuracy computed from its counts; 0 of 0 is no score, so it becomes NaN."""
    for name in COUNTED:
        blank = ~(results[f'{name}_total'] > 0)
        results[f'{name}_correct'][blank] = results[f'{name}_total'][blank] = np.nan
        results[f'{name}_acc'] = percent(results, [name])
    for score, parts in SCORES.items():
        asked = [part for part in parts if not np.isnan(results[f'{part}_total']).all()]
        results[f'{score}_acc'] = percent(results, asked or parts)
    return results


def percent(results, parts):
    """Percent right over all questions of these parts together."""
    return 100 * sum(results[f'{part}_correct'] for part in parts) / sum(results[f'{part}_total'] for part in parts)


def format_results(rows):
    """The CSV text of a list of {column: number}; None or absent is blank, floats read back exactly.

    Keys beyond COLUMNS are left out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows({column: format_number(value) for column, value in row.items()} for row in rows)
    return text.getvalue()


def format_number(value):
    """Python's shortest text that reads back as the same number, for NumPy's numbers too."""
    if value is None:
        return ''
    return str(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))


def best_row(results, score):
    """The first row with the highest `score` (of SCORES), whose checkpoint was kept. ValueError if there is none."""
    return int(np.nanargmax(results[f'{score}_acc']))


def last_row(results):
    """The row of the last evaluation."""
    return len(results['iter']) - 1


def find_seeds(folder):
    """The folders of one seed each with a results.csv: the folder itself, or those `seed_*` below it in order."""
    folder = Path(folder)
    if (folder / 'results.csv').exists():
        return [folder]
    found = [path.parent for path in folder.glob('seed_*/results.csv') if path.parent.name[5:].isdecimal()]
    return sorted(found, key=lambda seed: int(seed.name[5:]))


def stack_seeds(seeds):
    """Several seeds' results as {column: (R, T) array} over the T iterations that any of them has, NaN where a seed has
    none (it diverged before, or is not there yet); `iter` is (T,)."""
    iterations = functools.reduce(np.union1d, [seed['iter'] for seed in seeds])
    stacked = {column: np.full((len(seeds), len(iterations)), np.nan) for column in seeds[0]}
    for row, seed in enumerate(seeds):
        for column, values in seed.items():
            stacked[column][row, np.isin(iterations, seed['iter'])] = values
    return {**stacked, 'iter': iterations}


def read_info(folder):
    """What run.json says made a run; {} where there is none."""
    path = Path(folder) / 'run.json'
    try:
        return dict(json.loads(path.read_text(encoding='utf-8'))) if path.exists() else {}
    except (TypeError, ValueError) as error:
        raise UserError(f'{path}: damaged ({error}): delete it or train the run anew') from error


def mean_interval(values, level=0.95):
    """Mean of R independent values and the half width of its Student's t interval (NaN for R = 1)."""
    R, mean = len(values), float(np.mean(values))
    return mean, t_quantile(level, R - 1) * float(np.std(values, ddof=1)) / math.sqrt(R) if R > 1 else math.nan


def t_quantile(level, df):
    """The t with P(|T| <= t) = level for `df` (a whole number) degrees of freedom, by bisection of the angle."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, df) < level else (low, middle)
    return math.tan(low) * math.sqrt(df)


def t_within(theta, df):
    """P(|T| <= tan(theta) * sqrt(df)), exact: Abramowitz and Stegun, 26.7.3 (odd df) and 26.7.4 (even df)."""
    odd, total = df % 2, 0.0
    term = math.cos(theta) ** odd
    for power in range(odd, df - 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(theta)
    return (theta + total) * 2 / math.pi if odd else total


def wilson_interval(count, total, level=0.95):
    """Low and high end of Wilson's score interval for a share of `count` in `total`, both from 0 to 1."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    center = (count + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(count * (total - count) / total + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)
