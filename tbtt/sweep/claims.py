"""The paper's claims against the seeds of sweeps: a verdict each, with numbers and intervals.

A claim is a list of parts, and each part is judged by itself. Of what every seed should do: `holds` where all do, `does not
hold` where none does, `holds in part` in between. Of two numbers that should be alike: `holds` where the interval of their
difference lies within a margin, `does not hold` where it excludes zero. `not enough runs` where neither is so, and with
fewer than MIN_SEEDS. The claim as a whole holds where all its parts do.
"""
import warnings
from typing import NamedTuple

import numpy as np

from tbtt import figures, paper
from tbtt.cli import study_package
from tbtt.results import wilson_interval
from tbtt.sweep.summary import as_the_paper

optimize, stats = study_package('scipy.optimize'), study_package('scipy.stats')

MIN_SEEDS, LEVEL = 3, 0.95
HOLDS, IN_PART, FAILS, TOO_FEW = 'holds', 'holds in part', 'does not hold', 'not enough runs'
ALL_FACTS = 99.95    # percent, printed as 100.0
SCORE_MARGIN, SHARE_MARGIN = 3.0, 20.0    # percent of answers, and of seeds, that are called no difference
SHAPES = {'n14': (1, 1, 14, 1), 'n28': (1, 1, 28, 1), 'n56': (1, 1, 56, 1), 'MLT': (6, 6, 384, 4)}
ACROSS = {'n_layer': 1, 'n_head': 1, 'mlp_expansion': 1, 'dropout': 0.0, 'weight_decay': 0.0}    # in a scan over widths


class Part(NamedTuple):
    """One line of a verdict."""
    what: str
    paper: str
    ours: str
    seeds: int
    verdict: str
    sample: np.ndarray = None    # (seeds,) what was judged: bool, or scores


class Claim(NamedTuple):
    number: int
    text: str
    parts: list

    @property
    def verdict(self):
        """Of the parts together; those without enough runs are named."""
        judged = [part for part in self.parts if part.verdict != TOO_FEW]
        missing = [part.what for part in self.parts if part.verdict == TOO_FEW]
        verdicts = {part.verdict for part in judged}
        if not judged:
            return TOO_FEW
        if verdicts == {HOLDS}:
            return HOLDS if not missing else f'{TOO_FEW} for {", ".join(missing)}; the rest holds'
        said = FAILS if verdicts == {FAILS} else IN_PART
        return said + (f'; {TOO_FEW} for {", ".join(missing)}' if missing else '')


def select(rows, task, model, weight_decay=0.0):
    """The seeds of one of the paper's models: its shape, all iterations, the paper's held-out pair. MLT's own weight
    decay is 0.1 and its dropout 0.2, so `weight_decay` 0 asks for that."""
    layers, heads, width, expansion = SHAPES[model]
    decay, dropout = (0.1, 0.0 if weight_decay else 0.2) if model == 'MLT' else (weight_decay, 0.0)
    shape = {'n_layer': layers, 'n_head': heads, 'n_embd': width, 'mlp_expansion': expansion, 'dropout': dropout,
             'weight_decay': decay}
    return [row for row in rows if as_the_paper(row, task, model)
            and all(row.get(name) == value for name, value in shape.items())]


def values(rows, column):
    """-> (seeds,) float array, NaN where blank"""
    return np.array([row.get(column) for row in rows], dtype=float)


def share(count, total):
    """6 of 6 seeds (61 to 100%), Wilson's interval."""
    low, high = wilson_interval(count, total)
    return f'{count} of {total} seeds ({100 * low:.0f} to {100 * high:.0f}%)'


def mean(scores):
    """8.2 ± 1.3, half of Student's interval. -> text, low end, high end"""
    middle, error = np.mean(scores), stats.sem(scores)
    half = error * stats.t.ppf((1 + LEVEL) / 2, len(scores) - 1)
    return f'{middle:.1f} ± {half:.1f}', middle - half, middle + half


def by_share(what, said, agrees, text):
    """A part that each seed fulfils or not. agrees (seeds,) bool"""
    count, total = int(np.sum(agrees)), len(agrees)
    if total < MIN_SEEDS:
        return Part(what, said, f'{count} of {total} seeds {text}' if total else '', total, TOO_FEW, agrees)
    verdict = HOLDS if count == total else FAILS if count == 0 else IN_PART
    return Part(what, said, f'{share(count, total)} {text}', total, verdict, agrees)


def heldout_parts(rows, task, model, decay, right):
    """Two parts: at the evaluation that the paper reports, and at the last one. right: the share that is claimed, 0 or 1"""
    seeds = select(rows, task, model, decay)
    total = values(seeds, 'heldout_total')
    said = '40/40' if right else '0/40'
    return [by_share(f'{task} {model}, {when}', said, values(seeds, f'{when}_heldout_correct') == right * total, f'at {said}')
            for when in ('best', 'last')]


def math_claim(rows, decay=0.0):
    return [part for model in paper.MODELS for part in heldout_parts(rows, 'math', model, decay, right=model == 'n14')]


def facts_claim(rows, decay=0.0):
    parts = []
    for model in paper.MODELS:
        seeds = select(rows, 'facts', model, decay)
        scores = values(seeds, 'best_facts')
        if model != 'n14':
            parts.append(by_share(f'facts {model}', '100.0', scores >= ALL_FACTS, 'recall everything'))
        elif len(seeds) < MIN_SEEDS:
            parts.append(Part('facts n14', '8.2', ', '.join(f'{score:.1f}' for score in scores), len(seeds), TOO_FEW, scores))
        else:
            text, low, high = mean(scores)
            parts.append(Part('facts n14', '8.2', text, len(seeds), alike(low - 8.2, high - 8.2, SCORE_MARGIN), scores))
    return parts


def joint_claim(rows, decay=0.0):
    parts = [part for model in paper.MODELS for part in heldout_parts(rows, 'both', model, decay, right=False)]
    joint, alone = (select(rows, task, 'n14', decay) for task in ('both', 'math'))
    scores = [(values(seeds, 'best_add') + values(seeds, 'best_sub')) / 2 for seeds in (joint, alone)]
    return parts + [compare('n14 joint below math alone', '35.3 below 100', *scores)]


def alike(low, high, margin, careful=None):
    """The verdict on a difference of nothing, from its interval. careful: a wider one, which is asked whether there is one."""
    if -margin <= low and high <= margin:
        return HOLDS
    low, high = careful or (low, high)
    return FAILS if low > 0 or high < 0 else TOO_FEW


def compare(what, said, lower, higher):
    """A part that says that one group of scores is below another, by the interval of the difference."""
    seeds = min(len(lower), len(higher))
    ours = ' below '.join(f'{np.mean(scores):.1f}' if len(scores) else '?' for scores in (lower, higher))
    if seeds < MIN_SEEDS:
        return Part(what, said, ours if len(lower) and len(higher) else '', seeds, TOO_FEW, lower)
    low, high = difference(lower, higher, LEVEL)
    verdict = HOLDS if high < 0 else FAILS if low >= 0 else TOO_FEW
    return Part(what, said, f'{ours}, difference {low:+.1f} to {high:+.1f}', seeds, verdict, lower)


def difference(one, other, level):
    """The interval of the first group's mean less the second's, in percent: Newcombe's of two shares (bool; his method 10),
    Welch's of scores. -> low, high"""
    if one.dtype == bool:
        (p, a, b), (q, c, d) = ((group.mean(), *stats.binomtest(int(group.sum()), len(group)).proportion_ci(level, 'wilson'))
                                for group in (one, other))
        return 100 * (p - q - np.hypot(p - a, d - q)), 100 * (p - q + np.hypot(b - p, q - c))
    middle = one.mean() - other.mean()
    if np.ptp(one) == np.ptp(other) == 0:    # without any spread Welch's statistic is 0/0
        return middle, middle
    with warnings.catch_warnings():    # of a group without spread, which is sound as long as the other has some
        warnings.simplefilter('ignore', RuntimeWarning)
        interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(level)
    return interval.low, interval.high


def decay_claim(rows):
    """Every part of the first three claims with weight decay against the same part without."""
    parts = []
    pairs = [pair for claim in (math_claim, facts_claim, joint_claim) for pair in zip(claim(rows), claim(rows, 0.1))]
    careful = 1 - (1 - LEVEL) / len(pairs)    # Bonferroni: of so many comparisons one would look like a change by chance
    for without, with_decay in pairs:
        seeds = min(without.seeds, with_decay.seeds)
        ours = f'without: {without.ours or "no runs"}; with: {with_decay.ours or "no runs"}'
        verdict = TOO_FEW
        if seeds >= MIN_SEEDS:
            groups = with_decay.sample, without.sample
            low, high = difference(*groups, LEVEL)
            margin = SHARE_MARGIN if without.sample.dtype == bool else SCORE_MARGIN
            verdict = alike(low, high, margin, careful=difference(*groups, careful))
            ours += f'; change {low:+.0f} to {high:+.0f} points'
        parts.append(Part(without.what, 'no change', ours, seeds, verdict))
    return parts


class Threshold(NamedTuple):
    """A number of parameters at which a share passes one half, and its interval."""
    at: float
    low: float
    high: float

    def __str__(self):
        return f'{self.at:,.0f} parameters ({self.low:,.0f} to {self.high:,.0f})'


def logistic_fit(x, y):
    """The logistic curve in x through shares y in [0, 1], most likely under a weak prior on its slope (Cauchy with scale
    2.5 in units of the standard deviation of x: Gelman et al. 2008), which keeps it finite where the data are separated.
    -> (x at one half, slope)"""
    center, scale = x.mean(), x.std()
    z = (x - center) / scale

    def cost(parameters):
        at, slope = parameters
        t = slope * (z - at)
        return np.sum(np.logaddexp(0, t) - y * t) + np.log1p((slope / 2.5) ** 2)

    start = (0.0, 1.0 if np.dot(z, y) > 0 else -1.0)
    at, slope = optimize.minimize(cost, start, method='BFGS').x.tolist()
    return center + scale * at, slope / scale


def threshold(sizes, shares, direction, resamples=400, seed=0):
    """Where shares (seeds,) of 0 to 1 pass one half over sizes (seeds,) in parameters, rising (direction 1) or falling (-1): a
    logistic fit in log-parameters. Its interval resamples the seeds of each size, and is neither narrower than the sizes
    between which the change lies nor wider than those that were looked at. Sizes of fewer than MIN_SEEDS seeds do not count,
    nor, of what falls, those below the one with the highest share: where a rule is not learned yet it cannot be lost.
    -> Threshold, share of the resamples that change in that direction; None where the sizes lie on one side of it"""
    levels, count = np.unique(sizes, return_counts=True)
    levels = levels[count >= MIN_SEEDS]
    means = np.array([shares[sizes == level].mean() for level in levels])
    if direction < 0 and len(levels):
        levels, means = levels[means.argmax():], means[means.argmax():]
    if len(levels) < 2 or not means.min() < 0.5 < means.max():
        return None
    x = np.log(sizes)
    members = [np.flatnonzero(sizes == level) for level in levels]
    random = np.random.default_rng(seed)
    at, _ = logistic_fit(x[np.concatenate(members)], shares[np.concatenate(members)])
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([random.choice(group, len(group)) for group in members])
        found.append(logistic_fit(x[chosen], shares[chosen]))
    places, slopes = np.array(found).T
    low, high = np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above = means > 0.5
    change = np.flatnonzero(above[1:] != above[:-1])
    low, high = min(low, np.log(levels[change[0]])), max(high, np.log(levels[change[-1] + 1]))
    ends = np.exp(np.clip([at, low, high], np.log(levels[0]), np.log(levels[-1])))
    return Threshold(*ends.tolist()), float(np.mean(slopes * direction > 0))


def threshold_claim(rows):
    """Facts are recalled from some size on, the rule is lost from some size on."""
    parts = []
    for task, what, direction, score in (('facts', 'facts recalled above', 1, 'facts'),
                                         ('math', 'rule lost above', -1, 'heldout')):
        seeds = [row for row in rows if as_the_paper(row, task) and all(row[name] == ACROSS[name] for name in ACROSS)]
        for when in ('best', 'last'):
            sizes, shares = values(seeds, 'num_params'), values(seeds, f'{when}_{score}') / 100
            found = threshold(sizes, shares, direction)
            said = f'{what}, {when}'
            if found is None:
                parts.append(Part(said, 'a size', f'{len(np.unique(sizes))} sizes', len(seeds), TOO_FEW))
            else:
                sure = found[1] >= (1 + LEVEL) / 2
                parts.append(Part(said, 'a size', str(found[0]), len(seeds), HOLDS if sure else TOO_FEW))
    return parts


def judge(rows):
    """-> list of Claim, from the rows of summaries"""
    return [
        Claim(1, 'Arithmetic alone: n14 answers all held-out cases, the larger models none.', math_claim(rows)),
        Claim(2, 'Facts alone: n14 recalls 8.2%, the larger models everything.', facts_claim(rows)),
        Claim(3, 'Both: no size answers a held-out case, and n14 falls below its score on arithmetic alone.',
              joint_claim(rows)),
        Claim(4, 'Weight decay 0.1 without dropout changes none of this.', decay_claim(rows)),
        Claim(5, 'There is a size below which facts are not recalled, and one above which the rule is lost.',
              threshold_claim(rows))]


def report(claims):
    """The verdicts as a text for people; parts without a seed are only named in the verdict."""
    lines = []
    for claim in claims:
        lines += [f'**{claim.number}. {claim.text}** Verdict: {claim.verdict}.', '']
        parts = [part for part in claim.parts if part.seeds]
        if parts:
            rows = [[part.what, part.paper, part.ours, str(part.seeds), part.verdict] for part in parts]
            lines += [figures.markdown_table(['', 'paper', 'ours', 'seeds', 'verdict'], rows), '']
    notes = ('Best: at the evaluation that the paper reports.', f"Shares with Wilson's {LEVEL:.0%} interval, means ± half of",
             "Student's, thresholds with that of a bootstrap over seeds.", f'Called alike within {SCORE_MARGIN:g} points of',
             f'answers and {SHARE_MARGIN:g} of seeds; fewer than {MIN_SEEDS} seeds are not judged, diverged ones left out.')
    return '\n'.join([*lines, ' '.join(notes)])
