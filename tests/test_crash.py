"""Runs that die, for real: killed, interrupted, out of disk, out of folder; and that nothing is lost by it."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

import tbtt.atomic
import tbtt.run_folder
from conftest import contents, load, shell
from crash_torture import SCRIPT, SETTINGS, Torture, Training, difference, evaluations
from tbtt.results import read_results

SHORT = dict(SETTINGS, max_iters=4)
LONG = dict(SETTINGS, max_iters=100_000)


@pytest.fixture
def training(small_math, tmp_path):
    """training(folder, prepare=..., **settings): a training under way in a process of its own; none outlives the test."""
    started = []

    def start(name='run', prepare=lambda: None, **settings):
        settings = SHORT | dict(dataset=small_math, out_dir=tmp_path / name) | settings
        started.append(Training(tmp_path / f'log {len(started)}', settings, prepare))
        return started[-1]
    yield start
    for one in started:
        one.kill()
        one.wait()


@pytest.fixture
def ended(training):
    """ended(folder, status=0, **settings): a training, to its end. -> what it printed"""
    def to_its_end(name='run', status=0, **settings):
        one = training(name, **settings)
        assert one.wait() == status, one.said()
        return one.said()
    return to_its_end


@pytest.fixture
def run(ended, tmp_path):
    """The folder of a finished run of three evaluations."""
    ended()
    return tmp_path / 'run'


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of one megabyte."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], capture_output=True).returncode:
        pytest.skip('a disk cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def one_line(said):
    """The last line printed, which is the only one of an error."""
    lines = [line for line in said.splitlines() if not line.startswith('iter')]
    assert 'Traceback' not in said and [line.startswith('error: ') for line in lines].count(True) == 1, said
    return lines[-1]


def unlocked(folder):
    """All that lies there but the lock."""
    return {path: content for path, content in contents(folder).items() if path != '.lock'}


# Killed.

@pytest.fixture
def torture(small_math, tmp_path):
    def of(num_seeds):
        (tmp_path / 'torture').mkdir()
        return Torture(tmp_path / 'torture', SHORT | dict(dataset=small_math, num_seeds=num_seeds), random.Random(0))
    return of


@pytest.mark.parametrize('num_seeds', [1, 3])
def test_a_run_killed_between_the_writing_of_files_is_the_run_that_was_not(torture, num_seeds):
    chains = torture(num_seeds)
    for moment in np.linspace(1, chains.moments, 5).astype(int).tolist():
        chains.chain([moment, 1 + moment // 3])
    assert (chains.differ, chains.lost) == (0, 0) and chains.within >= 5, chains.report()


def test_a_run_killed_at_random_moments_is_the_run_that_was_not(torture):
    chains = torture(1)
    chains.chain([None, None])
    assert (chains.differ, chains.lost) == (0, 0), chains.report()


def test_a_run_killed_before_its_first_evaluation_starts_anew_without_a_word(training, ended, run, tmp_path):
    ended('other', prepare=lambda: setattr(tbtt.run_folder, 'write_files', die), status=-signal.SIGKILL)
    ended('other')
    assert difference(run, tmp_path / 'other') == 0


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_crash_leaves_lying_about_is_cleaned_up_and_nothing_of_the_users(ended, run):
    mine = {'notes.tmp': b'mine', 'my_commit.json': b'{}', 'seed_plan.txt': b''}
    for name, content in mine.items():
        (run / name).write_bytes(content)
    for name in ('ckpt.pt', 'results.csv'):
        (run / f'{name}{tbtt.atomic.BESIDE}').write_bytes(b'half')
    before = unlocked(run)
    ended(init_from='resume')
    assert unlocked(run) == {path: content for path, content in before.items() if not path.endswith(tbtt.atomic.BESIDE)
                             or path in mine}


def test_a_run_killed_at_its_very_end_still_gets_its_mark(torture):
    chains = torture(1)
    for moment in range(chains.moments, chains.moments - 7, -2):
        chains.chain([moment])    # which looks for the mark
    assert (chains.differ, chains.within) == (0, 4), chains.report()


def test_a_power_cut_finds_every_file_on_the_disk_before_the_list_that_names_it(tmp_path, monkeypatch):
    """A file is on the disk when it was flushed, its name when its folder was: POSIX promises no more."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (events.append(os.readlink(f'/proc/self/fd/{fd}')), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda old, new: (events.append(('rename', str(new))), replace(old, new)))
    (tmp_path / 'seed_1').mkdir()
    tbtt.atomic.write_files(tmp_path, {'a': b'a', 'seed_1/b': b'b'})
    commit, first = [i for i, event in enumerate(events) if event[0] == 'rename'][:2]
    folders = {str(tmp_path), str(tmp_path / 'seed_1')}
    assert folders <= {event for event in events[:commit] if isinstance(event, str)}
    assert str(tmp_path) in events[commit:first]      # the list itself, before anything is put in place
    assert folders <= {event for event in events[first:] if isinstance(event, str)}    # and all names, before it goes


# Interrupted.

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('num_seeds', [1, 3])
def test_a_signal_ends_the_step_saves_and_says_where(training, ended, tmp_path, number, num_seeds):
    one = training(**LONG, num_seeds=num_seeds)
    assert one.says('iter      6')
    one.kill(number)
    assert one.wait() == 128 + number
    line = one.said().splitlines()[-1]
    at = int(line.split('after iteration ')[1].split(',')[0])
    assert f'saved in {tmp_path / "run"}' in line and '--init_from=resume' in line
    checkpoint, = {load(path)['iter_num'] for path in (tmp_path / 'run').rglob('ckpt.pt')}
    assert checkpoint == at >= 6
    last = at + 2 - at % 2
    ended(init_from='resume', max_iters=last, num_seeds=num_seeds)
    ended('whole', max_iters=last, num_seeds=num_seeds)
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


def test_a_second_ctrl_c_goes_at_once_and_corrupts_nothing(training, ended, tmp_path):
    one = training(**LONG, prepare=lambda: slow(tbtt.run_folder, 'to_bytes', 0.2))
    assert one.says('iter      4')
    one.kill(signal.SIGINT)
    time.sleep(0.05)
    begin = time.monotonic()
    one.kill(signal.SIGINT)
    assert one.wait() in (-signal.SIGINT, 128 + signal.SIGINT) and time.monotonic() - begin < 1
    last = evaluations(tmp_path / 'run') + 4
    ended(init_from='resume', max_iters=last)
    ended('whole', max_iters=last)
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


def slow(module, name, seconds):
    """Let a function take longer."""
    function = getattr(module, name)
    setattr(module, name, lambda *args: (time.sleep(seconds), function(*args))[1])


# Two on one folder.

@pytest.mark.parametrize('second', [dict(init_from='resume'), dict(), dict(overwrite=True)], ids=str)
def test_a_second_training_is_refused_while_the_first_lives_and_no_longer(training, ended, small_math, tmp_path, second):
    first = training(**LONG)
    assert first.says('iter      2')
    if 'overwrite' in second:    # as a user would see it
        said = shell(SCRIPT, cwd=tmp_path, **SHORT | dict(dataset=small_math, out_dir=tmp_path / 'run') | second)
        assert said.status == 2 and 'another training writes into' in one_line(said.err) and said.out == ''
    else:
        assert ('another training' if second else 'another run') in one_line(ended(status=2, **second))
    assert first.ended() is None
    first.kill()
    first.wait()
    at = evaluations(tmp_path / 'run')
    ended(init_from='resume', max_iters=at + 2)
    ended('whole', max_iters=at + 2)
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


# Disks and folders.

def test_a_full_disk_names_the_file_and_keeps_the_last_good_state(ended, disk, tmp_path):
    ended('disk/run')
    before = unlocked(disk / 'run')
    with open(disk / 'filler', 'wb', buffering=0) as filler, pytest.raises(OSError):
        while filler.write(b'0' * 4096):
            pass
    line = one_line(ended('disk/run', status=2, init_from='resume', max_iters=8))
    assert str(disk / 'run') in line and 'No space left' in line
    assert {path: content for path, content in unlocked(disk / 'run').items() if path in before} == before
    (disk / 'filler').unlink()
    ended('disk/run', init_from='resume', max_iters=8)
    ended('whole', max_iters=8)
    assert difference(tmp_path / 'whole', disk / 'run') == 0


def test_a_quota_names_the_file_and_keeps_the_last_good_state(ended, run, tmp_path):
    before = unlocked(run)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    line = one_line(ended(status=2, init_from='resume', max_iters=8, prepare=limit))
    assert 'ckpt' in line and 'File too large' in line
    assert {path: content for path, content in unlocked(run).items() if path != 'run.json'} == {
        path: content for path, content in before.items() if path != 'run.json'}
    ended(init_from='resume', max_iters=8)
    ended('whole', max_iters=8)
    assert difference(tmp_path / 'whole', run) == 0


def test_a_read_only_folder_is_named_and_unchanged(ended, disk):
    ended('disk/run')
    before = contents(disk)
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    line = one_line(ended('disk/run', status=2, init_from='resume', max_iters=8))
    assert str(disk / 'run') in line and 'Read-only' in line
    assert 'Read-only' in one_line(ended('disk/new', status=2))
    assert contents(disk) == before


@pytest.mark.parametrize('num_seeds', [1, 3])
def test_a_folder_removed_under_way_is_named_and_does_not_come_back(training, tmp_path, num_seeds):
    one = training(**LONG | dict(num_seeds=num_seeds, eval_interval=100))
    assert one.says('iter    100')
    time.sleep(0.1)    # it steps, and writes nothing
    os.rename(tmp_path / 'run', tmp_path / 'gone')
    assert one.wait(20) == 2
    assert str(tmp_path / 'run') in one_line(one.said()) and not (tmp_path / 'run').exists()
    shutil.rmtree(tmp_path / 'gone')


# Data, losses, settings.

@pytest.mark.parametrize('name', ['train.bin', 'val.bin', 'meta.pkl'])
def test_data_that_change_while_training_do_not_reach_it_and_stop_the_next(training, ended, run, small_math, tmp_path, name):
    data = shutil.copytree(small_math, tmp_path / 'data')
    one = training('part', dataset=data, max_iters=400)
    assert one.says('iter      2')
    good = (data / name).read_bytes()
    (data / name).write_bytes(good[:-6] if name == 'meta.pkl' else good[2:] + good[:2])
    one.kill(signal.SIGTERM)
    assert one.wait() in (2, 128 + signal.SIGTERM)    # what was read is whole, but it may as well say what it sees
    line = one_line(ended('part', status=2, dataset=data, init_from='resume', max_iters=400))
    assert 'data' in line and 'prepare' in line
    (data / name).write_bytes(good)
    at = load(tmp_path / 'part/ckpt.pt')['iter_num']
    ended('part', dataset=data, init_from='resume', max_iters=at + 2 - at % 2)
    ended('whole', max_iters=at + 2 - at % 2)
    assert difference(tmp_path / 'whole', tmp_path / 'part') == 0


def ill(seed, iteration):
    """Let the loss of one seed be no number from an iteration on."""
    import tbtt.engine
    step = tbtt.engine.Engine.step

    def sick(self, state, starts, rate):
        losses, new = step(self, state, starts, rate)
        here = (self.seeds == seed) & (state.steps[:, 0] >= iteration)
        new = new._replace(flat=torch.where(here[:, None], torch.nan, new.flat))
        return torch.where(here, torch.nan, losses), new
    tbtt.engine.Engine.step = sick


def test_a_loss_that_is_not_finite_is_in_the_results_and_not_in_a_checkpoint(ended, tmp_path):
    said = ended(status=1, prepare=lambda: ill(1337, 3), max_iters=8)
    assert 'not finite at iteration 3' in said
    assert np.isnan(read_results(tmp_path / 'run/results.csv')['train_loss'][-1])
    checkpoint = load(tmp_path / 'run/ckpt.pt')
    assert checkpoint['iter_num'] == 2 and all(value.isfinite().all() for value in checkpoint['model'].values())
    assert json.loads((tmp_path / 'run/run.json').read_text())['diverged'] == 3


def test_the_last_good_checkpoint_is_written_though_the_disk_is_slower_than_the_loss(ended, tmp_path):
    def prepare():
        ill(1338, 3)
        slow(tbtt.run_folder, 'to_bytes', 0.3)
    ended(prepare=prepare, num_seeds=3)
    assert load(tmp_path / 'run/seed_1338/ckpt.pt')['iter_num'] == 2
    assert [load(tmp_path / f'run/seed_{seed}/ckpt.pt')['iter_num'] for seed in (1337, 1339)] == [4, 4]


def test_seeds_interrupted_just_after_one_diverged_go_on_as_if_they_had_not_been(training, ended, tmp_path):
    def prepare():
        ill(1338, 10)
        import tbtt.progress
        step = tbtt.progress.Progress.step

        def interrupted(self, t, losses):
            if t == 13:
                os.kill(os.getpid(), signal.SIGTERM)
            step(self, t, losses)
        tbtt.progress.Progress.step = interrupted
    settings = dict(num_seeds=3, eval_interval=5, max_iters=20)
    ended(status=128 + signal.SIGTERM, prepare=prepare, **settings)
    ended(init_from='resume', prepare=lambda: ill(1338, 10), **settings)
    ended('whole', prepare=lambda: ill(1338, 10), **settings)
    rows = read_results(tmp_path / 'run/seed_1338/results.csv')
    assert rows['iter'].tolist() == [0, 5, 10, 15] and np.isnan(rows['train_loss'][-1])
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


def test_a_finished_run_says_so_changes_nothing_and_may_go_further(ended, run, tmp_path):
    before = contents(run)
    assert 'is finished at iteration 4' in ended(init_from='resume') and contents(run) == before
    ended(init_from='resume', max_iters=8)
    ended('whole', max_iters=8)
    assert difference(tmp_path / 'whole', run) == 0


@pytest.mark.parametrize('name, value', [
    ('n_embd', 12), ('n_layer', 2), ('n_head', 2), ('mlp_expansion', 2), ('block_size', 8), ('bias', True),
    ('dropout', 0.1), ('batch_size', 32), ('gradient_accumulation_steps', 2), ('learning_rate', 0.02), ('min_lr', 0.002),
    ('warmup_iters', 3), ('lr_decay_iters', 30), ('decay_lr', False), ('weight_decay', 0.1), ('beta1', 0.8),
    ('beta2', 0.9), ('grad_clip', 2.0), ('eval_interval', 4), ('eval_iters', 100)])
def test_a_setting_that_cannot_change_under_way_is_refused_by_name(command, learned_briefly, name, value):
    settings, folder = learned_briefly
    before = contents(folder)
    result = command(SCRIPT, **settings | {name: value, 'init_from': 'resume', 'max_iters': 8})
    assert result.status == 2 and f'{name}=' in one_line(result.err) and 'cannot change' in result.err
    assert contents(folder) == before


@pytest.fixture(scope='module')
def learned_briefly(small_math, tmp_path_factory):
    folder = tmp_path_factory.mktemp('brief') / 'run'
    settings = SHORT | dict(dataset=small_math, out_dir=folder)
    assert Training(folder.parent / 'log', settings).wait() == 0
    return settings, folder


def test_results_that_are_not_what_the_run_wrote_are_not_gone_on_with(ended, run):
    text = (run / 'results.csv').read_text()
    for damaged in (text.replace('\n2,', '\n3,'), text.replace('\n2,', '\n2,1', 1).replace('2,10', '2,0', 1),
                    ''.join(text.splitlines(True)[:-1]), text[:-1]):
        if damaged == text:
            continue
        (run / 'results.csv').write_text(damaged)
        before = contents(run)
        assert 'results.csv' in one_line(ended(status=2, init_from='resume', max_iters=8))
        assert contents(run) == before
