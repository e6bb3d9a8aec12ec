"""Controls that can tell a rule from a table: answers without a rule, windows within a line, fresh order,
blocks or mixed."""
import collections
import itertools
import json
import random

import pytest
import torch

from chaos import forked_sweeps
from conftest import TINY, new_engine, run_script, tiny_config, train, weights
from tbtt import device
from tbtt.batches import NOTHING, Batches
from tbtt.cli import UserError
from tbtt.dataset import Dataset
from tbtt.device import choose_dtype
from tbtt.engine import token_losses
from tbtt.evaluate import Losses
from tbtt.prepare import deal
from tbtt.replicas import Replicas
from tbtt.results import format_results, read_results
from tbtt.sweep.plan import Sweep
from tbtt.sweep.summary import (
    BEFORE,
    as_the_paper,
    data_digest,
    in_blocks,
    read_summaries,
    row_of_paper,
    seed_row,
    write_summary,
)
from tbtt.tasks import Arithmetic, Capitals, tasks_from


def lines_of(folder):
    return (folder / 'train.txt').read_text().splitlines(keepends=True)


def prepared(name, folder, **options):
    assert run_script(f'data/{name}/prepare.py', out_dir=folder, **options) == 0
    return folder


# --- blocks or mixed

@pytest.mark.parametrize('seed', [1337, 7])
def test_blocks_are_what_each_task_is_alone(tmp_path, seed):
    both, math, facts = (lines_of(prepared(name, tmp_path / name, seed=seed))
                         for name in ('both_math_and_facts', 'as_math', 'facts_char'))
    assert both == math + facts and len(math) == 196 and math != sorted(math)


def test_mixed_is_all_lines_shuffled_together(tmp_path):
    lines = Arithmetic().lines() + Capitals().lines()
    random.Random(7).shuffle(lines)
    assert lines_of(prepared('both_math_and_facts', tmp_path / 'mixed', order='mixed', seed=7)) == lines
    assert len({line[0] for line in lines[:20]}) == 2


def test_repeated_lines_are_mixed_unless_blocks_are_asked_for(tmp_path):
    mixed, blocks = (lines_of(prepared('both_skewed', tmp_path / str(i), **options))
                     for i, options in enumerate(({}, {'order': 'blocks'})))
    kinds = ''.join(line[0] for line in blocks)
    assert sorted(mixed) == sorted(blocks) and 'C<' not in kinds and '<C' in kinds
    assert 'C<' in ''.join(line[0] for line in mixed)


# --- answers without a rule

@pytest.fixture(scope='module')
def no_rule(tmp_path_factory):
    return prepared('as_math', tmp_path_factory.mktemp('no') / 'rule', answers='shuffled')


def test_shuffled_answers_are_the_same_questions_and_the_same_results_dealt_anew(no_rule):
    right, dealt = Arithmetic(), Dataset(no_rule, 9).tasks['math']
    seen = right.groups()['seen']
    assert dealt.prompts == right.prompts and dealt.groups() == right.groups()
    assert collections.Counter(dealt.results[i] for i in seen) == collections.Counter(right.results[i]
                                                                                      for i in seen)
    assert sum(dealt.results[i] == right.results[i] for i in seen) < 30    # about 196 / 22 by chance
    assert lines_of(no_rule) != dealt.lines() and sorted(lines_of(no_rule)) == sorted(dealt.lines())
    assert set(dealt.lines()) == {f'{dealt.prompts[i]}{dealt.results[i]}>'.ljust(8) + '\n' for i in seen}


def test_shuffled_answers_leave_the_vocabulary_and_the_counts(no_rule, datasets):
    assert Dataset(no_rule, 9).codec.stoi == Dataset(datasets['as_math'], 9).codec.stoi
    assert len(lines_of(no_rule)) == 196 and {len(line) for line in lines_of(no_rule)} == {9}


def test_shuffled_answers_have_no_rule_for_what_is_held_out():
    right = Arithmetic()
    held = right.groups()['heldout']
    found = [deal(right, seed).results for seed in range(400)]
    hits = sum(dealt[i] == right.results[i] for dealt in found for i in held)
    assert hits / 1600 < 0.15 and len({dealt[held[0]] for dealt in found}) > 15
    # What is left over does not tell it either: every deal trains on the same results.
    assert len({tuple(sorted(dealt[i] for i in right.groups()['seen'])) for dealt in found}) == 1


def test_what_was_dealt_is_asked_for_and_travels(no_rule):
    task = Dataset(no_rule, 9).tasks['math']
    again = tasks_from(json.loads(json.dumps({'math': task.describe()})), 'meta.pkl')['math']
    assert again.results == task.results and again.lines() == task.lines()
    assert again.describe() == task.describe()
    i = next(i for i, result in enumerate(task.results) if result != Arithmetic().results[i])
    assert task.mark(i, f'{task.results[i]}> ') and not task.mark(i, f'{Arithmetic().results[i]}> ')
    assert task.answers[i] == f'{task.results[i]}>' and 'dealt' not in Arithmetic().describe()


def test_the_seed_deals_the_answers(tmp_path):
    assert deal(Arithmetic(), 1).results == deal(Arithmetic(), 1).results != deal(Arithmetic(), 2).results


def test_nothing_held_out_and_everything_held_out_can_be_dealt(command, tmp_path):
    assert deal(Arithmetic(4, ()), 1).lines() and deal(Arithmetic(1, ((0, 1), (0, 0), (1, 1))),
                                                       1).lines() == []
    result = command('data/as_math/prepare.py', max_operand=1, heldout='0,0;0,1;1,1', answers='shuffled',
                     out_dir=tmp_path)
    assert result.status == 2 and result.err.count('\n') == 1 and 'leaves no line' in result.err


@pytest.mark.parametrize('dealt, says', [
    ([1, 2], 'list of 8'), (3, 'list of 8'), ([0] * 7 + [9], r'\[7\]=9'), ([0] * 7 + [True], r'\[7\]=True'),
    ([0] * 7 + ['1'], r"\[7\]='1'")], ids=repr)
def test_dealt_results_that_cannot_be_are_refused_with_their_file(dealt, says):
    with pytest.raises(UserError, match=f'^meta.pkl: dealt.*{says}'):
        tasks_from({'math': {'max_operand': 1, 'heldout': [], 'dealt': dealt}}, 'meta.pkl')


# --- windows within a line, and fresh order

LINES = ['a\n', 'bcd\n', 'efghij\n', 'klm\n', 'no\n']
SEEDS = torch.tensor([3, 4])


def batches(lines=LINES, block_size=4, **settings):
    """Batches of a text whose tokens are the codes of its characters."""
    return Batches(torch.tensor([ord(c) for c in ''.join(lines)], dtype=torch.int32), block_size, newline=10,
                   **settings)


def drawn(found, last, batch_size=50):
    """The windows of iterations 0 to last - 1, as strings."""
    text = found.cut(found.draw(SEEDS, 0, last, batch_size))
    return [''.join(chr(c) for c in window if c != NOTHING)
            for window in text.movedim(-1, -2).flatten(0, -2).tolist()]


def test_windows_of_a_line_never_cross_its_end():
    windows = set(drawn(batches(windows='line'), 40))
    assert windows == {'a\n', 'bcd\n', 'klm\n', 'no\n', 'efghi', 'fghij', 'ghij\n'}
    starts, share = batches(windows='line').every()
    assert starts.tolist() == [0, 2, 6, 7, 8, 13,
                               17] and share.tolist() == pytest.approx([1, 1, 1 / 3, 1 / 3, 1 / 3, 1, 1])


def test_windows_of_arithmetic_are_its_lines(math_data):
    found = Batches(math_data.train, 9, 'line', newline=math_data.newline)
    text = found.cut(found.every()[0])
    assert [math_data.codec.decode(line[:9]) for line in text.T.tolist()] == lines_of(math_data.folder)
    assert (text[9] == NOTHING).all() and text.shape == (10, 196)


def test_every_line_is_drawn_equally_often_and_so_is_every_window_of_it():
    counts = collections.Counter(drawn(batches(windows='line'), 400))    # 40,000 windows
    for window in ('a\n', 'bcd\n', 'klm\n', 'no\n'):
        assert counts[window] == pytest.approx(8000, abs=400)
    for window in ('efghi', 'fghij', 'ghij\n'):
        assert counts[window] == pytest.approx(8000 / 3, abs=250)


def test_fresh_windows_are_cut_from_all_orders_alike():
    """Compared with all orders of the lines, each read in a circle from every character on."""
    lines, length = ['a\n', 'bc\n', 'a\n', 'def\n'], 6
    expected = collections.Counter()
    for order in itertools.permutations(lines):
        text = ''.join(order)
        expected.update((text + text)[start:start + length] for start in range(len(text)))
    found = collections.Counter(drawn(batches(lines, length - 1, line_order='fresh'), 1200))
    assert found.keys() == expected.keys()
    for window, count in expected.items():
        share = count / expected.total()
        assert found[window] / found.total() == pytest.approx(share, abs=6 * (share / found.total()) ** 0.5)


def test_a_fresh_window_has_no_line_twice_and_every_line_equally_often_at_every_place(math_data):
    found = Batches(math_data.train, 24, line_order='fresh', newline=math_data.newline)
    starts = found.draw(SEEDS, 0, 40, 500)    # (40, 2, K, 500)
    lines = found.line[starts].movedim(-2, 0).flatten(1)
    assert len(lines) == 4 and all((lines[i] != lines[j]).all() for i in range(4) for j in range(i))
    for place in lines:
        counts = place.bincount(minlength=196)
        assert counts.sum() == 40000 and (counts - 40000 / 196).abs().max() < 6 * (40000 / 196) ** 0.5
    assert (found.cut(starts) != NOTHING).all()


@pytest.mark.parametrize('settings', [{'windows': 'line'}, {'line_order': 'fresh'}, {}], ids=str)
def test_windows_are_functions_of_seed_and_iteration(math_data, settings):
    found = Batches(math_data.train, 9, newline=math_data.newline, **settings)
    whole = found.draw(SEEDS, 0, 20, 7)
    assert torch.equal(found.draw(SEEDS[1:], 11, 14, 7), whole[11:14, 1:])
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[:, 0], whole[:, 1])


@pytest.mark.parametrize('settings, says', [({'windows': 'line'}, 'windows=line'),
                                            ({'line_order': 'fresh'}, 'line_order=fresh')])
def test_a_text_without_lines_is_refused(settings, says):
    for text in (['ab\n', 'cd'], ['\n']):
        with pytest.raises(UserError, match=says):
            batches(text, 1, **settings)
    with pytest.raises(UserError, match=says):
        Batches(torch.arange(20), 4, newline=None, **settings)


def test_too_few_lines_for_a_window_of_fresh_order_are_refused():
    assert batches(['ab\n', 'cd\n'], 3, line_order='fresh').num_lines == 2
    with pytest.raises(UserError, match='may span 3 lines, but the text has 2: choose a smaller block_size'):
        batches(['ab\n', 'cd\n'], 4, line_order='fresh')


def test_what_is_no_target_has_neither_loss_nor_gradient():
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    targets = torch.randint(5, (2, 3, 4), dtype=torch.int32)
    targets[:, 1:, 2] = NOTHING
    losses = token_losses(logits, targets)
    losses.sum().backward()
    masked = targets < 0
    assert (losses[masked] == 0).all() and (losses[~masked] > 0).all()
    assert (logits.grad.movedim(1, -1)[masked]
            == 0).all() and (logits.grad.movedim(1, -1)[~masked] != 0).all()


def test_the_loss_within_lines_is_the_mean_over_the_characters_that_follow_in_them():
    """Compared with one line and one window at a time; every line counts once."""
    found = batches(windows='line')
    replicas = Replicas.from_seeds(tiny_config(block_size=4, n_embd=6).model_args(128), [1, 2])
    losses = Losses(replicas.forward, 4, 50, 2, SEEDS, windows='line', newline=10)(found.data, 0)
    for r in range(2):
        total = count = 0.0
        for line in LINES:
            windows = [line[i:i + 5] for i in range(max(1, len(line) - 4))]
            for window in windows:
                tokens = torch.tensor([ord(c) for c in window])[:, None]
                p = replicas.forward(tokens[:-1])[r, :, :, 0].log_softmax(0)
                total -= p[tokens[1:, 0], torch.arange(len(tokens) - 1)].sum().item() / len(windows)
                count += (len(tokens) - 1) / len(windows)
        assert losses[r].item() == pytest.approx(total / count, abs=1e-5)


@pytest.mark.slow
def test_sampled_losses_within_lines_estimate_the_exact_one():
    found = batches(windows='line')
    replicas = Replicas.from_seeds(tiny_config(block_size=4, n_embd=6).model_args(128), [1, 2])
    replicas.flat *= 20
    exact, sampled = (Losses(replicas.forward, 4, 1, n, SEEDS, windows='line', newline=10) for n in (7, 6))
    assert sampled.num_sampled < len(found.every()[0]) <= exact.num_sampled
    estimates = torch.stack([sampled(found.data, t) for t in range(300)])
    error = (estimates.mean(0) - exact(found.data, 0)).abs()
    assert (error < 6 * estimates.std(0) / 300**0.5
            + 0.05 * exact(found.data, 0)).all() and (estimates.std(0) > 0).all()


@pytest.mark.slow_after_first
@pytest.mark.parametrize('settings', [{'windows': 'line'}, {'line_order': 'fresh'}], ids=str)
def test_a_replica_is_the_run_that_its_seed_would_be_alone(facts_data, settings):
    def engine(**more):
        config = tiny_config(n_embd=6, block_size=24, **settings, **more)
        return new_engine(facts_data.train, 51, config, newline=facts_data.newline)
    together, alone = engine(seed=5, num_seeds=2), engine(seed=6)
    losses = train(together, 0, 20)
    assert (losses[:, 1:] - train(alone, 0, 20)).abs().max() < 1e-5 and losses[-1].max() < losses[0].min()
    assert max((weights(together, 1)[name] - w).abs().max() for name, w in weights(alone).items()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('settings', [{'windows': 'line'}, {'line_order': 'fresh'}], ids=str)
def test_whatever_step_is_chosen_trains_on_these_windows(facts_data, settings):
    """Compared with the eager step. With 500 steps, a faster step is chosen where there is one."""
    chosen, eager = (new_engine(facts_data.train, 51,
                                tiny_config(n_embd=6, block_size=24, max_iters=500, compile=mode,
                                            **settings), newline=facts_data.newline)
                     for mode in ('auto', 'False'))
    assert (train(chosen, 0, 5) - train(eager, 0, 5)).abs().max() < 1e-5


def test_accumulated_gradients_of_lines_are_those_of_one_large_batch(facts_data):
    one, three = (new_engine(facts_data.train, 51,
                             tiny_config(n_embd=6, block_size=40, windows='line', **shape),
                             newline=facts_data.newline)
                  for shape in ({'batch_size': 48}, {'batch_size': 16, 'gradient_accumulation_steps': 3}))
    assert (train(one, 0, 10) - train(three, 0, 10)).abs().max() < 1e-5


@pytest.mark.slow_after_first
@pytest.mark.parametrize('settings', [{'windows': 'line'}, {'line_order': 'fresh'}], ids=str)
def test_training_takes_the_setting_and_a_resumed_run_keeps_it(command, small_math, tmp_path, settings):
    run = dict(TINY, dataset=small_math, **settings)
    assert command('train_with_eval.py', out_dir=tmp_path / 'whole', **run).status == 0
    assert command('train_with_eval.py', out_dir=tmp_path / 'parts', **{**run, 'max_iters': 13}).status == 0
    assert command('train_with_eval.py', out_dir=tmp_path / 'parts', init_from='resume', **run).status == 0
    whole, parts = (read_results(tmp_path / name / 'results.csv') for name in ('whole', 'parts'))
    assert whole['train_loss'][-1] == parts['train_loss'][-1] < whole['train_loss'][0]
    without = {**TINY, 'dataset': small_math, 'out_dir': tmp_path / 'parts', 'init_from': 'resume'}
    kept = command('train_with_eval.py', **without)    # settings that are not given stay as they were
    assert kept.status == 0 and 'is finished' in kept.out
    refused = command('train_with_eval.py', **without, **{name: BEFORE[name] for name in settings})
    assert refused.status == 2 and next(iter(settings)) in refused.err


# --- the sweeps

SWEEPS = {'arithmetic': 6 * 32, 'arithmetic_wide': 3 * 8,
          'facts_both': 4 * 16, 'facts_both_wd': 4 * 8, 'facts_both_wide': 4 * 4,
          'control_answers': 6 * 8, 'control_answers_line': 5 * 8, 'control_line': 5 * 8,
          'control_facts_line': 2 * 4, 'control_fresh': 3 * 8, 'control_mixed': 3 * 8, 'control_pairs': 4 * 8,
          'bits_table': 6 * 7 * 4, 'bits_strings': 6 * 7 * 4}


@pytest.mark.slow_after_first
@pytest.mark.parametrize('name, seeds', SWEEPS.items())
def test_every_sweep_expands_to_its_seeds_and_its_data_can_be_prepared(name, seeds, tmp_path):
    sweep = Sweep(f'config/sweep_{name}.py', {}, tmp_path)
    assert len(sweep.runs) * sweep.num_seeds == seeds and len({run.name
                                                               for run in sweep.runs}) == len(sweep.runs)
    run = sweep.runs[-1]
    with forked_sweeps():
        sweep.prepare(run)
    config = run.config()
    dataset = Dataset(config.dataset, config.block_size)
    Batches(dataset.train, config.block_size, config.windows, config.line_order, dataset.newline)
    if name.startswith('bits'):    # a whole line has to fit into a window
        longest = max(map(len, dataset.codec.decode(dataset.train.tolist()).splitlines(keepends=True)))
        assert longest <= config.block_size + 1 and config.windows == 'line'


# --- what a summary says of controls

@pytest.mark.parametrize('control', [{'windows': 'line'}, {'line_order': 'fresh'}])
def test_controls_are_not_taken_for_the_papers_runs(control):
    row = row_of_paper('math', 'n14')
    assert as_the_paper(row, 'math') and not as_the_paper(row | control, 'math')


def test_answers_without_a_rule_and_mixed_tasks_are_other_data(no_rule, datasets, tmp_path):
    dealt, both = Dataset(no_rule, 9), Dataset(datasets['both_math_and_facts'], 24)
    mixed = Dataset(prepared('both_math_and_facts', tmp_path / 'mixed', order='mixed'), 24)
    assert in_blocks(dealt) and in_blocks(both) and not in_blocks(mixed)
    papers = row_of_paper('both', 'n14')['data']
    assert data_digest(both.tasks, in_blocks(both)) == papers != data_digest(mixed.tasks, in_blocks(mixed))
    assert data_digest(dealt.tasks, in_blocks(dealt)) != row_of_paper('math', 'n14')['data']


def test_runs_and_summaries_from_before_these_settings_have_the_papers(tmp_path):
    (tmp_path / 'a').mkdir()
    row = {'iter': 0, 'add_correct': 1, 'add_total': 10, 'sub_correct': 1, 'sub_total': 10, 'train_loss': 1,
           'val_loss': 1}
    (tmp_path / 'a/results.csv').write_text(format_results([row]))
    about = {'seed': 1, 'num_params': 9, 'finished': True, 'config': {'n_embd': 14, 'weight_decay': 0.0}}
    (tmp_path / 'a/run.json').write_text(json.dumps(about))
    found = seed_row(tmp_path / 'a')
    assert (found['windows'], found['line_order']) == ('any', 'fixed')
    write_summary(tmp_path / 'summary.csv',
                  [{**found, 'run': 'a', 'folder': 'a', 'tasks': 'math', 'data': 'x'}])
    text = (tmp_path / 'summary.csv').read_text().splitlines()
    keep = [i for i,
            name in enumerate(text[0].split(',')) if name not in ('windows', 'line_order', 'order_learned')]
    (tmp_path / 'old.csv').write_text(''.join(','.join(line.split(',')[i] for i in keep) + '\n'
                                              for line in text))
    for name in ('summary', 'old'):
        read, = read_summaries([tmp_path / f'{name}.csv'])
        assert (read['windows'], read['line_order'], read['order_learned']) == ('any', 'fixed', None)


# --- the arithmetic of wide models

@pytest.mark.parametrize('name, n_embd, able, expected', [
    ('auto', 384, True, 'bfloat16'), ('auto', 256, True, 'bfloat16'), ('auto', 255, True, 'float32'),
    ('auto', 384, False, 'float32'), ('float32', 384, True, 'float32'), ('bfloat16', 14, False, 'bfloat16')])
def test_a_cpu_trains_wide_models_in_bfloat16_where_it_multiplies_in_it(monkeypatch, name, n_embd, able,
                                                                        expected):
    monkeypatch.setattr(device, 'multiplies_bfloat16', lambda: able)
    assert choose_dtype(name, torch.device('cpu'), n_embd) == getattr(torch, expected)


@pytest.mark.slow
def test_the_start_line_names_the_arithmetic(command, small_math, tmp_path):
    run = {**TINY, 'max_iters': 1, 'dataset': small_math}
    assert 'in bfloat16' in command('train_with_eval.py', out_dir=tmp_path / 'a', dtype='bfloat16', **run).out
    assert 'in float32' in command('train_with_eval.py', out_dir=tmp_path / 'b', **run).out
