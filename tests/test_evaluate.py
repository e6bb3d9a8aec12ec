"""Measuring: models whose answers are known, a slow evaluator, and probabilities and losses computed the
naive way."""
import re

import numpy as np
import pytest
import torch

from conftest import equal_weights, new_engine, tiny_config, train, weights
from tbtt.baseline import NanoGPT, slice_batch
from tbtt.cli import UserError
from tbtt.evaluate import AnswerWindows, DataLosses, Evaluator, Losses
from tbtt.replicas import Replicas
from tbtt.rng import ANSWERS, gumbel
from tbtt.tasks import Arithmetic, Capitals

SMALL = Arithmetic(max_operand=4, heldout=((1, 3),))
TINY = Arithmetic(max_operand=2, heldout=((1, 2),))
FACTS = Capitals([('France', 'Paris'), ('the USA', 'Washington'), ('Japan', 'Tokyo'), ('Italy', 'Rome')])


class Script:
    """A model that continues each prompt with the given texts. One text is certain, several are a tie.

    answers: {prompt: texts}. Where several texts continue a context, their logits differ by 1e-4, which is
    negligible even at temperature 0.01. The logits of all other characters are far lower, and no two of them
    are equal."""

    def __init__(self, codec, answers, block_size):
        self.codec, self.next = codec, {}
        for prompt, texts in answers.items():
            for rank, text in enumerate(texts):
                for at in range(len(prompt), len(prompt + text)):
                    context = (prompt + text)[max(0, at - block_size):at]
                    self.next.setdefault(context, {}).setdefault((prompt + text)[at], -1e-4 * rank)
        assert all(len(after) <= max(map(len, answers.values()))
                   for after in self.next.values()), 'contexts clash'

    def logits(self, context):
        """-> (V,)"""
        found = -100.0 - torch.arange(len(self.codec.stoi))
        for character, logit in self.next.get(context, {}).items():
            found[self.codec.stoi[character]] = logit
        return found

    def column(self, tokens):
        """(T,) tokens -> (V, T) logits"""
        text = self.codec.decode(tokens)
        return torch.stack([self.logits(text[:at]) for at in range(1, len(text) + 1)], 1)


def together(scripts):
    """The forward pass of scripts as replicas: (R, T, B), or (T, B) for all replicas -> (R, V, T, B)"""
    def forward(tokens):
        tokens = tokens.expand(len(scripts), *tokens.shape[-2:])
        return torch.stack([torch.stack([script.column(column) for column in batch.T], -1)
                            for script, batch in zip(scripts, tokens)])
    return forward


def right(task):
    return {prompt: [answer] for prompt, answer in zip(task.prompts, task.answers)}


def wrong(task):
    return {prompt: ['9' + answer] for prompt, answer in zip(task.prompts, task.answers)}


def undecided(task):
    return {prompt: [answer, '9' + answer] for prompt, answer in zip(task.prompts, task.answers)}


def partly(task, known):
    """Right for the prompts for which `known` is true, wrong for the others."""
    return {prompt: (right if known(prompt) else wrong)(task)[prompt] for prompt in task.prompts}


@pytest.fixture(scope='module')
def evaluator(both_codec):
    """evaluator(task, answers of each replica...) -> (Evaluator, scripts)"""
    def make(task, *answers, block_size=24, **options):
        scripts = [Script(both_codec, answer, block_size) for answer in answers]
        seeds = torch.arange(1337, 1337 + len(answers))
        return Evaluator(together(scripts), both_codec, {task.name: task}, block_size, seeds,
                         **options), scripts
    return make


def score_slowly(script, task, block_size, seed, iteration):
    """The number of right answers out of ten to each prompt, from one prompt, one sample and one token at a
    time, marked by separate rules."""
    return [sum(is_right(task, p, answer_slowly(script, task, block_size, seed, iteration, p, 10 * p + s))
                for s in range(10)) for p in range(len(task.prompts))]


def answer_slowly(script, task, block_size, seed, iteration, p, index):
    text = task.prompts[p]
    for step in range(4 if task.name == 'math' else 20):
        logits, tokens = script.logits(text[-block_size:]).topk(10)
        choice = (logits / 0.01 + gumbel(seed, ANSWERS, iteration, step, index, torch.arange(10))).argmax()
        text += script.codec.itos[tokens[choice].item()]
    return text[len(task.prompts[p]):]


def is_right(task, p, answer):
    if task.name == 'facts':
        return answer.partition('\n')[0].strip().upper() == task.facts[p][1].upper()
    a, sign, b = re.fullmatch(r'<(\d+)([+-])(\d+)=', task.prompts[p]).groups()
    number = re.match(r'[^0-9-]*(-?\d+)', answer)
    return number is not None and int(number[1]) == int(a) + int(sign + b)


# Known answers.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('block_size', [5, 9, 24])
def test_a_model_that_is_always_right_scores_everything(evaluator, block_size):
    row, = evaluator(Arithmetic(), right(Arithmetic()), block_size=block_size)[0].ask(0).rows
    assert row == dict(add_correct=1000, add_total=1000, sub_correct=1000, sub_total=1000, math_acc=100,
                       heldout_correct=40, heldout_total=40, seen_correct=1960, seen_total=1960,
                       combined_acc=100, add_prob=1, sub_prob=1, heldout_prob=1, seen_prob=1,
                       heldout_answered=4, heldout_questions=4)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('block_size', [16, 24])    # most prompts are longer
def test_a_model_that_knows_all_capitals_scores_everything_though_prompts_are_cropped(evaluator, block_size):
    row, = evaluator(Capitals(), right(Capitals()), block_size=block_size)[0].ask(0).rows
    assert row == dict(facts_correct=500, facts_total=500, facts_acc=100, combined_acc=100, facts_prob=1)


@pytest.mark.parametrize('task', [Arithmetic(), Capitals()], ids=['math', 'facts'])
def test_a_model_that_is_always_wrong_scores_nothing(evaluator, task):
    row, = evaluator(task, wrong(task))[0].ask(0).rows
    assert len(row) > 4
    assert all(value < 1e-30 for name, value in row.items() if not name.endswith(('total', 'questions')))


def test_what_was_seen_and_what_was_held_out_are_counted_apart(evaluator):
    learned_by_heart = partly(Arithmetic(), lambda prompt: not {'5', '7'} < set(prompt))
    row, = evaluator(Arithmetic(), learned_by_heart)[0].ask(0).rows
    assert (row['add_correct'], row['sub_correct'], row['heldout_correct']) == (980, 980, 0)
    assert row['seen_correct'] == 1960
    assert row['math_acc'] == 98 and row['seen_prob'] == 1 and row['heldout_prob'] < 1e-30


def test_a_model_that_knows_a_part_scores_that_part(evaluator):
    row, = evaluator(Arithmetic(),
                     partly(Arithmetic(), lambda prompt: prompt[1] in '012' and '+' in prompt))[0].ask(0).rows
    assert (row['add_correct'], row['sub_correct'], row['math_acc']) == (300, 0, 15)
    assert row['heldout_correct'] == 0
    assert row['add_prob'] == pytest.approx(0.3)


def test_without_held_out_pairs_nothing_is_said_of_them(evaluator):
    task = Arithmetic(max_operand=2, heldout=())
    row, = evaluator(task, right(task))[0].ask(0).rows
    assert (row['add_correct'], row['seen_total']) == (90, 180)
    assert not any(name.startswith('heldout') for name in row)


# The slow evaluator.

@pytest.mark.slow
@pytest.mark.parametrize('task, block_size', [(TINY, 24), (TINY, 6), (FACTS, 24), (FACTS, 16)])
def test_replicas_score_as_a_slow_evaluator_finds_that_asks_one_sample_at_a_time(evaluator, task, block_size):
    fast, scripts = evaluator(task, right(task), undecided(task), wrong(task), undecided(task),
                              block_size=block_size)
    found = fast.right(task.name, (sampled := fast.sample(task.name, 250)))[sampled.row.numpy()].sum(-1)
    for r, script in enumerate(scripts):
        assert found[r].tolist() == score_slowly(script, task, block_size, 1337 + r, 250), r
    assert set(found[0]) == {10} and set(found[2]) == {0}
    assert 1 < len(set(found[1])) and list(found[1]) != list(found[3])


def test_a_model_that_is_right_half_of_the_time_scores_half(evaluator):
    row, = evaluator(Arithmetic(), undecided(Arithmetic()))[0].ask(0).rows
    assert 1000 - 110 < row['add_correct'] + row['sub_correct'] < 1000 + 110    # five standard deviations
    assert row['add_prob'] == pytest.approx(0.5, abs=0.001)


def test_a_held_out_question_is_answered_from_six_right_answers_of_ten_on(evaluator):
    task = Arithmetic(heldout=((5, 7), (2, 9), (1, 3)))
    fast, _ = evaluator(task, undecided(task))
    sampled = fast.sample('math', 0)
    counts = fast.right('math', sampled)[sampled.row.numpy()].sum(-1)[0][task.groups()['heldout']]
    row, = fast.ask(0).rows
    assert (row['heldout_answered'], row['heldout_questions']) == ((counts >= 6).sum(), 12)
    assert min(counts) < 6 <= max(counts)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('max_tokens', [5, 37])
def test_pieces_score_what_the_whole_scores(evaluator, max_tokens):
    answers = undecided(SMALL), right(SMALL)
    pieces = evaluator(SMALL, *answers, max_tokens=max_tokens)[0].ask(7)
    whole = evaluator(SMALL, *answers)[0].ask(7)
    assert pieces.rows == whole.rows
    for one, other in zip(pieces.answers, whole.answers):
        assert all(np.array_equal(a, b) for a, b in zip(one['math'], other['math']))


def test_another_iteration_asks_with_other_draws(evaluator):
    fast, _ = evaluator(SMALL, undecided(SMALL))
    counts = [fast.ask(iteration).rows[0]['seen_correct'] for iteration in (0, 0, 250, 500, 750)]
    assert counts[0] == counts[1] and len(set(counts)) > 1


# Marking.

@pytest.mark.parametrize('completion, is_right', [
    ('12>', True), ('12', True), (' 12 ', True), ('x12y3', True), ('012', True), ('12>1', True),
    ('1>2', False), ('123', False), ('-12>', False), ('1', False), ('', False), ('>', False), ('--', False),
    ('3 12', False)])
def test_the_first_integer_is_the_answer(completion, is_right):
    task = Arithmetic()
    assert task.mark(task.prompts.index('<5+7='), completion) == is_right


def test_a_negative_result_needs_its_sign():
    task = Arithmetic()
    i = task.prompts.index('<5-7=')
    assert task.mark(i, '-2>') and not task.mark(i, '2>') and not task.mark(i, '- 2>')


@pytest.mark.parametrize('completion, is_right', [
    ('Washington \n', True), ('Washington', True), ('WASHINGTON \nCapital', True), (' washington\n', True),
    ('Washington D.C.\n', False), ('Washing\nton', False), ('\nWashington', False), ('', False),
    ('Paris\n', False)])
def test_a_capital_is_marked_up_to_the_end_of_its_line_whatever_its_case(completion, is_right):
    assert FACTS.mark(1, completion) == is_right


# Probabilities and losses.

@pytest.fixture(scope='module')
def models(math_data):
    """Two models with random weights, as replicas and as plain models. Their block is shorter than a
    line."""
    args = dict(n_layer=1, n_head=2, n_embd=8, block_size=6, bias=False, vocab_size=17, mlp_expansion=1)
    replicas = Replicas.from_seeds(args, [0, 1])
    replicas.flat += 0.4 * torch.randn(replicas.flat.shape, generator=torch.Generator().manual_seed(3))
    plain = [NanoGPT(**args) for _ in range(2)]
    for r, model in enumerate(plain):
        model.load_state_dict(replicas.state_dict(replicas.flat[r]))
    return replicas, plain


def probability_naively(model, codec, prompt, answer):
    """The product over characters, each predicted from the block before it."""
    product, text = 1.0, prompt
    for character in answer:
        with torch.no_grad():
            logits = model(torch.tensor([codec.encode(text[-6:])]))[0, -1]
        product *= logits.softmax(0)[codec.stoi[character]].item()
        text += character
    return product


@pytest.mark.slow_after_first
@pytest.mark.parametrize('max_tokens', [6, 100, 2**20])
def test_the_probability_of_an_answer_is_the_product_over_its_characters(models, math_data, max_tokens):
    replicas, plain = models
    task = math_data.tasks['math']
    windows = AnswerWindows(task, math_data.codec, 6, torch.device('cpu'))
    found = windows.probabilities(replicas.forward, max_tokens)
    for r, model in enumerate(plain):
        expected = [probability_naively(model, math_data.codec, *pair)
                    for pair in zip(task.prompts, task.answers)]
        assert found[r] == pytest.approx(expected, rel=1e-4)


def test_rows_have_the_mean_probability_of_each_group(models, math_data):
    replicas, plain = models
    task = math_data.tasks['math']
    evaluator = Evaluator(replicas.forward, math_data.codec, {'math': task}, 6, torch.tensor([0, 1]))
    for row, model in zip(evaluator.ask(0).rows, plain):
        held = [probability_naively(model, math_data.codec, prompt, answer)
                for prompt, answer in (('<5+7=', '12>'), ('<7+5=', '12>'), ('<5-7=', '-2>'), ('<7-5=', '2>'))]
        assert row['heldout_prob'] == pytest.approx(sum(held) / 4, rel=1e-4)


def naive_loss(model, data):
    losses = []
    for i in range(len(data) - 6):
        x, y = slice_batch(data, torch.tensor([i]), 6)
        with torch.no_grad():
            losses.append(model.loss(x, y).item())
    return sum(losses) / len(losses)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('max_tokens', [6, 1000, 2**20])
def test_exact_losses_are_those_of_every_window(models, math_data, max_tokens):
    replicas, plain = models
    data = math_data.train[:300]
    # The data have 294 windows, and 2 * 147 are allowed: all of them are used.
    found = Losses(replicas.forward, 6, 147, 2, torch.tensor([0, 1]), max_tokens)(data, 0)
    assert found.tolist() == pytest.approx([naive_loss(model, data) for model in plain], abs=1e-5)


def test_estimated_losses_are_near_the_exact_ones_and_differ_between_evaluations(models, math_data):
    replicas, _ = models
    data, seeds = math_data.train, torch.tensor([0, 1])
    exact = Losses(replicas.forward, 6, 10**6, 1, seeds)(data, 0)
    estimate = Losses(replicas.forward, 6, 100, 15, seeds)
    first, again, later = (estimate(data, iteration) for iteration in (0, 0, 250))
    assert torch.equal(first, again) and not torch.equal(first, later) and not torch.equal(first, exact)
    assert (first - exact).abs().max() < 0.15 and (later - exact).abs().max() < 0.15


@pytest.mark.slow_after_first
@pytest.mark.parametrize('max_tokens', [2**20, 1000])
def test_windows_that_two_orders_of_the_lines_share_are_computed_once_with_the_same_result(models, math_data,
                                                                                           max_tokens):
    replicas, _ = models
    sizes = []

    def forward(tokens):
        sizes.append(tokens.shape[-1])
        return replicas.forward(tokens)
    losses = DataLosses(forward, math_data, tiny_config(block_size=6), torch.tensor([0, 1]), max_tokens)
    one, other = losses.in_both_orders()
    assert sum(sizes) < 2 * (len(math_data.train) - 6)
    for found, data in ((one, losses.train), (other, losses.order.other.int())):
        torch.testing.assert_close(found, losses.losses(data, 0), rtol=1e-7, atol=0)


# Evaluating changes nothing.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('dropout', [0.0, 0.5])
def test_evaluating_leaves_no_trace(math_data, dropout):
    config = tiny_config(num_seeds=2, dropout=dropout)
    engines = [new_engine(math_data.train, 17, config) for _ in range(2)]
    evaluator, losses = measures(engines[0], math_data)
    torch.manual_seed(5)
    expected = train(engines[1], 0, 6), train(engines[1], 6, 12)
    torch.manual_seed(5)
    found = [train(engines[0], 0, 6)]
    generator, before = torch.get_rng_state(), weights(engines[0], 1)
    evaluator.ask(6)
    losses(math_data.train, 6)
    assert torch.equal(torch.get_rng_state(), generator) and equal_weights(weights(engines[0], 1), before)
    found.append(train(engines[0], 6, 12))
    assert torch.equal(torch.cat(found), torch.cat(expected))
    assert equal_weights(weights(engines[0]), weights(engines[1]))


def measures(engine, data):
    forward, seeds = engine.replicas.forward, engine.seeds
    return Evaluator(forward, data.codec, data.tasks, 9, seeds), Losses(forward, 9, 10, 2, seeds)


def test_a_codec_without_a_tasks_characters_is_refused(facts_data):
    with pytest.raises(UserError, match="character '<'"):
        Evaluator(None, facts_data.codec, {'math': Arithmetic()}, 9, torch.tensor([1337]))


