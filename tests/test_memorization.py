"""Task-gram and infinity-gram probabilities compared with looking at every document, and rank correlations
compared with scipy."""
import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from tbtt.dataset import Codec
from tbtt.trace.corpus import split
from tbtt.trace.counters import NumpyCounter
from tbtt.trace.examples import Example
from tbtt.trace.memorization import Statistics, correlate, draw_examples, one_sample, resampled
from tbtt.trace.ngrams import Characters
from tbtt.trace.sources import coefficients

ALPHABET = 'abcd\n'
TEXTS = st.text('abcd', min_size=1, max_size=6)


def statistics(documents, pairs, similar=None):
    codec = Codec.of_text(ALPHABET)
    ids = codec.encode(''.join(document + '\n' for document in documents))
    examples = [Example('made-up', question, answer, question) for question, answer in pairs]
    return Statistics(NumpyCounter(split(ids, codec.stoi['\n'])), Characters(codec), examples, similar)


def occurrences(text, part):
    """How often `part` occurs in `text`; overlapping places count."""
    return sum(text.startswith(part, i) for i in range(len(text)))


def windows(text, n):
    """The distinct n-grams of a text; a text shorter than n is one n-gram."""
    return list(dict.fromkeys(text[i:i + n] for i in range(max(1, len(text) - n + 1))))


def slow_task_gram(documents, question, gram, n):
    """The task-gram, by looking at every document for every pair. -> mean log-probability or None, pairs,
    pairs that share no document"""
    holding = [[document for document in documents if s1 in document] for s1 in windows(question, n)]
    shared = [(sum(gram in document for document in some), len(some)) for some in holding if some]
    log_p = [math.log((both or 0.5) / one) for both, one in shared]
    return sum(log_p) / len(log_p) if log_p else None, len(shared), sum(not both for both, _ in shared)


# Statistics of the data.

@given(st.lists(TEXTS, min_size=1, max_size=8), TEXTS, TEXTS, st.integers(1, 4))
def test_the_task_gram_is_a_share_of_documents(documents, question, answer, n):
    found, left_out = statistics(documents, [(question, answer)]).points(n)
    if set(windows(question, n)) & set(windows(answer, n)):
        assert found == [[]] and left_out == {'examples whose input and output share an n-gram': 1}
        return
    slow = {gram: slow_task_gram(documents, question, gram, n) for gram in windows(answer, n)}
    assert [point.gram for point in found[0]] == [gram
                                                  for gram, (mean, *_) in slow.items() if mean is not None]
    for point in found[0]:
        assert (point.task_gram, point.pairs, point.zero_pairs) == pytest.approx(slow[point.gram])
        assert point.documents == sum(point.gram in document for document in documents)
        assert answer[point.first:point.last] == point.gram and answer.index(point.gram) == point.first
    assert sum(left_out.values()) == len(slow) - len(found[0])


def test_a_documents_repeated_n_grams_count_once():
    (point,), = statistics(['aaab', 'ab', 'a', 'a'], [('a', 'b')]).points(1)[0]
    assert point.task_gram == pytest.approx(math.log(2 / 4)) and point.documents == 2


def test_the_infinity_gram_is_the_product_over_the_n_grams_tokens():
    (point,), = statistics(['ab', 'abc', 'abd', 'cd'], [('a', 'bc')]).points(2)[0]
    assert (point.infinity_gram, point.zero_tokens) == (pytest.approx(math.log(3 / 3 * 1 / 3)), 0)
    # no c follows ab: this counts as half an occurrence, of two
    (point,), = statistics(['ab', 'ab', 'cd'], [('a', 'bc')]).points(2)[0]
    assert (point.infinity_gram, point.zero_tokens) == (pytest.approx(math.log(0.5 / 2)), 1)


@given(st.lists(TEXTS, min_size=1, max_size=8), TEXTS, TEXTS, st.integers(1, 3))
def test_the_infinity_gram_of_an_n_gram_is_of_its_tokens_behind_all_that_stands_before(documents, question,
                                                                                       answer, n):
    text, whole = '\n' + '\n'.join(documents) + '\n', question + answer
    for point in statistics(documents, [(question, answer)]).points(n)[0][0]:
        expected = 0
        for i in range(len(question) + point.first, len(question) + point.last):
            context = next(whole[k:i] for k in range(i + 1) if whole[k:i] in text)
            below = occurrences(text, context) if context else len(text)
            expected += math.log((occurrences(text, context + whole[i]) or 0.5) / below)
        assert point.infinity_gram == pytest.approx(expected)


def test_documents_that_no_longer_fit_the_cache_are_found_again(monkeypatch):
    documents, pairs = ['ac', 'bcd', 'ad', 'abcd'], [('ab', 'cd'), ('b', 'dca'), ('ba', 'cc')]
    expected = statistics(documents, pairs).points(1)
    monkeypatch.setattr('tbtt.trace.memorization.CACHED', 1)
    found = statistics(documents, pairs)
    assert found.points(1) == expected and len(found.cache) == 1
    assert found.cached == sum(each.nbytes for each in found.cache.values())


def test_only_similar_pairs_are_kept():
    def similar(inputs, outputs):
        return np.array([[a == 'a' and b == 'c' for b in outputs] for a in inputs])

    found, left_out = statistics(['ac', 'bcd', 'ad'], [('ab', 'cd')], similar).points(1)
    (point,), = found
    assert (point.gram, point.pairs, point.task_gram) == ('c', 1, pytest.approx(math.log(1 / 2)))
    assert left_out == {'output n-grams without a similar n-gram in the input': 1}


# The coefficients.

def made_up(N, examples=20, seed=0):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 12, N).astype(float)    # with ties
    return data, data + 3 * rng.standard_normal(N), rng.integers(0, examples, N)


@pytest.mark.parametrize('limit', [0, 2048])
def test_a_bootstrap_sample_is_scored_as_scipy_scores_it(monkeypatch, limit):
    monkeypatch.setattr('tbtt.trace.memorization.MATRIX', limit)
    data, model, example = made_up(60)
    weights, which = draw_examples(example, seed=1, draws=30)
    assert (weights.sum(1) == len(set(example))).all() and (np.unique(example)[which] == example).all()
    found = resampled(data, model, weights, which)
    for d, w in enumerate(weights[:, which]):
        assert found[:, d] == pytest.approx(one_sample(np.repeat(data, w), np.repeat(model, w)), abs=1e-9)


def test_the_coefficients_are_scipys_and_the_interval_is_around_them():
    data, model, example = made_up(200)
    found = correlate(data, model[None], example, seed=0)
    for name, expected in (('spearman', scipy.stats.spearmanr(data, model)),
                           ('kendall', scipy.stats.kendalltau(data, model))):
        assert found[name]['coefficient'] == expected.statistic and found[name]['p'] == [expected.pvalue]
        low, high = found[name]['interval']
        assert low < expected.statistic < high and 0.05 < high - low < 0.6
    tau, generalization = found['kendall'], found['generalization']
    assert generalization['coefficient'] == (1 - tau['coefficient']) / 2
    assert generalization['interval'] == [(1 - tau['interval'][1]) / 2, (1 - tau['interval'][0]) / 2]


def test_intervals_are_over_examples_not_over_points():
    data, model, example = made_up(300, examples=300)
    alone = correlate(data, model[None], np.arange(300), seed=0)['spearman']['interval']
    copies = [np.repeat(values, 10) for values in (data[:30], model[:30], np.arange(30))]
    together = correlate(copies[0], copies[1][None], copies[2], seed=0)['spearman']['interval']
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_the_seed_decides_on_the_bootstrap_and_on_nothing_else():
    data, model, example = made_up(60)
    one, same, other = (correlate(data, model[None], example, seed) for seed in (1, 1, 2))
    assert one == same and one['spearman']['coefficient'] == other['spearman']['coefficient']
    for kind in ('spearman', 'kendall'):
        assert one[kind]['interval'] != other[kind]['interval']


@pytest.mark.parametrize('work, asked, draws',
                         [(10**9, 1000, 1000), (60 * 300, 1000, 300), (60, 1000, 200), (60, 50, 50)])
def test_many_points_are_drawn_less_often_and_it_is_said(monkeypatch, work, asked, draws):
    drawn = []
    monkeypatch.setattr('tbtt.trace.memorization.WORK', work)
    monkeypatch.setattr('tbtt.trace.memorization.draw_examples',
                        lambda *args: drawn.append(args[2]) or draw_examples(*args))
    data, model, example = made_up(60)
    assert correlate(data, model[None], example, seed=0, draws=asked)['draws'] == draws and drawn == [draws]


def test_seeds_are_averaged():
    data, model, example = made_up(100)
    found = correlate(data, np.stack([data, model, -data]), example, seed=0)['spearman']
    assert found['seeds'] == pytest.approx([1, scipy.stats.spearmanr(data, model).statistic, -1])
    assert found['coefficient'] == pytest.approx(np.mean(found['seeds']))


@pytest.mark.parametrize('data, model, says', [
    (np.arange(9.0), np.arange(9.0), '9 points are too few'),
    (np.zeros(20), np.arange(20.0), 'the data gives all points'),
    (np.arange(20.0), np.zeros(20), 'the model gives all points'),
    (np.arange(20.0), np.full(20, np.nan), 'not finite'), (np.zeros(0), np.zeros(0), '0 points')])
def test_what_has_no_correlation_is_said_and_not_computed(data, model, says):
    assert says in correlate(data, model[None], np.arange(len(data)), seed=0)['not computed']


@pytest.mark.slow
def test_a_model_that_is_the_task_gram_distribution_scores_1_and_a_shuffled_one_about_0():
    rng = np.random.default_rng(0)
    documents = [''.join(rng.choice(list('abcd'), 6, p=[0.1, 0.2, 0.3, 0.4])) for _ in range(200)]
    pairs = [(''.join(rng.choice(list('ab'), 5)), ''.join(rng.choice(list('cd'), 5))) for _ in range(150)]
    found, left_out = statistics(documents, pairs).points(2)
    points = [point for each in found for point in each]
    task_gram = np.array([point.task_gram for point in points])
    cell = coefficients(points, np.stack([task_gram]), left_out, seed=0)
    assert cell['task_gram']['spearman']['coefficient'] == pytest.approx(1)
    assert cell['task_gram']['generalization']['coefficient'] == pytest.approx(0)
    shuffled = coefficients(points, rng.permuted(task_gram)[None], left_out, seed=0)['task_gram']
    assert abs(shuffled['spearman']['coefficient']) < 0.12
    assert shuffled['generalization']['coefficient'] == pytest.approx(0.5, abs=0.06)
    assert cell['points'] == len(points) > 200 and cell['examples'] <= 150
