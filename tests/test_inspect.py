"""Looking inside a model: constructed models of which every number is known, and what the scripts write."""
import csv
import json

import numpy as np
import pytest
import torch

from conftest import contents, load
from model import GPT, GPTConfig
from plot_inspect import curves, draw_inside, draw_numbers, read, shown
from tbtt.checkpoint import to_bytes
from tbtt.dataset import Codec
from tbtt.inference import load_model
from tbtt.interpret import (
    Subject,
    attention,
    contexts,
    digit_plane,
    digits,
    evenness,
    features,
    first_integer,
    left_out,
    measure,
    readout,
    ridge,
    symmetry,
    verdict,
    without_parts,
)
from tbtt.parts import attention_weights, mean_inputs, parts_of, read_out, replaced, streams, watched
from tbtt.results import read_results
from tbtt.tasks import Arithmetic, Capitals

CODEC = Codec.of_text('\n +-0123456789<=>')
D = 10    # digits


def random_model(n_layer=1, n_head=1, block_size=9, bias=False, codec=CODEC, seed=0):
    """A model in float64 with weights so large that every part matters."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(block_size, len(codec.stoi), n_layer, n_head, 8, 0.0, bias, 1)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return model


def saved(path, model, tasks=None, codec=CODEC):
    """Save a model as a checkpoint file. tasks: None for a file without tasks. -> the model, loaded again"""
    meta = {'vocab_size': len(codec.stoi), 'stoi': codec.stoi, 'itos': codec.itos}
    if tasks is not None:
        meta['tasks'] = {task.name: task.describe() for task in tasks}
    path.write_bytes(to_bytes({
        'model': model.float().state_dict(), 'optimizer': {}, 'model_args': vars(model.config), 'iter_num': 7,
        'best_val_loss': 1.0, 'config': {}, 'meta': meta}))
    return load_model(path, 'cpu')


def subject(path, model, task=None):
    return Subject(saved(path / 'ckpt.pt', model, [task or Arithmetic()]))


def windows(count=6, T=5, seed=1):
    """(T, count) random tokens"""
    return torch.randint(len(CODEC.stoi), (T, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def found(learned):
    """The measurements of the run that has learned a small grid."""
    return measure(load_model(learned / 'ckpt.pt', 'cpu'))


# A model taken apart.

@torch.no_grad()
def test_the_last_stage_read_out_is_the_model_itself():
    model, tokens = random_model(2, 2, bias=True), windows()
    stages = streams(model, tokens)
    assert list(stages) == ['embedding', 'attention 1', 'MLP 1', 'attention 2', 'MLP 2']
    assert torch.equal(read_out(model, stages['MLP 2']), model(tokens))
    first = model.transformer.h[0]
    torch.testing.assert_close(stages['attention 1'] - stages['embedding'],
                               first.attn(first.ln_1(stages['embedding'])))


@torch.no_grad()
def test_attention_weights_times_values_are_what_the_heads_say():
    model, tokens = random_model(2, 2), windows()
    weights = attention_weights(model, tokens)
    torch.testing.assert_close(weights.sum(3), torch.ones_like(weights[:, :, :, 0]))
    assert torch.equal(weights, weights.movedim(-1, 0).tril().movedim(0, -1))
    for layer, block in enumerate(model.transformer.h):
        with watched({'in': block.attn.c_attn, 'out': block.attn.c_proj}) as seen:
            model(tokens)
        values = seen['in'][1][16:].unflatten(0, (2, 4))    # (H, D, S, B)
        torch.testing.assert_close(torch.einsum('htsb,hdsb->hdtb', weights[layer], values).flatten(0, 1),
                                   seen['out'][0])


@torch.no_grad()
@pytest.mark.parametrize('name', ['attention 1', 'head 2.2', 'MLP 2'])
def test_a_part_replaced_by_zeros_is_a_model_whose_weights_for_it_are_zero(name):
    model, tokens = random_model(2, 2), windows()
    part = {part.name: part for part in parts_of(model)}[name]
    with replaced(part, torch.zeros(8, 5, dtype=torch.float64)[part.features]):
        without = model(tokens)
    assert not torch.equal(without, model(tokens))
    part.linear.weight[:, part.features] = 0
    torch.testing.assert_close(without, model(tokens))


@torch.no_grad()
def test_a_part_that_says_the_same_for_every_window_is_its_own_mean():
    model, tokens = random_model(2, 2), windows(1).expand(-1, 4)
    parts = parts_of(model)
    means = mean_inputs(model, parts, tokens, torch.ones_like(tokens, dtype=torch.bool))
    for part in parts:
        with replaced(part, means[part.name]):
            torch.testing.assert_close(model(tokens), model(tokens.clone()))
            torch.testing.assert_close(model(tokens[:3]), model(tokens)[:, :3])
    other = windows(4)
    with replaced(parts[0], means[parts[0].name]):
        replaced_logits = model(other)
    assert not torch.allclose(replaced_logits, model(other))


@torch.no_grad()
def test_padding_is_left_out_of_a_mean():
    model, tokens = random_model(), windows(3)
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[3:, 2] = False
    parts = parts_of(model)
    means = mean_inputs(model, parts, tokens, real)
    short = mean_inputs(model, parts, tokens[:, :2], real[:, :2])
    every = mean_inputs(model, parts, tokens, torch.ones_like(real))
    for name in means:
        torch.testing.assert_close(means[name][:, 3:], short[name][:, 3:])
        torch.testing.assert_close(means[name][:, :3], every[name][:, :3])


@torch.no_grad()
def test_looking_leaves_a_model_as_it_was_even_where_it_fails():
    model, tokens = random_model(), windows()
    before = model(tokens)
    with pytest.raises(ZeroDivisionError), replaced(parts_of(model)[0], torch.zeros(8, 5).double()):
        1 / 0
    with pytest.raises(ZeroDivisionError), watched({'head': model.lm_head}):
        1 / 0
    assert torch.equal(model(tokens), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# The digits.

def arc(turn, count=D):
    """Points at equal steps, each step turned by `turn` degrees from the step before."""
    steps = np.exp(1j * np.radians(turn) * np.arange(count - 1))
    points = np.concatenate([[0], np.cumsum(steps)])
    return np.column_stack([points.real, points.imag])


@pytest.mark.parametrize('turn', [0, 10, 36, 80])
def test_an_arc_of_equal_steps_and_turns_is_even_to_1(turn):
    assert evenness(arc(turn)) == pytest.approx((1, turn), abs=1e-6)
    assert evenness(-3 * arc(turn)[:, ::-1] + 5) == pytest.approx((1, turn), abs=1e-6)


def test_points_in_no_order_are_no_arc():
    random = np.random.default_rng(0)
    scattered = [evenness(random.normal(size=(D, 2)))[0] for _ in range(200)]
    assert np.mean(scattered) < 0.4 and np.mean(np.array(scattered) > 0.8) < 0.05
    assert evenness(arc(180))[0] == pytest.approx(0, abs=1e-9)
    bent = arc(30)
    bent[5] += 1.5
    assert 0.2 < evenness(bent)[0] < 0.9


def test_fewer_than_three_digits_have_no_arc():
    assert np.isnan(evenness(arc(10, 2))).all() and np.isnan(evenness(np.zeros((D, 2)))).all()


def test_a_planted_arc_is_found_in_the_embeddings(tmp_path):
    model = random_model()
    plane = torch.linalg.qr(torch.randn(8, 2)).Q
    with torch.no_grad():
        weight = model.transformer.wte.weight
        weight[CODEC.encode('0123456789')] = 3 + torch.from_numpy(arc(25)) @ plane.T.double()
    seen = digits(subject(tmp_path, model))
    assert (seen['share'], seen['evenness'], seen['turn']) == pytest.approx((1, 1, 25), abs=1e-3)
    x, y = np.array(seen['plane']).T
    assert x[0] < x[-1] and y[5] > (y[0] + y[-1]) / 2


def test_two_components_hold_the_share_of_the_variance_that_they_hold():
    x = np.zeros((4, 3))
    x[:2, 0], x[2, 1], x[3, 2] = (3, -3), 0, 0
    x[2:, 1] = 2, -2
    x[:, 2] = 1, 1, -1, -1
    _, share = digit_plane(x)
    assert share == pytest.approx((18 + 8) / (18 + 8 + 4))
    assert digit_plane(np.ones((4, 1)))[1] == 0


# What can be read out of a model.

def test_errors_without_a_group_are_those_of_a_fit_without_it():
    random = np.random.default_rng(0)
    x, y = features(random.normal(size=(30, 5))), random.normal(size=(30, 2))
    groups = [np.array([3, 7]), np.array([0]), np.arange(10, 25)]
    for group, errors in zip(groups, left_out(x, y, groups)):
        rest = np.setdiff1d(np.arange(30), group)
        penalty = 1e-3 * 30 * np.eye(6)
        penalty[-1, -1] = 0
        fit = np.linalg.solve(x[rest].T @ x[rest] + penalty, x[rest].T @ y[rest])
        np.testing.assert_allclose(errors, y[group] - x[group] @ fit)


def test_ridge_reads_labels_that_are_linear_and_their_mean_where_there_is_nothing_to_read():
    x = features(np.random.default_rng(0).normal(size=(50, 3)))
    np.testing.assert_allclose(x @ (ridge(x) @ (2 * x[:, 0] + 5)), 2 * x[:, 0] + 5, atol=0.02)
    same = features(np.full((4, 3), 7.0))
    np.testing.assert_allclose(same @ (ridge(same) @ np.array([1, 2, 3, 6.0])), 3)


PAIRS = np.array([(a, b) for a in range(D) for b in range(D)])
TRAINED = np.array([{a, b} != {5, 7} for a, b in PAIRS])
SUMS = PAIRS.sum(1)


def test_a_planted_result_is_read_and_shuffled_ones_are_not():
    random = np.random.default_rng(0)
    x = SUMS[:, None] * random.normal(size=12) + 0.1 * random.normal(size=(100, 12))
    shares, values = readout(x, PAIRS, SUMS, TRAINED)
    assert shares['pair_left_out'] > 0.999 and shares['operand_left_out'] > 0.99
    assert shares['results_shuffled'] <= 0 and shares['digits_renamed'] < 0.5
    np.testing.assert_allclose(values[~TRAINED], 12, atol=0.3)


def test_whoever_only_knows_which_digits_there_are_reads_any_names_of_them_but_no_unseen_one():
    x = np.concatenate([np.eye(D)[PAIRS[:, 0]], np.eye(D)[PAIRS[:, 1]]], 1)
    shares, _ = readout(x, PAIRS, SUMS, TRAINED)
    assert min(shares['pair_left_out'], shares['digits_renamed']) > 0.98
    assert shares['operand_left_out'] < 0.7 and shares['results_shuffled'] <= 0


def test_held_out_labels_are_not_fitted():
    x = np.random.default_rng(0).normal(size=(100, 4)) + SUMS[:, None]
    wrong = np.where(TRAINED, SUMS, 1000)
    shares, values = readout(x, PAIRS, wrong, TRAINED)
    right_shares, right_values = readout(x, PAIRS, SUMS, TRAINED)
    np.testing.assert_allclose(values, right_values)
    assert shares['pair_left_out'] == pytest.approx(right_shares['pair_left_out'])


def test_where_nothing_is_known_of_the_question_yet_nothing_can_be_read(found):
    for shares in found['readout']['r2']['embedding'].values():
        assert shares['pair_left_out'] <= 0
    assert all(shares['pair_left_out'] > 0.5 for shares in found['readout']['r2']['attention 1'].values())


# What is measured.

def test_scores_are_those_of_the_evaluator(found, learned):
    last = read_results(learned / 'results.csv')
    for group in ('seen', 'heldout'):
        assert found['score'][group]['probability'] == pytest.approx(last[f'{group}_prob'][-1], abs=1e-4)
    assert found['score']['heldout']['right'] == last['heldout_answered'][-1] / last['heldout_questions'][-1]


def test_the_lens_of_the_last_stage_is_the_model(found):
    assert found['lens']['MLP 1'] == found['score'] != found['lens']['attention 1']


def test_a_model_that_does_not_know_positions_is_symmetric(tmp_path):
    model = random_model(seed=3)
    assert symmetry(subject(tmp_path, model))['seen'] < 1 - 1e-6
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    assert symmetry(subject(tmp_path, model)) == pytest.approx({'seen': 1, 'heldout': 1}, abs=1e-12)


@pytest.mark.slow
def test_a_model_that_sees_one_character_says_the_same_behind_every_line(tmp_path):
    model = random_model(seed=5)
    one = contexts(subject(tmp_path, model))
    assert one['lines'] == 28 and min(one['seen']['same'], one['heldout']['same']) < 1
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight.zero_()
        model.transformer.wpe.weight.zero_()
    one = contexts(subject(tmp_path, model))
    assert one['seen']['same'] == one['heldout']['same'] == 1
    assert one['said'] == {prompt: {one['alone'][prompt]: 28}
                           for prompt in ('<5+7=', '<7+5=', '<5-7=', '<7-5=')}


def test_a_part_that_is_a_constant_may_be_left_out(tmp_path):
    model = random_model(2, 2, seed=4)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.zero_()
    one = subject(tmp_path, model)
    without = without_parts(one)
    assert list(without) == ['attention 1', 'head 1.1', 'head 1.2', 'MLP 1',
                             'attention 2', 'head 2.1', 'head 2.2', 'MLP 2']
    assert without['MLP 2'] == one.score() and without['attention 1'] != one.score()


def test_attention_of_every_head_sums_to_one(found, tmp_path):
    assert [(head['layer'], head['head']) for head in found['attention']] == [(1, h) for h in (1, 2, 3, 4)]
    larger = attention(subject(tmp_path, random_model(2, 2, 12), Arithmetic(11)))
    for head in (*found['attention'], *larger):
        assert sum(head['to'].values()) == pytest.approx(1)


@pytest.mark.parametrize('seen, heldout, says', [
    (1, 1, 'rule'), (1, 0, 'lookup'), (0.9, 0.5, 'part of the rule'), (0.5, 1, 'neither'),
    (1, None, 'nothing held out')])
def test_the_verdict_is_that_of_the_answers(seen, heldout, says):
    score = {'seen': {'right': seen}} | ({} if heldout is None else {'heldout': {'right': heldout}})
    assert verdict(score) == says


def test_an_answer_is_the_first_integer():
    assert [first_integer(text) for text in ('12> ', '-3>9', '+', '0-1')] == ['12', '-3', '', '0']


def test_a_table_without_a_rule_is_named(tmp_path):
    task = Arithmetic(2, [(0, 1)], dealt=[1] * 9 + [-1] * 9)
    one = measure(saved(tmp_path / 'ckpt.pt', random_model(), [task]))
    assert one['answers'] == 'shuffled' and one['readout']['read']['add']['result'] == [1] * 9


def test_nothing_held_out_is_no_error(tmp_path):
    one = measure(saved(tmp_path / 'ckpt.pt', random_model(), [Arithmetic(1, [])]))
    assert list(one['score']) == ['seen'] and one['context']['said'] == {}


# The scripts.

def look_inside(command, tmp_path, *folders, **settings):
    return command('analysis/inspect_rule.py', *folders, output_dir=tmp_path / 'inside', **settings)


@pytest.mark.slow
def test_a_run_is_looked_into_and_drawn_again_without_it(command, learned, tmp_path):
    result = look_inside(command, tmp_path, learned)
    assert result.status == 0, result.err
    folder = tmp_path / 'inside'
    written = contents(folder)
    assert list(written) == ['inspect.csv', 'inspect.json', 'inspect.png']
    one, = json.loads(written['inspect.json'])['checkpoints']
    row, = csv.DictReader(written['inspect.csv'].decode().splitlines())
    assert float(row['heldout_right']) == one['score']['heldout']['right']
    assert float(row['add_r2_pair_left_out']) == one['readout']['r2']['attention 1']['add']['pair_left_out']
    assert float(row['lens_MLP_1_seen_probability']) == one['score']['seen']['probability']
    assert row['verdict'] == one['verdict'] and row['verdict'] in result.out
    assert '<1+3=4>  reads' in result.out
    (folder / 'inspect.png').unlink()
    assert command('analysis/plot_inspect.py', folder).status == 0
    assert contents(folder) == written


@pytest.mark.slow
def test_several_checkpoints_are_drawn_side_by_side_and_over_iterations(command, copy_of_learned, tmp_path):
    early = load(copy_of_learned / 'ckpt.pt') | {'iter_num': 100}
    (copy_of_learned / 'ckpt_100.pt').write_bytes(to_bytes(early))
    result = look_inside(command, tmp_path, copy_of_learned, kept=True)
    assert result.status == 0, result.err
    found, rows = read(tmp_path / 'inside')
    assert [one['iteration'] for one in found] == [100, 300] and len(rows) == 2
    assert [one['iteration'] for one in shown(found)] == [300]
    assert 'inspect_numbers.png' in result.out
    others = [dict(one, run=name, attention=one['attention'][:1]) for one in found for name in 'abcde']
    figure = draw_inside(shown(others))
    assert len(figure.axes) == 4 * 6
    assert {text.get_text() for text in figure.legends[0].texts} == {
        'sums', 'differences', 'Held-out', 'Seen in training'}


def test_numbers_go_against_width_where_no_seed_has_two_checkpoints():
    rows = [dict(run=f'{answers}{width}', checkpoint='', answers=answers, verdict='', seed=seed, iteration=9,
                 n_embd=width, seen_right=width / 100, heldout_right=seed)
            for answers in ('true', 'shuffled') for width in (28, 14) for seed in (0, 1)]
    x, values = curves(rows[:4], 'n_embd', 'seen_right')
    assert x.tolist() == [14, 28] and values.tolist() == [[0.14, 0.28]] * 2
    twins = [dict(row, run=f'{row["run"]}_wd', seen_right=0.5) for row in rows[:4]]
    assert curves(rows[:4] + twins, 'n_embd', 'seen_right')[1].shape == (8, 2)    # no curve hides another
    figure = draw_numbers(rows)
    line = figure.axes[0].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([14, 28], [0.14, 0.28])
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == 'x' and len(line.get_xdata())]
    assert len(crosses) == 2 and 'shuffled answers' in {text.get_text() for text in figure.legends[0].texts}


LETTERS = Codec.of_text('\n abc')


@pytest.mark.parametrize('what, said', [
    ('missing', 'no checkpoint'), ('damaged', 'not written by torch.save'), ('facts', 'without arithmetic'),
    ('letters', 'has no arithmetic'), ('short', 'too short'), ('nothing kept', '--keep_checkpoints')])
def test_what_has_no_arithmetic_to_look_for_is_one_line(command, tmp_path, what, said):
    path, settings = tmp_path / 'ckpt.pt', {}
    if what == 'damaged':
        path.write_bytes(b'no checkpoint')
    elif what == 'facts':
        codec = Codec.of_text(''.join(Capitals().lines()))
        saved(path, random_model(codec=codec), [Capitals()], codec)
    elif what == 'letters':
        saved(path, random_model(codec=LETTERS), codec=LETTERS)
    elif what == 'short':
        saved(path, random_model(block_size=4), [Arithmetic()])
    elif what == 'nothing kept':
        saved(path, random_model(), [Arithmetic()])
        settings = {'kept': True}
    before = contents(tmp_path)
    result = look_inside(command, tmp_path, tmp_path, **settings)
    assert result.status == 2 and said in result.err and len(result.err.splitlines()) == 1
    assert contents(tmp_path) == before


STRANGE = '{"checkpoints": [{"run": 1, "readout": {"stage": 2}}]}'


@pytest.mark.parametrize('name, text', [('inspect.json', '{"checkpoints": []}'), ('inspect.json', '[1'),
                                        ('inspect.json', STRANGE),
                                        ('inspect.csv', 'run,iteration\nx,many\n'), ('inspect.csv', '')])
def test_files_that_are_no_inspection_are_one_line(command, tmp_path, name, text, found):
    (tmp_path / 'inspect.json').write_text(json.dumps({'checkpoints': [{'run': 'x', **found}]}))
    if name == 'inspect.json':
        (tmp_path / 'inspect.csv').write_text('run,iteration,n_embd,seed\nx,1,2,3\n')
    (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    result = command('analysis/plot_inspect.py', tmp_path)
    assert result.status == 2 and name in result.err and len(result.err.splitlines()) == 1
    assert contents(tmp_path) == before
