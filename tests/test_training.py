"""Whole runs: what they leave, how they go on, and that they learn."""
import concurrent.futures
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import tbtt.atomic
import tbtt.progress
from conftest import LEARNS, TINY, contents, equal_weights, load, tiny_config
from tbtt.atomic import COMMIT, half_made, recover, remove_leftovers, write_files, write_folders
from tbtt.provenance import commit
from tbtt.results import best_row, read_results
from train_with_eval import resolve

SCRIPT = 'train_with_eval.py'
LATEST = {'ckpt.pt', 'results.csv', 'answers.npz', 'run.json', '.lock'}


@pytest.fixture
def run(command, small_math, tmp_path):
    """run(folder, **settings): a tiny run, trained to its end. -> its folder"""
    def to_its_end(name, status=0, **settings):
        settings = TINY | dict(dataset=small_math, out_dir=tmp_path / name) | settings
        result = command(SCRIPT, **settings)
        assert result.status == status, result.err
        return tmp_path / name
    return to_its_end


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(iteration): a signal reaches this process after that step of the next run."""
    def at(iteration, number=signal.SIGINT):
        step = tbtt.progress.Reporter.step

        def interrupted(self, t, losses):
            if t == iteration:
                monkeypatch.setattr(tbtt.progress.Reporter, 'step', step)
                os.kill(os.getpid(), number)
            step(self, t, losses)
        monkeypatch.setattr(tbtt.progress.Reporter, 'step', interrupted)
    return at


def same_run(one, other):
    """Equal results and answers byte for byte, equal weights and optimizer state bit for bit."""
    a, b = load(one / 'ckpt.pt'), load(other / 'ckpt.pt')
    states = [checkpoint['optimizer']['state'] for checkpoint in (a, b)]
    return (all((one / name).read_bytes() == (other / name).read_bytes()
                for name in ('results.csv', 'answers.npz'))
            and a['iter_num'] == b['iter_num'] and equal_weights(a['model'], b['model'])
            and all(equal_weights(states[0][i], states[1][i]) for i in states[0]))


# Learning.

def test_a_short_training_learns(learned):
    results = read_results(learned / 'results.csv')
    assert results['iter'].tolist() == list(range(0, 301, 50))
    assert results['train_loss'][0] > 2.5 and results['train_loss'][-1] < 0.75
    assert results['math_acc'][0] < 10 and results['math_acc'][-1] > 50
    assert results['seen_prob'][-1] > 0.2 > results['seen_prob'][0]
    assert (results['train_loss'] == results['val_loss']).all() and results['heldout_total'][0] == 40


# What a run leaves.

def test_a_run_leaves_its_files_and_nothing_else(run, learned):
    both = {'ckpt_best_math.pt', 'ckpt_best_combined.pt'} | LATEST
    assert set(contents(learned)) == both == set(contents(run('a')))


@pytest.mark.parametrize('score', ['math', 'combined'])
def test_the_best_checkpoint_is_the_first_of_the_highest_score(learned, score):
    results, checkpoint = read_results(learned / 'results.csv'), load(learned / f'ckpt_best_{score}.pt')
    row = best_row(results, score)
    assert checkpoint['iter_num'] == results['iter'][row] > 0
    assert checkpoint['best'][score] == pytest.approx(results[f'{score}_acc'][row])
    assert checkpoint['best_val_loss'] == results['val_loss'][:row + 1].min()


@pytest.mark.parametrize('ckpt', ['ckpt_best_math.pt', 'ckpt.pt'])
def test_a_checkpoint_scores_what_the_run_wrote_down(command, learned, ckpt):
    found = json.loads(command('eval_as_math.py', '--json', out_dir=learned, ckpt=ckpt).out)
    results = read_results(learned / 'results.csv')
    row = results['iter'].tolist().index(found['iteration'])
    for group in ('add', 'sub', 'heldout'):
        assert found[group] == {'correct': results[f'{group}_correct'][row],
                                'total': results[f'{group}_total'][row]}


def test_an_equal_score_does_not_replace_the_best_checkpoint(run):
    # With a learning rate of zero every evaluation finds the same model.
    folder = run('a', learning_rate=0, min_lr=0)
    assert len(set(read_results(folder / 'results.csv')['math_acc'])) == 1
    assert load(folder / 'ckpt_best_math.pt')['iter_num'] == 0 and load(folder / 'ckpt.pt')['iter_num'] == 20


def test_the_run_says_what_made_it(run, small_math):
    folder = run('a', n_embd=10, seed=4)
    about = json.loads((folder / 'run.json').read_text())
    assert about['config']['n_embd'] == 10 and about['config']['dataset'] == str(small_math)
    assert about['seed'] == 4 and about['iter_num'] == 20
    assert about['finished'] is True and about['tasks'] == ['math']
    assert about['versions']['torch'] == torch.__version__
    assert about['hardware'] and about['step'].startswith('eager') and about['dtype'] == 'float32'
    assert '--seed=4' in about['command'] and about['num_params'] > 0


def test_a_checkpoint_has_nanogpts_keys_and_carries_codec_and_tasks(learned):
    checkpoint = load(learned / 'ckpt.pt')
    assert {'model', 'optimizer', 'model_args', 'iter_num', 'best_val_loss', 'config'} <= checkpoint.keys()
    assert checkpoint['meta']['stoi']['<'] >= 0 and checkpoint['meta']['tasks']['math']['max_operand'] == 4
    assert checkpoint['config']['max_iters'] == 300 and 'mlp_expansion' not in checkpoint['model_args']


def test_the_last_iteration_is_evaluated_whatever_the_interval(run):
    assert read_results(run('a', max_iters=25) / 'results.csv')['iter'].tolist() == [0, 10, 20, 25]
    assert read_results(run('b', max_iters=0) / 'results.csv')['iter'].tolist() == [0]


# The same run.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('settings', [dict(), dict(dropout=0.2), dict(num_seeds=2)])
def test_the_same_seed_gives_the_same_run(run, settings):
    torch.manual_seed(1)
    one = run('a', **settings)
    torch.manual_seed(2)
    other = run('b', **settings)
    for below in ('seed_1337', 'seed_1338') if 'num_seeds' in settings else ('.',):
        assert same_run(one / below, other / below)


@pytest.mark.slow
def test_another_seed_gives_another_run(run):
    assert not equal_weights(*(load(run(f'seed {seed}', seed=seed) / 'ckpt.pt')['model'] for seed in (1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize('interval', [1, 7, 20])
def test_how_often_one_evaluates_does_not_change_the_weights(run, interval):
    one, other = run('a'), run('b', eval_interval=interval)
    assert equal_weights(load(one / 'ckpt.pt')['model'], load(other / 'ckpt.pt')['model'])
    a, b = (read_results(folder / 'results.csv') for folder in (one, other))
    assert a['train_loss'][-1] == b['train_loss'][-1] and a['add_correct'][-1] == b['add_correct'][-1]


@pytest.mark.slow
def test_three_seeds_leave_what_three_runs_leave(run):
    settings = dict(n_embd=16, max_iters=40, batch_size=64)
    together = run('many', num_seeds=3, seed=7, **settings)
    assert {path.name for path in together.iterdir()} == {'seed_7', 'seed_8', 'seed_9'}
    for seed in (7, 8, 9):
        alone, one = run(f'run {seed}', seed=seed, **settings), together / f'seed_{seed}'
        assert set(contents(alone)) == set(contents(one))
        a, b = (read_results(folder / 'results.csv') for folder in (alone, one))
        for column in ('iter', 'add_correct', 'sub_correct', 'heldout_correct'):
            assert a[column].tolist() == b[column].tolist()
        assert a['train_loss'] == pytest.approx(b['train_loss'], abs=1e-5)
        c, d = (load(folder / 'ckpt.pt') for folder in (alone, one))
        assert c['config']['seed'] == d['config']['seed'] == seed and d['config']['num_seeds'] == 1
        assert all(torch.allclose(c['model'][name], d['model'][name], atol=1e-5) for name in c['model'])


# Resuming.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('settings',
                         [dict(), dict(num_seeds=2), dict(gradient_accumulation_steps=2, weight_decay=0.1),
                          dict(dropout=0.2)], ids=['plain', 'seeds', 'accumulated', 'dropout'])
@pytest.mark.parametrize('at', [10, 13])    # at the end of a stretch between evaluations, and within one
def test_a_resumed_run_is_the_run_that_was_never_interrupted(run, interrupt, settings, at):
    whole = run('whole', **settings)
    interrupt(at)
    part = run('part', status=128 + signal.SIGINT, **settings)
    run('part', init_from='resume', **settings)
    for below in ('seed_1337', 'seed_1338') if 'num_seeds' in settings else ('.',):
        assert same_run(whole / below, part / below)


def test_an_interrupted_run_has_saved_the_step_it_was_at(run, interrupt):
    interrupt(13, signal.SIGTERM)
    folder = run('a', status=128 + signal.SIGTERM)
    assert load(folder / 'ckpt.pt')['iter_num'] == 13
    assert read_results(folder / 'results.csv')['iter'].tolist() == [0, 10]
    about = json.loads((folder / 'run.json').read_text())
    assert about['iter_num'] == 13 and about['finished'] is False


@pytest.mark.slow
def test_a_run_prolonged_is_the_longer_run(run):
    whole = run('whole', max_iters=30)
    run('part')
    assert same_run(whole, run('part', init_from='resume', max_iters=30))


def test_a_resumed_run_keeps_and_logs_what_it_kept_and_logged(run):
    folder = run('a', keep_checkpoints=10, dtype='bfloat16', log_interval=5)    # a machine may lack the dtype
    config = resolve([], dict(out_dir=str(folder), init_from='resume', device='cpu'))
    assert (config.keep_checkpoints, config.dtype, config.log_interval) == (10, 'auto', 5)


def test_resuming_a_finished_run_changes_nothing(run):
    folder = run('a')
    before = contents(folder)
    run('a', init_from='resume')
    assert contents(folder) == before


def test_resuming_remembers_the_best_scores(run, copy_of_learned):
    checkpoint, best = load(copy_of_learned / 'ckpt.pt'), (copy_of_learned / 'ckpt_best_math.pt').read_bytes()
    torch.save(checkpoint | {'best': {'math': 100.0, 'combined': 100.0}}, copy_of_learned / 'ckpt.pt')
    run('run', **LEARNS | dict(max_iters=310, init_from='resume'))
    assert (copy_of_learned / 'ckpt_best_math.pt').read_bytes() == best
    assert load(copy_of_learned / 'ckpt.pt')['iter_num'] == 310


def test_the_time_of_a_resumed_run_counts_all_its_parts(run):
    folder = run('a')
    path = folder / 'run.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'seconds': 1000.0}))
    run('a', init_from='resume', max_iters=30)
    assert json.loads(path.read_text())['seconds'] > 1000


def test_the_seconds_of_a_run_are_counted_once(command, small_math, tmp_path):
    begin = time.monotonic()
    settings = TINY | dict(dataset=small_math, out_dir=tmp_path / 'run')
    assert command('train_with_eval.py', **settings).status == 0
    took = time.monotonic() - begin + 0.05    # seconds are rounded to tenths
    assert 0 < json.loads((tmp_path / 'run' / 'run.json').read_text())['seconds'] <= took


@pytest.mark.slow
def test_overwriting_leaves_nothing_of_the_run_before(run):
    fresh, used = run('fresh', seed=3), run('used', num_seeds=2)
    run('used', overwrite=True, seed=3)
    assert same_run(fresh, used)
    assert not [path for path in used.glob('seed_*/*')]


@pytest.mark.parametrize('resume', [False, True])
def test_eval_only_prints_the_scores_and_writes_nothing(command, learned, small_math, tmp_path, resume):
    settings = LEARNS | dict(dataset=small_math, eval_only=True, out_dir=tmp_path / 'none')
    if resume:
        settings |= dict(init_from='resume', out_dir=learned)
    before = contents(learned)
    result = command(SCRIPT, **settings)
    last = read_results(learned / 'results.csv')['add_acc'][-1] if resume else 0
    assert result.status == 0 and f'addition {last:.1f}%' in result.out and 'held-out' in result.out
    assert contents(learned) == before and not (tmp_path / 'none').exists()


def test_where_the_output_is_no_terminal_lines_are_plain(command, small_math, tmp_path):
    result = command(SCRIPT, dataset=small_math, out_dir=tmp_path / 'a',
                     **TINY | dict(log_interval=5, eval_interval=20))
    lines = [line.split(':')[0].split() for line in result.out.splitlines() if line.startswith('iter')]
    assert [int(number) for _, number in lines] == [0, 5, 10, 15, 20, 20]
    assert '\r' not in result.out + result.err and result.err == ''


def test_a_machine_without_git_trains(run, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert json.loads((run('a') / 'run.json').read_text())['commit'] is None


def test_the_commit_is_this_projects_own_and_never_that_of_a_repository_around_it(tmp_path):
    inner = tmp_path / 'unpacked'
    inner.mkdir()
    (inner / 'file').write_text('mine')
    for args in (['init', '-q'], ['add', '.'],
                 ['-c', 'user.name=a', '-c', 'user.email=b', 'commit', '-qm', 'outer']):
        subprocess.run(['git', '-C', tmp_path, *args], check=True)
    assert commit(inner) is None and len(commit(tmp_path)) == 12
    (inner / 'file').write_text('changed')
    assert commit(tmp_path).endswith('-dirty')


@pytest.mark.parametrize('columns', [80, 100, 200])
def test_on_a_terminal_a_bar_shows_iteration_speed_time_and_the_loss_and_where_there_is_room_scores(
        monkeypatch, columns):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr(tbtt.progress, 'REFRESH', 0)
    monkeypatch.setenv('COLUMNS', str(columns))
    row = dict(add_correct=490, add_total=1000, heldout_correct=23, heldout_total=40, heldout_answered=2,
               heldout_questions=4, combined_acc=49.0, train_loss=1.5, val_loss=2.5)
    with tbtt.progress.Reporter(tiny_config(max_iters=30000)) as report:
        report.start(10000, 'on we go')
        report.bar.ncols, report.bar.dynamic_ncols = columns, None
        report.evaluation(12345, [row], on_the_disk())
        report.step(12345, torch.full((2345, 1), 1.25))
    bars = [text for text in terminal.getvalue().split('\r') if '12345/30000' in text]
    assert all(part in bars[-1]
               for part in ('41%', '[', '<', 'it/s', 'loss 1.2500')) and '#' * 2 in bars[-1].replace('█', '#')
    assert ('49% right, held-out 23/40' in bars[-1]) == (columns >= 100) and len(bars[-1].rstrip()) <= columns


def on_the_disk(error=None):
    """A finished future, as a record returns it."""
    future = concurrent.futures.Future()
    future.set_exception(error) if error else future.set_result([])
    return future


def test_an_evaluation_is_told_once_it_is_on_the_disk_and_never_where_it_did_not_get_there(capsys):
    row = dict(train_loss=1.5, val_loss=2.5)
    with tbtt.progress.Reporter(tiny_config(log_interval=1)) as report:
        report.start(0, 'on we go')
        written = concurrent.futures.Future()
        report.evaluation(0, [row], written)
        report.step(1, torch.ones(1, 1))
        assert 'iter' not in capsys.readouterr().out    # nothing is printed before the evaluation is saved
        written.set_result([])
        report.step(2, torch.ones(1, 1))
        assert [line.split(':')[0] for line in capsys.readouterr().out.splitlines()] == [
            f'iter      {t}' for t in (0, 1, 2)]
        report.evaluation(2, [row], on_the_disk(OSError('full')))
    assert capsys.readouterr().out == ''


def test_a_word_is_said_while_something_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(tbtt.progress, 'SLOW', 0.01)
    with tbtt.progress.Reporter(tiny_config()) as report:
        with report.if_slow('compiling'):
            time.sleep(0.1)
        with report.if_slow('not said'):
            pass
        time.sleep(0.05)
    assert capsys.readouterr().out == 'compiling\n'


def test_a_run_that_diverges_stops_keeps_its_last_good_checkpoint_and_does_not_go_on(run):
    settings = dict(learning_rate=1000, weight_decay=1000, decay_lr=False, grad_clip=0)
    folder = run('a', status=1, **settings)
    about, results = json.loads((folder / 'run.json').read_text()), read_results(folder / 'results.csv')
    assert 0 < about['diverged'] <= 10 and results['iter'].tolist() == [0, 10]
    assert not np.isfinite(results['train_loss'][1])
    checkpoint = load(folder / 'ckpt.pt')
    assert checkpoint['iter_num'] == 0 and all(value.isfinite().all()
                                               for value in checkpoint['model'].values())
    before = contents(folder)
    run('a', status=1, init_from='resume', max_iters=30, **settings)    # it reports this and stops
    assert contents(folder) == before


@pytest.mark.slow
def test_a_seed_that_diverges_leaves_the_others_as_they_would_be(run):
    whole, ill = run('whole', num_seeds=2, max_iters=30), run('ill', num_seeds=2)
    path = ill / 'seed_1338/ckpt.pt'
    checkpoint = load(path)
    checkpoint['model']['transformer.ln_f.weight'] *= torch.nan
    torch.save(checkpoint, path)
    run('ill', num_seeds=2, init_from='resume', max_iters=30)
    assert same_run(whole / 'seed_1337', ill / 'seed_1337') and load(path)['iter_num'] == 20
    about = [json.loads((ill / f'seed_{seed}/run.json').read_text())['diverged'] for seed in (1337, 1338)]
    assert about == [None, 20]


# Files that change together.

@pytest.fixture
def two(tmp_path):
    """Two folders with old content in their files `a` and `b`."""
    folders = [tmp_path / name for name in ('seed_1', 'seed_2')]
    for folder in folders:
        folder.mkdir()
    write_folders({folder: {'a': b'old', 'b': b'old'} for folder in folders})
    return folders


def crash_at(monkeypatch, crash, folders, commit=COMMIT):
    """Let a change die at rename number `crash`, as a killed process does: nothing is cleaned up."""
    calls, replace = [], os.replace

    def fail(*args):
        calls.append(args)
        if len(calls) == crash:
            raise KeyboardInterrupt
        replace(*args)
    monkeypatch.setattr(os, 'replace', fail)
    monkeypatch.setattr(tbtt.atomic, 'undo', lambda *_: None)
    monkeypatch.setattr(tbtt.atomic, 'in_parallel', lambda *args: list(map(*args)))
    try:
        write_folders({folder: {'a': b'new', 'b': b'new'} for folder in folders}, commit)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()


def found(*folders):
    """The contents of the files in the folders, which may have no other files."""
    assert all(set(contents(folder)) == {'a', 'b'} for folder in folders)
    return {content for folder in folders for content in contents(folder).values()}


@pytest.mark.parametrize('crash', range(1, 8))
def test_after_a_crash_all_files_are_old_or_all_are_new(two, monkeypatch, crash):
    crash_at(monkeypatch, crash, two)
    recover(two, 'ab'.__contains__)
    assert found(*two) == ({b'old'} if crash == 1 else {b'new'})    # it counts as made once a list is there


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize('crash', range(1, 8))
def test_folders_that_changed_as_one_are_whole_where_each_is_opened_alone(two, monkeypatch, crash, order):
    crash_at(monkeypatch, crash, two)
    for folder in two[::order]:
        recover([folder], 'ab'.__contains__)
        assert len(found(folder)) == 1
    recover(two, 'ab'.__contains__)
    assert all(len(found(folder)) == 1 for folder in two)


@pytest.mark.parametrize('alone', [True, False])
@pytest.mark.parametrize('second', range(1, 4))
@pytest.mark.parametrize('crash', range(1, 8))
def test_a_crash_while_a_crash_is_cleaned_up_does_no_more_harm(two, monkeypatch, crash, second, alone):
    crash_at(monkeypatch, crash, two)
    calls, replace = [], os.replace
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append(args) or (
        replace(*args) if len(calls) != second else (_ for _ in ()).throw(KeyboardInterrupt)))
    with contextlib.suppress(KeyboardInterrupt):
        recover(two, 'ab'.__contains__)
    monkeypatch.undo()
    if alone:    # a run that opens only the second folder decides for that folder alone
        recover(two[1:], 'ab'.__contains__)
        assert len(found(two[1])) == 1
    recover(two, 'ab'.__contains__)
    assert len(found(two[0])) == len(found(two[1])) == 1 and (alone or len(found(*two)) == 1)


def test_what_an_old_list_says_of_a_folder_that_went_on_alone_is_not_obeyed(two, monkeypatch):
    crash_at(monkeypatch, 2, two)    # the first folder has its list, the second does not
    recover(two[1:], 'ab'.__contains__)
    for name in 'ab':    # it dies again, before it writes its own list
        (two[1] / f'{name}.00000000.tbtt.tmp').write_bytes(b'half')
    recover(two, 'ab'.__contains__)
    assert found(two[0]) == {b'new'} and found(two[1]) == {b'old'}


def test_a_list_of_another_name_is_none_of_a_runs(two, monkeypatch):
    crash_at(monkeypatch, 2, two[:1], 'trace.tbtt.commit.json')
    assert not half_made(two, 'ab'.__contains__) and (two[0] / 'trace.tbtt.commit.json').exists()
    write_files(two[0], {'a': b'new', 'b': b'new'}, 'trace.tbtt.commit.json')
    remove_leftovers(two[0])
    assert found(two[0]) == {b'new'}


def test_a_file_that_another_program_took_away_is_an_error_and_all_stays_old(two, monkeypatch):
    write_list = tbtt.atomic.write_list
    monkeypatch.setattr(tbtt.atomic, 'write_list', lambda path, change: (
        next(path.parent.glob(f'b.{change.name}.*')).unlink(), write_list(path, change)))
    with pytest.raises(OSError, match='removed by another program'):
        write_folders({folder: {'a': b'new', 'b': b'new'} for folder in two})
    assert found(*two) == {b'old'}
