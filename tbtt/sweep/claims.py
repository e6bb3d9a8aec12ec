"""The paper's claims against the seeds of sweeps: a verdict for each, with numbers and intervals.

A claim is a list of parts, and each part is judged by itself:
- If every seed should do something, by Wilson's interval of the share of seeds that do it. The part `holds`
  if the lower end is above 80%, and `does not hold` if the upper end is below 50%.
- If two numbers should be alike, by the interval of their difference. The part `holds` if the interval is
  within a margin, and `does not hold` if it excludes zero.
- If something should change at a size, by a fit over at least four sizes, two on each side of the change.
If there are only a few seeds, the verdict is `agree so far` or `disagree so far` instead. Fewer than
MIN_SEEDS seeds are `not enough runs`.
"""
from typing import NamedTuple

import numpy as np

from tbtt import paper
from tbtt.figures import markdown_table
from tbtt.results import answered_text
from tbtt.stats import (
    LEVEL,
    Threshold,
    mean_interval,
    newcombe_interval,
    threshold,
    welch_interval,
    wilson_interval,
)
from tbtt.sweep.summary import as_the_paper

MIN_SEEDS = 3      # fewer are not judged
SURE_SEEDS = 6     # fewer all say the same by chance more often than once in twenty: 2 / 2**5
# Shares of seeds: a claim about every seed holds above the first, and does not hold below the second.
NEARLY_ALL, HALF = 0.8, 0.5
MIN_SIZES, MIN_SIDE = 4, 2     # sizes that a threshold needs, in all and on each side
ALL_FACTS = 99.95    # percent, printed as 100.0
SCORE_MARGIN, SHARE_MARGIN = 3.0, 20.0    # points of answers, and of seeds, that count as no difference
HOLDS, AGREE, IN_PART, DISAGREE, FAILS, TOO_FEW = ('holds', 'agree so far', 'holds in part',
                                                   'disagree so far', 'does not hold', 'not enough runs')
SENTENCES = {HOLDS: 'It holds for {}.', AGREE: 'The few seeds agree so far for {}.',
             IN_PART: 'Some seeds agree and some do not for {}.',
             DISAGREE: 'The few seeds disagree so far for {}.',
             FAILS: 'It does not hold for {}.', TOO_FEW: 'There are not enough runs for {}.'}
EVALUATIONS = ('best', 'last')    # the evaluation that the paper reports, and the last one


class Part(NamedTuple):
    """One line of a verdict. when: the evaluation that is judged, such as `best`, or ''."""
    subject: str
    when: str
    paper: str
    ours: str
    seeds: int
    verdict: str
    sample: np.ndarray = None    # (seeds,) what was judged: bool, or scores

    @property
    def name(self) -> str:
        """The part in the table, and its key among the parts of a claim."""
        return f'{self.subject}, {self.when}' if self.when else self.subject

    @property
    def said(self) -> str:
        """The verdict in the table."""
        return f'{self.verdict} ({self.seeds} seeds)' if self.verdict in (AGREE, DISAGREE) else self.verdict


class Claim(NamedTuple):
    """A sentence of the paper or of ours, and its parts. refuted: for ours, what would have refuted it"""
    number: int
    text: str
    parts: list[Part]
    refuted: str = ''

    @property
    def verdict(self) -> str:
        """The verdict of all parts together, without those that have not enough runs."""
        verdicts = {part.verdict for part in self.parts} - {TOO_FEW}
        if len(verdicts) < 2:
            return verdicts.pop() if verdicts else TOO_FEW
        return AGREE if verdicts == {HOLDS, AGREE} else DISAGREE if verdicts == {FAILS, DISAGREE} else IN_PART

    @property
    def sentences(self) -> str:
        """The verdict, and which parts have which verdict."""
        if self.verdict == TOO_FEW:
            return f'Verdict: {TOO_FEW}.'
        missing = any(part.verdict == TOO_FEW for part in self.parts)
        found = [f'Verdict: {self.verdict}{", as far as there are runs" if missing else ""}.']
        for verdict, sentence in SENTENCES.items():
            parts = [part for part in self.parts if part.verdict == verdict]
            if parts:
                found.append(sentence.format(named(parts)))
        return ' '.join(found)


def named(parts: list[Part]) -> str:
    """Parts in words: math n14 (best and last evaluation) and math n28 (last evaluation)."""
    subjects = {}
    for part in parts:
        subjects.setdefault(part.subject, []).append(part.when)
    return listed([f'{subject} ({listed(when)} evaluation)' if any(when) else subject
                   for subject, when in subjects.items()])


def listed(words: list[str]) -> str:
    """a, b and c"""
    return ' and '.join([*([', '.join(words[:-1])] if words[1:] else []), words[-1]])


def select(rows: list[dict], experiment: str, model: str, wd: bool = False) -> list[dict]:
    """The seeds that have the model and all training settings of one of the paper's runs."""
    return [row for row in rows if as_the_paper(row, experiment, model, wd)]


def values(rows: list[dict], column: str) -> np.ndarray:
    """-> (seeds,) float array, NaN where blank"""
    return np.array([row.get(column) for row in rows], dtype=float)


def settled(verdict: str, seeds: int) -> str:
    """The verdict, changed to `agree so far` or `disagree so far` if there are few seeds."""
    return {HOLDS: AGREE, FAILS: DISAGREE}.get(verdict, verdict) if seeds < SURE_SEEDS else verdict


def by_share(subject: str, when: str, said: str, agrees: np.ndarray, text: str) -> Part:
    """A part that each seed either fulfils or not. agrees: (seeds,) bool"""
    count, total = int(np.sum(agrees)), len(agrees)
    if total < MIN_SEEDS:
        ours = f'{count} of {total} seeds {text}' if total else ''
        return Part(subject, when, said, ours, total, TOO_FEW, agrees)
    low, high = wilson_interval(count, total)
    verdict = IN_PART
    if low > NEARLY_ALL or count == total:
        verdict = HOLDS if low > NEARLY_ALL else AGREE
    elif high < HALF or count == 0:
        verdict = settled(FAILS, total) if high < HALF else DISAGREE
    ours = f'{count} of {total} seeds ({100 * low:.0f} to {100 * high:.0f}%) {text}'
    return Part(subject, when, said, ours, total, verdict, agrees)


def agrees_on_heldout(seeds: list[dict], when: str, right: bool) -> np.ndarray:
    """Does each seed answer all held-out questions (right), or none? -> (seeds,) bool

    An older file may not say how many questions are answered, and its counts may leave that open. Then all of
    its answers, or none, must be right.
    """
    answered, correct = (values(seeds, f'{when}_heldout_{what}') for what in ('answered', 'correct'))
    questions, total = values(seeds, 'heldout_questions'), values(seeds, 'heldout_total')
    return np.where(np.isnan(answered), correct == total * right, answered == questions * right)


def heldout_parts(rows: list[dict], experiment: str, model: str, wd: bool) -> list[Part]:
    """Two parts, one for each evaluation: the paper's model answers all held-out questions, or none."""
    seeds = select(rows, experiment, model, wd)
    correct, total = paper.published_heldout(experiment, model)
    questions = answered_text(correct, total)
    return [by_share(f'{experiment} {model}', when, f'{correct}/{total} ({questions})',
                     agrees_on_heldout(seeds, when, correct == total), f'answer {questions}')
            for when in EVALUATIONS]


def math_claim(rows: list[dict], wd: bool = False) -> list[Part]:
    """Which models answer the held-out questions when trained on arithmetic alone."""
    return [part for model in paper.MODELS for part in heldout_parts(rows, 'math', model, wd)]


def facts_claim(rows: list[dict], wd: bool = False) -> list[Part]:
    """How many facts the models recall: everything, or the paper's number."""
    parts = []
    for model in paper.MODELS:
        scores = values(select(rows, 'facts', model, wd), 'best_facts')
        said = paper.published_percent('facts', model, 'facts')
        if said >= ALL_FACTS:
            parts.append(by_share(f'facts {model}', '', f'{said:.1f}', scores >= ALL_FACTS,
                                  'recall everything'))
        else:
            parts.append(compare_with_number(f'facts {model}', said, scores))
    return parts


def joint_claim(rows: list[dict], wd: bool = False) -> list[Part]:
    """What is lost when both tasks are trained together."""
    parts = [part for model in paper.MODELS for part in heldout_parts(rows, 'both', model, wd)]
    joint, alone = (select(rows, experiment, 'n14', wd) for experiment in ('both', 'math'))
    scores = [(values(seeds, 'best_add') + values(seeds, 'best_sub')) / 2 for seeds in (joint, alone)]
    said = [np.mean([paper.published_percent(experiment, 'n14', score) for score in ('add', 'sub')])
            for experiment in ('both', 'math')]
    return [*parts,
            compare('arithmetic of n14, joint below alone', '{:.1f} below {:.1f}'.format(*said), *scores)]


def compare_with_number(subject: str, said: float, scores: np.ndarray) -> Part:
    """A part that says that scores are close to the paper's number `said`, by the interval of their mean."""
    if len(scores) < MIN_SEEDS:
        return Part(subject, '', f'{said:g}', ', '.join(f'{score:.1f}' for score in scores), len(scores),
                    TOO_FEW, scores)
    middle, half = mean_interval(scores)
    verdict = settled(alike(middle - half - said, middle + half - said, SCORE_MARGIN), len(scores))
    return Part(subject, '', f'{said:g}', f'{middle:.1f} ± {half:.1f}', len(scores), verdict, scores)


def alike(low: float, high: float, margin: float, careful: tuple[float, float] | None = None) -> str:
    """The verdict on the claim that a difference is zero, from its interval. careful: a wider interval, which
    decides whether there is a difference."""
    if -margin <= low and high <= margin:
        return HOLDS
    low, high = careful or (low, high)
    return FAILS if low > 0 or high < 0 else TOO_FEW


def compare(subject: str, said: str, lower: np.ndarray, higher: np.ndarray) -> Part:
    """A part that says that one group of scores is below another, by the interval of the difference."""
    seeds = min(len(lower), len(higher))
    ours = ' below '.join(f'{np.mean(scores):.1f}' if len(scores) else '?' for scores in (lower, higher))
    if seeds < MIN_SEEDS:
        return Part(subject, '', said, ours if seeds else '', seeds, TOO_FEW, lower)
    low, high = welch_interval(lower, higher)
    verdict = HOLDS if high < 0 else FAILS if low >= 0 else TOO_FEW
    return Part(subject, '', said, f'{ours}, difference {low:+.1f} to {high:+.1f}', seeds,
                settled(verdict, seeds), lower)


def difference(one: np.ndarray, other: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The interval of the first group's mean minus the second's, in percent: Newcombe's for two shares
    (bool), Welch's for scores. -> low, high"""
    if one.dtype == bool:
        low, high = newcombe_interval(one, other, level)
        return 100 * low, 100 * high
    return welch_interval(one, other, level)


def decay_claim(rows: list[dict]) -> list[Part]:
    """Every part of the first three claims with weight decay, compared with the same part without it."""
    without, with_decay = ({part.name: part for claim in (math_claim, facts_claim, joint_claim)
                            for part in claim(rows, wd)}
                           for wd in (False, True))
    # Bonferroni: among so many comparisons, one would look like a change by chance.
    careful = 1 - (1 - LEVEL) / len(without)
    return [change(part, with_decay[name], careful) for name, part in without.items()]


def change(without: Part, with_decay: Part, careful: float) -> Part:
    """A part that says that weight decay makes no difference. careful: the level of the interval that must
    exclude zero to count as a difference"""
    seeds, verdict = min(without.seeds, with_decay.seeds), TOO_FEW
    ours = f'without: {without.ours or "no runs"}; with: {with_decay.ours or "no runs"}'
    if seeds >= MIN_SEEDS:
        low, high = difference(with_decay.sample, without.sample)
        margin = SHARE_MARGIN if without.sample.dtype == bool else SCORE_MARGIN
        verdict = settled(alike(low, high, margin, difference(with_decay.sample, without.sample, careful)),
                          seeds)
        ours += f'; change {low:+.0f} to {high:+.0f} points'
    return Part(without.subject, without.when, 'no change', ours, seeds, verdict)


def sizes_that_count(sizes: np.ndarray, shares: np.ndarray, direction: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes in parameters that have at least MIN_SEEDS seeds, smallest first, and their mean shares:
    (levels,) each. sizes, shares: (seeds,). direction: 1 if shares should rise, -1 if they should fall

    If shares should fall, a size below the one with the highest share counts only if it and all sizes between
    them are above one half: a rule that is not learned yet cannot be lost.
    """
    levels, count = np.unique(sizes, return_counts=True)
    levels = levels[count >= MIN_SEEDS]
    means = np.array([shares[sizes == level].mean() for level in levels])
    if direction < 0 and len(levels):
        first = means.argmax()
        while first and means[first - 1] > 0.5:
            first -= 1
        levels, means = levels[first:], means[first:]
    return levels, means


def fewest_seeds(sizes: np.ndarray, shares: np.ndarray, direction: int) -> int:
    """How many seeds the counted size with the fewest has. Arguments as in `sizes_that_count`"""
    levels, _ = sizes_that_count(sizes, shares, direction)
    return min(int(np.sum(sizes == level)) for level in levels)


def find_threshold(sizes: np.ndarray, shares: np.ndarray, direction: int,
                   resamples: int = 400) -> Threshold | None:
    """The size at which shares pass one half; None with too few sizes in all or on one side of it. Arguments
    as in `sizes_that_count`"""
    levels, means = sizes_that_count(sizes, shares, direction)
    above = int(np.sum(means > 0.5))
    if len(levels) < MIN_SIZES or min(above, len(levels) - above) < MIN_SIDE:
        return None
    counts = np.isin(sizes, levels)
    return threshold(sizes[counts], shares[counts], direction, resamples)


def threshold_claim(rows: list[dict]) -> list[Part]:
    """Facts are recalled from some size on, and the rule is lost from some size on."""
    return [threshold_part(rows, experiment, subject, when, direction, score)
            for experiment, subject, direction, score in (
                ('facts', 'the size from which facts are recalled', 1, 'facts'),
                ('math', 'the size from which the rule is lost', -1, 'heldout')) for when in EVALUATIONS]


def threshold_part(rows: list[dict], experiment: str, subject: str, when: str, direction: int,
                   score: str) -> Part:
    """A part that says that there is such a size."""
    seeds = [row for row in rows if as_the_paper(row, experiment, but=('n_embd',))]
    sizes, shares = values(seeds, 'num_params'), values(seeds, f'{when}_{score}') / 100
    found = find_threshold(sizes, shares, direction)
    if found is None:
        levels, means = sizes_that_count(sizes, shares, direction)
        above = int(np.sum(means > 0.5))
        ours = (f'{above} sizes above one half, {len(levels) - above} below; needed are {MIN_SIZES}, '
                f'{MIN_SIDE} on each '
                f'side') if len(levels) else ''
        return Part(subject, when, 'a size', ours, len(seeds), TOO_FEW)
    fewest = fewest_seeds(sizes, shares, direction)
    verdict = settled(HOLDS, fewest) if found.sure >= (1 + LEVEL) / 2 else TOO_FEW
    return Part(subject, when, 'a size', str(found), fewest, verdict)


def judge(rows: list[dict]) -> list[Claim]:
    """The paper's five claims, from the rows of summaries."""
    recalled = paper.published_percent('facts', 'n14', 'facts')
    return [
        Claim(1, 'Arithmetic alone: n14 answers all held-out questions, the larger models none.',
              math_claim(rows)),
        Claim(2, f'Facts alone: n14 recalls {recalled:g}%, the larger models everything.', facts_claim(rows)),
        Claim(3,
              'Both: no size answers a held-out question, and n14 falls below its score on arithmetic alone.',
              joint_claim(rows)),
        Claim(4, 'Weight decay 0.1 without dropout changes none of this.', decay_claim(rows)),
        Claim(5, 'There is a size below which facts are not recalled, and one above which the rule is lost.',
              threshold_claim(rows))]


def report(claims: list[Claim]) -> str:
    """The verdicts as a text for readers. Parts without a seed are named only in the verdict."""
    lines = []
    for claim in claims:
        lines += [f'**Claim {claim.number}: {claim.text}** {claim.sentences}', '']
        parts = [part for part in claim.parts if part.seeds]
        if claim.refuted:
            lines += [f'It would have been refuted by: {claim.refuted}.', '']
        if parts:
            lines += [table_of(parts), '']
    return '\n'.join([*lines, NOTES])


def table_of(parts: list[Part]) -> str:
    """The parts of a claim as a table, without the paper's column if the paper says nothing about them."""
    heads = ['', 'paper', 'ours', 'seeds', 'verdict']
    rows = [[part.name, part.paper, part.ours, str(part.seeds), part.said] for part in parts]
    if not any(part.paper for part in parts):
        heads, *rows = [[row[0], *row[2:]] for row in (heads, *rows)]
    return markdown_table(heads, rows)


NOTES = (
    f'Best: at the evaluation that the paper reports. Last: at the last evaluation. Each held-out question '
    f'is asked ten times, and counts as answered with six right answers. Shares of seeds have intervals of '
    f"Wilson ({LEVEL:.0%}), means have ± half of Student's, thresholds those of a bootstrap over seeds. A "
    f'claim about every seed holds if the lower end is above {NEARLY_ALL:.0%} of the seeds, and does not '
    f'hold if the upper end is below {HALF:.0%}. Seeds that all say the same, but are too few for this, '
    f'agree or disagree so far; so do fewer than {SURE_SEEDS} seeds in any comparison. Fewer than '
    f'{MIN_SEEDS} are not judged. For a threshold, the seeds of the size with the fewest are counted; it '
    f'needs {MIN_SIZES} sizes, {MIN_SIDE} on each side. Differences up to {SCORE_MARGIN:g} points of '
    f'answers, or {SHARE_MARGIN:g} of seeds, count as none. Diverged seeds are left out.')
