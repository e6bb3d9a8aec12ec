"""The paper's claims against the seeds of sweeps: a verdict each, with numbers and intervals.

A claim is a list of parts, and each part is judged by itself: `holds` where every seed agrees (or an interval holds the
paper's number, or a test finds what is said), `does not hold` where none does, `holds in part` in between, and `not
enough runs` with fewer than MIN_SEEDS. The claim as a whole holds where all its parts do.
"""
import warnings
from typing import NamedTuple

import numpy as np

from tbtt import markdown, paper
from tbtt.command import study_package
from tbtt.summary import PAIR, TASKS

optimize, stats = study_package('scipy.optimize'), study_package('scipy.stats')

MIN_SEEDS, LEVEL = 3, 0.95
HOLDS, IN_PART, FAILS, TOO_FEW = 'holds', 'holds in part', 'does not hold', 'not enough runs'
ALL_FACTS = 99.95    # percent, printed as 100.0
SHAPES = {'n14': (1, 1, 14, 1), 'n28': (1, 1, 28, 1), 'n56': (1, 1, 56, 1), 'MLT': (6, 6, 384, 4)}
ACROSS = {'n_layer': 1, 'n_head': 1, 'mlp_expansion': 1}    # what a scan over widths keeps


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
        failing = ', '.join(f'{part.what}: {part.verdict}' for part in judged if part.verdict != HOLDS)
        if verdicts == {HOLDS}:
            return HOLDS if not missing else f'{TOO_FEW} for {", ".join(missing)}; the rest holds'
        said = FAILS if verdicts == {FAILS} else f'{IN_PART} ({failing})'
        return said + (f'; {TOO_FEW} for {", ".join(missing)}' if missing else '')


def select(rows, task, model, weight_decay=0.0):
    """The seeds of one of the paper's models: its shape, all iterations, the paper's held-out pair. MLT's own weight
    decay is 0.1 and its dropout 0.2, so `weight_decay` 0 asks for that."""
    layers, heads, width, expansion = SHAPES[model]
    decay, dropout = (0.1, 0.0 if weight_decay else 0.2) if model == 'MLT' else (weight_decay, 0.0)
    shape = {'n_layer': layers, 'n_head': heads, 'n_embd': width, 'mlp_expansion': expansion, 'dropout': dropout,
             'weight_decay': decay}
    return [row for row in scan(rows, task) if all(row.get(name) == value for name, value in shape.items())]


def scan(rows, task):
    """The seeds of a task that were trained as the paper trains, of any size."""
    return [row for row in rows if row['tasks'] == TASKS[task] and row.get('max_iters') == paper.ITERS
            and row.get('heldout') in (PAIR if task != 'facts' else '', None)]


def values(rows, column):
    """-> (seeds,) float array, NaN where blank"""
    return np.array([row.get(column) for row in rows], dtype=float)


def share(count, total):
    """6 of 6 seeds (61 to 100%), Wilson's interval."""
    low, high = stats.binomtest(int(count), int(total)).proportion_ci(LEVEL, method='wilson')
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
            parts.append(Part('facts n14', '8.2', text, len(seeds), HOLDS if low <= 8.2 <= high else FAILS,
                              scores))
    return parts


def joint_claim(rows, decay=0.0):
    parts = [part for model in paper.MODELS for part in heldout_parts(rows, 'both', model, decay, right=False)]
    joint, alone = (select(rows, task, 'n14', decay) for task in ('both', 'math'))
    scores = [(values(seeds, 'best_add') + values(seeds, 'best_sub')) / 2 for seeds in (joint, alone)]
    return parts + [compare('n14 joint below math alone', '35.3 below 100', *scores)]


def compare(what, said, lower, higher):
    """A part that says that one group of scores is below another: Welch's test, one-sided."""
    seeds = min(len(lower), len(higher))
    ours = ' below '.join(f'{np.mean(scores):.1f}' if len(scores) else '?' for scores in (lower, higher))
    if seeds < MIN_SEEDS:
        return Part(what, said, ours if len(lower) and len(higher) else '', seeds, TOO_FEW, lower)
    p = difference(lower, higher, 'less')
    return Part(what, said, f'{ours}, p = {p:.2g}', seeds, HOLDS if p < 1 - LEVEL else FAILS, lower)


def difference(one, other, alternative='two-sided'):
    """p of the hypothesis that two groups of seeds are alike: Fisher's exact test of shares (bool), Welch's of scores."""
    if one.dtype == bool:
        return stats.fisher_exact([[one.sum(), (~one).sum()], [other.sum(), (~other).sum()]], alternative).pvalue
    if np.ptp(one) == np.ptp(other) == 0:    # without any spread Welch's statistic is 0/0 or infinite
        alike = one[0] >= other[0] if alternative == 'less' else one[0] == other[0]
        return 1.0 if alike else 0.0
    with warnings.catch_warnings():    # of a group without spread, which is sound as long as the other has some
        warnings.simplefilter('ignore', RuntimeWarning)
        return stats.ttest_ind(one, other, equal_var=False, alternative=alternative).pvalue


def decay_claim(rows):
    """Every part of the first three claims with weight decay against the same part without."""
    parts = []
    for claim in (math_claim, facts_claim, joint_claim):
        for without, with_decay in zip(claim(rows), claim(rows, 0.1)):
            seeds = min(without.seeds, with_decay.seeds)
            ours = f'without: {without.ours or "no runs"}; with: {with_decay.ours or "no runs"}'
            verdict = TOO_FEW
            if seeds >= MIN_SEEDS:
                p = difference(without.sample, with_decay.sample)
                ours, verdict = f'{ours}; p = {p:.2g}', HOLDS if p >= 1 - LEVEL else FAILS
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


def threshold(sizes, shares, resamples=400, seed=0):
    """Where shares (seeds,) of 0 to 1 pass one half over sizes (seeds,) in parameters: a logistic fit in log-parameters,
    its interval by resampling the seeds of each size, and never narrower than the sizes between which the change lies.
    -> Threshold, slope; None where the sizes lie on one side of it, or are too few"""
    levels = np.unique(sizes)
    means = np.array([shares[sizes == level].mean() for level in levels])
    fewest = min(np.count_nonzero(sizes == level) for level in levels)
    if len(levels) < 2 or not means.min() < 0.5 < means.max() or fewest < MIN_SEEDS:
        return None
    x = np.log(sizes)
    at, slope = logistic_fit(x, shares)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(sizes == level) for level in levels]
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([random.choice(group, len(group)) for group in members])
        found.append(logistic_fit(x[chosen], shares[chosen])[0])
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above = means > 0.5
    change = np.flatnonzero(above[1:] != above[:-1])
    low, high = min(low, np.log(levels[change[0]])), max(high, np.log(levels[change[-1] + 1]))
    return Threshold(*np.exp([at, low, high]).tolist()), slope


def threshold_claim(rows):
    """Facts are recalled from some size on, the rule is lost from some size on."""
    parts = []
    for task, what, direction, column in (('facts', 'facts recalled above', 1, 'last_facts'),
                                          ('math', 'rule lost above', -1, 'last_heldout')):
        seeds = [row for row in scan(rows, task) if all(row.get(name) == value for name, value in ACROSS.items())
                 and not row['weight_decay']]
        sizes, shares = values(seeds, 'num_params'), values(seeds, column) / 100
        found = threshold(sizes, shares) if len(seeds) else None
        if found is None:
            parts.append(Part(what, 'a size', f'{len(np.unique(sizes))} sizes', len(seeds), TOO_FEW))
        else:
            parts.append(Part(what, 'a size', str(found[0]), len(seeds), HOLDS if found[1] * direction > 0 else FAILS))
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
            lines += [markdown.table(['', 'paper', 'ours', 'seeds', 'verdict'], rows), '']
    return '\n'.join([*lines, f'Shares with Wilson\'s {LEVEL:.0%} interval, means ± half of Student\'s, thresholds with that '
                              f'of a bootstrap over seeds; fewer than {MIN_SEEDS} seeds are not judged.'])
