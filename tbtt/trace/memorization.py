"""Distributional memorization (Wang et al., arXiv 2407.14985): does a model give an answer the probability
that the statistics of its training data give it?

One rule for zeros: a count of zero in the numerator of a probability is replaced by half an occurrence. The
denominator is never zero: an n-gram of the input that does not occur in the corpus says nothing, and is left
out of the mean.
"""
import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

# scipy loads its parts, which takes a second, when they are first used.
import scipy

from tbtt.trace.counters import AnyCounter
from tbtt.trace.examples import Example
from tbtt.trace.ngrams import Language, Span, first_of_output, grams

Similar = Callable[[list[str], list[str]], np.ndarray]    # inputs, outputs -> (inputs, outputs) bool

FEWEST = 10           # points that a correlation needs at least
DRAWS = 1000          # samples of the bootstrap
WORK = 2 * 10**7      # most points of all draws together; with more there are fewer draws,
FEWEST_DRAWS = 200    # but not fewer than this
LEVEL = 95            # percent of the draws that lie in the interval
MATRIX = 2048         # up to so many points, all draws are computed at once
ZERO = 0.5            # replaces a count of zero
CACHED = 2**28        # bytes of document numbers that are kept
COEFFICIENTS = ('spearman', 'kendall')
# The two ways to get probabilities from the data.
DATA_MODELS = {'task_gram': 'task-gram', 'infinity_gram': 'infinity-gram'}


def computed(cell: dict, kind: str, name: str = 'spearman') -> dict | None:
    """A coefficient in a cell of trace.json (a model, task and n), or None if it was not computed."""
    return cell.get(kind, {}).get(name)


class Point(NamedTuple):
    """An n-gram of one example's output. Log-probabilities are natural logarithms."""
    example: int
    gram: str
    first: int              # its tokens are tokens first to last - 1 of the output
    last: int
    pairs: int              # n-grams of the input that it is paired with, if they occur in the corpus
    zero_pairs: int         # pairs that are never in one document together
    documents: int          # documents that contain it
    task_gram: float
    infinity_gram: float
    zero_tokens: int        # its tokens that the infinity-gram model considers impossible


class Statistics:
    """What a corpus says about examples. similar(inputs, outputs) -> (inputs, outputs) bool: which pairs are
    kept; None keeps all."""

    def __init__(self, counter: AnyCounter, language: Language, examples: Sequence[Example],
                 similar: Similar | None = None) -> None:
        self.counter, self.language, self.examples, self.similar = counter, language, examples, similar
        self.cache, self.cached = {}, 0    # every pair asks for its n-grams again; bytes in the cache
        self.answers = [Answer(counter, language, example) for example in examples]

    def documents(self, gram: str) -> np.ndarray:
        """The documents that contain an n-gram in any spelling: a sorted array without duplicates."""
        if gram in self.cache:
            return self.cache[gram]
        found = [self.counter.documents(tokens, self.language.whole(tokens))
                 for tokens in self.language.spellings(gram)]
        found = found[0] if len(found) == 1 else np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
        self.cache[gram] = found
        self.cached += found.nbytes
        while self.cached > CACHED and len(self.cache) > 1:
            self.cached -= self.cache.pop(next(iter(self.cache))).nbytes    # the oldest
        return found

    def points(self, n: int) -> tuple[list[list[Point]], dict[str, int]]:
        """-> a list of `Point` for each example, and the counts of what was left out, {why: how many}."""
        found, left_out = [], Counter()
        for i, example in enumerate(self.examples):
            inputs, outputs = (grams(text, n, self.language) for text in (example.input, example.output))
            found.append([])
            if not inputs or not outputs:
                left_out['examples without an n-gram'] += 1
            elif inputs.keys() & outputs.keys():
                left_out['examples whose input and output share an n-gram'] += 1
            else:
                found[-1], unpaired = self.example_points(i, list(inputs), outputs, n)
                left_out += unpaired
        return found, dict(left_out)

    def example_points(self, i: int, inputs: list[str], outputs: dict[str, Span],
                       n: int) -> tuple[list[Point], Counter]:
        """-> the points of example i, and what was left out. inputs: n-grams; outputs: {n-gram: its place}"""
        keep = np.ones((len(inputs), len(outputs)), bool)
        if self.similar:
            keep = self.similar(inputs, list(outputs))
        given = [self.documents(gram) for gram in inputs]
        points, left_out = [], Counter()
        for (gram, (start, end)), kept in zip(outputs.items(), keep.T):
            documents = self.documents(gram)
            first, last = self.answers[i].tokens_between(start, end)
            counts = [(overlap(each, documents), len(each))
                      for each, pair in zip(given, kept) if pair and len(each)]
            if first == last:
                left_out['output n-grams that the tokenizer drops'] += 1
            elif not kept.any():
                left_out['output n-grams without a similar n-gram in the input'] += 1
            elif not counts:
                left_out['output n-grams whose n-grams of the input do not occur in the corpus'] += 1
            else:
                log_p = [math.log((both or ZERO) / one) for both, one in counts]
                points.append(Point(i, gram, first, last, len(counts), sum(not both for both, _ in counts),
                                    len(documents), math.fsum(log_p) / len(log_p),
                                    float(self.answers[i].log_p[first:last].sum()),
                                    int(self.answers[i].zero[first:last].sum())))
        return points, left_out


class Answer:
    """The tokens of an example's output after its prompt, and their infinity-gram probabilities.

    log_p: (tokens,) natural logarithms. zero: (tokens,) bool, the tokens that never follow their context.
    """

    def __init__(self, counter: AnyCounter, language: Language, example: Example) -> None:
        self.ids, spans = language.encode(example.prompt + example.output)
        self.start = first_of_output(spans, example)
        self.spans = [(a - len(example.prompt), b - len(example.prompt)) for a, b in spans[self.start:]]
        counts = [infinity_gram(counter, self.ids, i) for i in range(self.start, len(self.ids))]
        self.log_p = np.array([math.log((there or ZERO) / context) for there, context in counts])
        self.zero = np.array([not there for there, _ in counts])

    def tokens_between(self, start: int, end: int) -> Span:
        """The tokens of the characters start to end - 1 of the output: the first, and the last + 1. Both are
        equal if there are no tokens."""
        inside = [i for i, (a, b) in enumerate(self.spans) if a < end and b > start]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)


def infinity_gram(counter: AnyCounter, ids: Sequence[int], i: int) -> tuple[int, int]:
    """The context of token i is the longest suffix of the tokens before it that occurs in the corpus. -> how
    often the token follows its context, and how often the context occurs. The end of a document is a token
    too."""
    length = bisect.bisect_left(range(1, i + 1), True, key=lambda n: not counter.count(tuple(ids[i - n:i])))
    return counter.count(tuple(ids[i - length:i + 1])), counter.count(tuple(ids[i - length:i]))


def overlap(one: np.ndarray, other: np.ndarray) -> int:
    """How many elements two sorted arrays without duplicates have in common."""
    if len(one) > len(other):
        one, other = other, one
    places = np.searchsorted(other, one)
    return int((other[np.minimum(places, len(other) - 1)] == one).sum()) if len(other) else 0


def correlate(data: np.ndarray, models: np.ndarray, example: np.ndarray, seed: int,
              draws: int = DRAWS) -> dict[str, Any]:
    """Rank correlations between log-probabilities of N points by the data, (N,), and by S seeds of a model,
    (S, N).

    example: (N,) the example of each point. -> {'spearman', 'kendall', 'generalization': {'coefficient': mean
    over the seeds, 'interval': of it, 'seeds': each}, ...}. 'p' of each seed is scipy's, which treats points
    as independent. The interval has the percentiles of a bootstrap over examples with all their points.
    Or -> {'not computed': why}.
    """
    if len(data) < FEWEST:
        return {'not computed': f'{len(data)} points are too few, {FEWEST} are needed'}
    if len(np.unique(example)) < 2:    # the bootstrap draws examples
        return {'not computed': 'all points are of one example'}
    for values, whose in [(data, 'the data'), *((model, 'the model') for model in models)]:
        if not np.isfinite(values).all():
            return {'not computed': f'a log-probability by {whose} is not finite'}
        if np.ptp(values) == 0:
            return {'not computed': f'{whose} gives all points the same probability'}
    draws = max(min(draws, FEWEST_DRAWS), min(draws, WORK // len(data)))
    weights, which = draw_examples(example, seed, draws)
    exact = [[scipy.stats.spearmanr(data, model), scipy.stats.kendalltau(data, model)] for model in models]
    drawn = np.mean([resampled(data, model, weights, which) for model in models], axis=0)    # (2, draws)
    found = {name: {'coefficient': float(np.mean([each[i].statistic for each in exact])),
                    'interval': np.nanpercentile(drawn[i], [50 - LEVEL / 2, 50 + LEVEL / 2]).tolist(),
                    'seeds': [float(each[i].statistic) for each in exact],
                    'p': [float(each[i].pvalue) for each in exact]}
             for i, name in enumerate(COEFFICIENTS)}
    kendall = found['kendall']
    return found | {'draws': draws, 'generalization': {'coefficient': (1 - kendall['coefficient']) / 2,
                                       'interval': [(1 - tau) / 2 for tau in reversed(kendall['interval'])],
                                       'seeds': [(1 - tau) / 2 for tau in kendall['seeds']]}}


def draw_examples(example: np.ndarray, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples: E examples drawn with replacement from the E examples. -> how often each example is
    in each sample: (draws, E), and the example of each point: (N,)"""
    which = np.unique(example, return_inverse=True)[1]
    E = which.max() + 1
    return np.random.default_rng(seed).multinomial(E, np.full(E, 1 / E), size=draws), which


def resampled(x: np.ndarray, y: np.ndarray, weights: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Spearman's and Kendall's (tau-b) coefficients of samples. Sample d contains point i
    weights[d, which[i]] times. -> (2, draws), NaN where x or y is constant"""
    with np.errstate(divide='ignore', invalid='ignore'):
        if len(x) > MATRIX:    # all pairs of points would be too many
            return np.array([one_sample(np.repeat(x, w[which]), np.repeat(y, w[which])) for w in weights]).T
        w = weights[:, which].astype(np.float32)    # exact: all sums are whole numbers below 2^24
        a, b = (np.sign(z[:, None] - z).astype(np.float32) for z in (x, y))
        # For each point, twice its rank minus the mean rank.
        ranks = [(w @ sign.T).astype(float) for sign in (a, b)]
        pairs = [(w * (w @ matrix)).sum(1, dtype=float) for matrix in (a * b, abs(a), abs(b))]
        squares = [(w * one * other).sum(1) for one, other in (ranks, ranks[:1] * 2, ranks[1:] * 2)]
        return np.array([each[0] / np.sqrt(each[1] * each[2]) for each in (squares, pairs)])


def one_sample(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's and Kendall's (tau-b) coefficients of points (N,); NaN where x or y is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, np.nan
    return scipy.stats.spearmanr(x, y).statistic, scipy.stats.kendalltau(x, y).statistic
