"""The order of lines: floors of the loss compared with brute force, and how much of it a loss shows."""
import itertools
import math
from collections import Counter

import pytest
import torch

from conftest import TINY, run_script
from tbtt.evaluate import Losses
from tbtt.order import known_floor, order_of, unknown_floor
from tbtt.results import format_results, read_results
from tbtt.sweep.summary import seed_row
from tbtt.tasks import Arithmetic

TEXTS = [['ab\n', 'a\n', 'cab\n'], ['ab\n', 'ab\n', 'b\n', '\n'], ['abcdefgh\n', 'abc\n'],
         ['aa\n', 'ba\n', 'aaa\n']]


def shares(windows):
    """{window: weight} or a list of windows -> {window: its share}"""
    counts = Counter(windows)
    return {window: count / counts.total() for window, count in counts.items()}


class Knows:
    """A model that knows how frequent every window is and predicts each character from those before it in the
    window."""

    def __init__(self, windows):
        self.prefixes = Counter()
        for window, share in shares(windows).items():
            for k in range(1, len(window) + 1):
                self.prefixes[k, window[:k]] += share

    def loss(self, windows):
        """Mean loss over windows and over all their characters except the first."""
        def nats(window, k):
            return -math.log(self.prefixes[k + 1, window[:k + 1]] / self.prefixes[k, window[:k]])
        return sum(share * nats(window, k) / (len(window) - 1)
                   for window, share in shares(windows).items() for k in range(1, len(window)))


def windows_of(text, block_size):
    return [text[i:i + block_size + 1] for i in range(len(text) - block_size)]


def windows_without_order(lines, block_size):
    """{window: weight} over all sequences of lines, each read from every character of its first line on."""
    weights = Counter()
    for sequence in itertools.product(lines, repeat=block_size + 1):
        text = ''.join(sequence)
        weights.update(text[i:i + block_size + 1] for i in range(len(sequence[0])))
    return weights


@pytest.mark.parametrize('block_size', [1, 3, 4])
@pytest.mark.parametrize('lines', TEXTS, ids=str)
def test_the_floors_are_those_of_models_that_know_the_text_and_that_know_the_lines(lines, block_size):
    text = ''.join(lines * 2)
    known, unknown = windows_of(text, block_size), windows_without_order(lines, block_size)
    assert known_floor(text, block_size) == pytest.approx(Knows(known).loss(known), abs=1e-12)
    assert unknown_floor(lines, block_size) == pytest.approx(Knows(unknown).loss(unknown), abs=1e-12)


def test_no_model_is_below_the_floors():
    """The cross-entropy of another model is never below the entropy."""
    lines = TEXTS[0]
    known, unknown = windows_of(''.join(lines * 3), 3), windows_without_order(lines, 3)
    assert Knows(unknown).loss(known) > known_floor(''.join(lines * 3), 3)
    assert Knows([*unknown.elements(), 'ab\na']).loss(unknown) > unknown_floor(lines, 3)


def test_the_floors_of_arithmetic_are_the_published_ones(math_data):
    order = order_of(math_data.train, math_data.newline, 9)
    assert order.known == pytest.approx(0.5308, abs=5e-5) and order.unknown == pytest.approx(0.7667, abs=5e-5)


@pytest.mark.slow
def test_a_model_that_knows_the_lines_scores_0_and_one_that_knows_their_order_1():
    lines = Arithmetic(4, ((1, 3),)).lines()
    order = order_of(torch.tensor([ord(c) for c in ''.join(lines)]), 10, 9)
    text = windows_of(''.join(lines), 9)
    # A window of ten characters holds parts of at most two lines.
    any_order = Counter((one + other)[i:i + 10] for one in lines for other in lines for i in range(9))
    assert order.learned(Knows(any_order).loss(any_order)) == pytest.approx(0, abs=1e-9)
    assert order.learned(Knows(any_order).loss(text)) == pytest.approx(0, abs=0.02)    # for this one order
    assert order.learned(Knows(text).loss(text)) == pytest.approx(1, abs=1e-9)
    assert order.learned(math.log(17)) < -5


def test_the_other_order_has_the_same_lines_and_is_the_same_for_every_order(math_data):
    lines = math_data.train.view(-1, 9)
    orders = [order_of(data.flatten(), math_data.newline, 9) for data in (lines, lines.flip(0))]
    assert torch.equal(orders[0].other, orders[1].other) and not torch.equal(orders[0].other, math_data.train)
    assert sorted(orders[0].other.view(-1, 9).tolist()) == sorted(lines.tolist())
    assert orders[0].unknown == pytest.approx(orders[1].unknown, abs=1e-12)


def test_a_text_that_is_no_set_of_lines_has_no_order():
    line = torch.tensor([1, 2, 0])
    assert order_of(line.repeat(5), 0, 2) is None                     # all lines are equal
    assert order_of(torch.tensor([1, 0, 2]), 0, 1) is None            # no line end at the end
    assert order_of(line.repeat(5), None, 2) is None
    assert order_of(torch.randint(3, (2**16, )).index_fill(0, torch.tensor([2**16 - 1]), 0).repeat(2), 0,
                    2) is None
    assert order_of(torch.tensor([1, 0, 2, 0, 3, 0] * 9), 0, 2) is not None


@pytest.fixture(scope='module')
def runs(tmp_path_factory, small_math):
    folder = tmp_path_factory.mktemp('runs')
    for name, settings in {'any': {}, 'line': {'windows': 'line'}, 'sampled': {'eval_iters': 1}}.items():
        assert run_script('train_with_eval.py', dataset=small_math, out_dir=folder / name,
                          **{**TINY, **settings}) == 0
    return {path.name: read_results(path / 'results.csv') for path in folder.iterdir()}


def test_every_evaluation_says_how_much_of_the_order_is_learned(runs, small_math):
    results = runs['any']
    lines = Arithmetic(4, ((1, 3),)).lines()
    text = (small_math / 'train.txt').read_text()
    known, unknown = known_floor(text, 9), unknown_floor(lines, 9)
    assert results['order_learned'] == pytest.approx((unknown - results['train_loss']) / (unknown - known))
    # no order is learned yet
    assert results['other_order_loss'] == pytest.approx(results['train_loss'], rel=0.05)
    assert (results['other_order_loss'] != results['train_loss']).all()


@pytest.mark.parametrize('name', ['line', 'sampled'])
def test_it_is_blank_where_no_order_can_be_learned_or_the_loss_is_an_estimate(runs, name):
    for column in ('order_learned', 'other_order_loss'):
        assert all(map(math.isnan, runs[name][column]))


def test_losses_say_whether_they_are_exact():
    data = torch.zeros(30, dtype=torch.int32)
    assert Losses(None, 9, 21, 1, torch.tensor([1])).exact(data) and not Losses(None, 9, 20, 1,
                                                                                torch.tensor([1])).exact(data)


@pytest.mark.parametrize('answered, first, lost', [
    ([0, 2, 4, 3, 4, 1, 0], 500, 1250), ([0, 4, 0, 4], 250, None), ([4, 4], 0, None), ([4, 0], 0, 250),
    ([0, 3], None, None)])
def test_a_seeds_row_dates_when_the_rule_is_there_and_when_it_goes(tmp_path, answered, first, lost):
    rows = [{'iter': 250 * i, 'add_correct': 9, 'add_total': 10, 'sub_correct': 9, 'sub_total': 10,
             'heldout_correct': 10 * n, 'heldout_total': 40, 'heldout_answered': n, 'heldout_questions': 4,
             'train_loss': 1, 'val_loss': 1, 'order_learned': 0.1 * i, 'other_order_loss': 1 + i}
            for i, n in enumerate(answered)]
    (tmp_path / 'results.csv').write_text(format_results(rows))
    row = seed_row(tmp_path)
    assert (row.get('heldout_answered_iter'), row.get('heldout_lost_iter')) == (first, lost)
    assert row['order_learned'] == pytest.approx(0.1 * (len(rows) - 1))
    assert row['other_order_loss'] == len(rows)
