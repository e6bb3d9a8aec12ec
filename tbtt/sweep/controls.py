"""Our own claims, which the paper does not make: what the controls say about why the rule is lost. They are
judged in the same way as the paper's in `claims`."""
import numpy as np

from tbtt.results import answered_text
from tbtt.sweep.claims import (
    FAILS,
    HOLDS,
    TOO_FEW,
    Claim,
    Part,
    by_share,
    fewest_seeds,
    find_threshold,
    settled,
    values,
)
from tbtt.sweep.summary import PAIR, as_the_paper, row_of_paper

FITS = 90.0          # percent of the seen questions: a model that recalls so many has stored the table
ALL = answered_text(40, 40)    # the paper's held-out questions; any pair of two different numbers has as many
AT_MOST_ONE = 'at most 1 of 4'
LARGER = (20, 28, 40, 56)    # widths above the paper's smallest
SHUFFLED = {'answers': 'shuffled'}
WITHIN_LINES, FRESH = {'windows': 'line'}, {'line_order': 'fresh'}


def of_width(rows: list[dict], width: int | None, control: dict[str, str] | None = None) -> list[dict]:
    """The seeds of arithmetic that differ from the paper's n14 only in their width (None: any width) and in
    `control`, {column: value}."""
    control = control or {}
    data = {} if 'answers' in control else {'data': row_of_paper('math', 'n14')['data']}
    return [row for row in rows if as_the_paper(row, 'math', but=('n_embd', 'data', *control))
            and all(row.get(column) == value for column, value in {**control, **data}.items())
            and width in (None, row['n_embd'])]


def table_claim(rows: list[dict]) -> list[Part]:
    """Which models store a table that has no rule."""
    seen = {width: values(of_width(rows, width, SHUFFLED), 'last_seen') for width in (14, 28)}
    return [by_share('shuffled answers, n14', 'last', '', seen[14] < FITS, f'recall less than {FITS:g}%'),
            by_share('shuffled answers, n28', 'last', '', seen[28] >= FITS, f'recall {FITS:g}% or more')]


def first_claim(rows: list[dict]) -> list[Part]:
    """Whether larger models have the rule before they lose it."""
    return [part for width in LARGER for seeds in [of_width(rows, width)]
            for part in (by_share(f'n{width}', 'any', '', had(seeds), f'answer {ALL}'),
                         by_share(f'n{width}', 'last', '', lost(seeds), f'answer {AT_MOST_ONE}'))]


def had(seeds: list[dict]) -> np.ndarray:
    """Does each seed answer all held-out questions at some evaluation? -> (seeds,) bool"""
    return ~np.isnan(values(seeds, 'heldout_answered_iter'))


def lost(seeds: list[dict]) -> np.ndarray:
    """Does each seed answer at most one held-out question at the end? -> (seeds,) bool"""
    return values(seeds, 'last_heldout_answered') <= 1


def order_claim(rows: list[dict]) -> list[Part]:
    """Whether the rule is lost if every window has its own order of lines, so that there is none to learn."""
    return [by_share(f'n{width}, lines in fresh order', 'last', '', lost(of_width(rows, width, FRESH)),
                     f'answer {AT_MOST_ONE}') for width in (28, 56)]


def line_claim(rows: list[dict]) -> list[Part]:
    """Whether a larger model finds the rule if a window holds one line and nothing else."""
    return [by_share(f'n{width}, windows within a line', 'any', '', had(of_width(rows, width, WITHIN_LINES)),
                     f'answer {ALL}') for width in (28, 56)]


def spare_room_claim(rows: list[dict]) -> list[Part]:
    """Whether a model keeps the rule although it could store the table, if a window holds one line."""
    table, rule = of_width(rows, 14, SHUFFLED | WITHIN_LINES), of_width(rows, 14, WITHIN_LINES)
    return [by_share('shuffled answers, windows within a line, n14', 'last', '',
                     values(table, 'last_seen') >= FITS, f'recall {FITS:g}% or more'),
            by_share('n14, windows within a line', 'last', '', ~lost(rule), 'answer at least 2 of 4')]


def room_claim(rows: list[dict], resamples: int = 400) -> list[Part]:
    """Whether the size from which the table fits is the size from which the rule is lost."""
    return [compare_sizes(rows, "the paper's windows", {}, resamples),
            compare_sizes(rows, 'windows within a line', WITHIN_LINES, resamples)]


def compare_sizes(rows: list[dict], where: str, control: dict[str, str], resamples: int) -> Part:
    """The ratio of both sizes, in runs that differ from the paper's in `control`."""
    subject = f'size where the rule is lost over size where the table fits, {where}'
    table, rule = of_width(rows, None, SHUFFLED | control), of_width(rows, None, control)
    fitting = values(table, 'num_params'), (values(table, 'last_seen') >= FITS).astype(float), 1
    losing = values(rule, 'num_params'), values(rule, 'last_heldout') / 100, -1
    fits, loses = find_threshold(*fitting, resamples), find_threshold(*losing, resamples)
    if fits is None or loses is None:
        missing = 'table' if fits is None else 'rule'
        return Part(subject, '', '', f'no threshold of the {missing} yet', len(table), TOO_FEW)
    low, high = loses.low / fits.high, loses.high / fits.low
    verdict = FAILS if high < 1 or low > 1 else HOLDS if 0.5 <= low and high <= 2 else TOO_FEW
    ours = f'{loses.at / fits.at:.2f} ({low:.2f} to {high:.2f}): {loses} over {fits}'
    seeds = min(fewest_seeds(*fitting), fewest_seeds(*losing))
    return Part(subject, '', '', ours, seeds, settled(verdict, seeds))


def pairs_claim(rows: list[dict]) -> list[Part]:
    """Whether other held-out pairs behave as the paper's does."""
    parts = []
    # Only one pair of two different numbers, as in the paper: four questions, not two or eight.
    pairs = {row['heldout'] for row in rows if row['tasks'] == 'math' and row.get('heldout_questions') == 4}
    for pair in sorted(pairs - {PAIR, None}):
        for width in (14, 28):
            seeds = [row for row in rows if as_the_paper(row, 'math', but=('n_embd', 'data'))
                     and row['n_embd'] == width and row['heldout'] == pair]
            gone = lost(seeds)
            agrees, said = (gone, AT_MOST_ONE) if width == 28 else (~gone, 'at least 2 of 4')
            parts.append(by_share(f'n{width}, {pair} held out', 'last', '', agrees, f'answer {said}'))
    return parts


def judge_controls(rows: list[dict]) -> list[Claim]:
    """Our claims, from the rows of summaries."""
    return [
        Claim(6, "A table of results that are dealt out at random does not fit into n14; it fits into n28. "
              "(With the paper's windows.)", table_claim(rows),
              f'seeds of n14 that recall {FITS:g}% of it, or seeds of n28 that do not'),
        Claim(7, 'The rule comes first: larger models have it, and lose it.', first_claim(rows),
              'seeds that never answer all held-out questions, or that still answer two at the end'),
        Claim(8, 'The order of the lines is not what takes the rule away.', order_claim(rows),
              'seeds that keep the rule where there is no order to learn'),
        Claim(9, 'With one line per window, a larger model finds the rule. (First seen in 8 seeds of n28.)',
              line_claim(rows),
              'seeds that never answer all held-out questions there'),
        Claim(10, 'The rule is lost at the size from which the table fits, within a factor of two.',
              room_claim(rows), 'an interval of the ratio of the two sizes that excludes 1. The interval of '
              'a size is at least as wide as the gap between the two widths where its score passes one '
              'half, so changes between the same two widths cannot be told apart'),
        Claim(11, 'The pair is not the cause: with another held out, n14 keeps the rule and n28 does not.',
              pairs_claim(rows), 'seeds of n14 that lose another pair, or seeds of n28 that keep it'),
        Claim(12, 'Room for the table does not take the rule away: with one line per window n14 has that '
              'room, and keeps the rule. (First seen in 3 seeds.)', spare_room_claim(rows),
              f'seeds of n14 that recall less than {FITS:g}% of a table without a rule there, or that answer '
              'at most one held-out question')]
