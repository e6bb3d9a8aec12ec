"""Runs that really die (killed, interrupted, disk full, folder gone) lose nothing."""
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tbtt.atomic
import tbtt.run_folder
import tbtt.seed_folder
from chaos import (
    SCRIPT,
    SETTINGS,
    Chaos,
    Moments,
    Training,
    difference,
    forked_sweeps,
    free_port,
    rank_of_two,
)
from conftest import contents, load
from tbtt.results import read_results
from tbtt.sweep import launch
from tbtt.sweep.plan import Sweep
from test_sweep import sweep_file

SHORT = dict(SETTINGS, max_iters=4)
LONG = dict(SETTINGS, max_iters=100_000, keep_checkpoints=0)


@pytest.fixture
def training(small_math, tmp_path):
    """training(folder, prepare=..., **settings): a running training in a child process, which is killed after
    the test at the latest."""
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
    """ended(folder, status=0, **settings): a training, run to its end. -> what it printed"""
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
    """A separate disk of one megabyte."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder],
                      capture_output=True).returncode:
        pytest.skip('a disk cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def one_line(said):
    """The last line printed. Exactly one line may be an error, and there may be no traceback."""
    lines = [line for line in said.splitlines() if not line.startswith('iter')]
    assert 'Traceback' not in said and [line.startswith('error: ') for line in lines].count(True) == 1, said
    return lines[-1]


def unlocked(folder):
    """The contents of a folder, without locks."""
    return {path: content for path, content in contents(folder).items() if not path.endswith('.lock')}


def evaluations(folder):
    """The iteration of the last evaluation on the disk, -1 without one."""
    return max((int(read_results(path)['iter'][-1]) for path in folder.rglob('results.csv')), default=-1)


# Killed.

@pytest.fixture(scope='module', params=[1, 3])
def alone(request, small_math, tmp_path_factory):
    """An undisturbed run, of one seed and of three. -> its settings, its folder, the number of moments at
    which its files change"""
    folder = tmp_path_factory.mktemp('alone')
    settings, count = SHORT | dict(dataset=small_math, num_seeds=request.param), folder / 'moments'

    def prepare():
        moments = Moments(folder / 'run', None)
        end, os._exit = os._exit, lambda status: (count.write_text(str(moments.count)), end(status))
    assert Training(folder / 'log', settings | dict(out_dir=folder / 'run'), prepare).wait() == 0
    return settings, folder / 'run', int(count.read_text())


@pytest.mark.slow_after_first
@pytest.mark.parametrize('share', [0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
def test_a_run_killed_between_the_writing_of_files_is_the_run_that_was_not(alone, training, tmp_path, share):
    settings, whole, moments = alone
    for moment in (max(1, round(share * moments)), 1 + round(share * moments / 3), None):
        begun = any((tmp_path / 'run').rglob('*ckpt.pt')) or any((tmp_path / 'run').rglob('tbtt.commit.json'))
        before = evaluations(tmp_path / 'run')
        one = training(**settings | dict(init_from='resume' if begun else 'scratch'),
                       prepare=lambda: moment and Moments(tmp_path / 'run', moment))
        assert one.wait() in ({0, -signal.SIGKILL} if moment else {0}), one.said()
        assert evaluations(tmp_path / 'run') >= before
    assert difference(whole, tmp_path / 'run') == 0
    assert all(json.loads(path.read_text())['finished'] for path in (tmp_path / 'run').rglob('run.json'))


@pytest.mark.slow
def test_a_run_killed_before_its_first_evaluation_starts_anew_without_a_word(training, ended, run, tmp_path):
    ended('other', prepare=lambda: setattr(tbtt.run_folder, 'write_folders', die), status=-signal.SIGKILL)
    ended('other')
    assert difference(run, tmp_path / 'other') == 0


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_crash_leaves_lying_about_is_cleaned_up_and_nothing_of_the_users(ended, run):
    mine = {'notes.tmp': b'mine', 'my_commit.json': b'{}', 'seed_plan.txt': b''}
    for name, content in mine.items():
        (run / name).write_bytes(content)
    for name in ('ckpt.pt', 'results.csv'):
        (run / f'{name}.01234567{tbtt.atomic.TMP}').write_bytes(b'half')
    ended(init_from='resume', max_iters=6)
    assert not [path for path in contents(run) if path.endswith(tbtt.atomic.TMP)]
    assert {name: (run / name).read_bytes() for name in mine} == mine


def test_a_power_cut_finds_every_file_on_the_disk_before_the_list_that_names_it(tmp_path, monkeypatch):
    """POSIX promises only that a file is on the disk after its flush, its name after the folder's flush."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync',
                        lambda fd: (events.append(os.readlink(f'/proc/self/fd/{fd}')), fsync(fd)))
    monkeypatch.setattr(os, 'replace',
                        lambda old, new: (events.append(('rename', str(new))), replace(old, new)))
    folders = [tmp_path / 'seed_1', tmp_path / 'seed_2']
    for folder in folders:
        folder.mkdir(exist_ok=True)
    tbtt.atomic.write_folders({folder: {'a': b'a', 'b': b'b'} for folder in folders})
    renames = [i for i, event in enumerate(events) if event[0] == 'rename']
    commit, first = renames[0], renames[2]    # the two lists come first, then the files
    assert all(events[i][1].endswith(tbtt.atomic.COMMIT) for i in renames[:2])
    flushed = [{event for event in events[begin:end] if isinstance(event, str)}
               for begin, end in ((0, commit), (commit, first), (first, None))]
    names = {str(folder) for folder in folders}
    assert names <= flushed[0] and sum(path.endswith(tbtt.atomic.TMP) for path in flushed[0]) >= 4
    assert names <= flushed[1]    # the lists themselves, before anything is put in place
    assert names <= flushed[2]    # and all names, before the lists are deleted


# Interrupted.

@pytest.mark.slow_after_first
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
    shorter = LONG | dict(max_iters=last, num_seeds=num_seeds)
    ended(**shorter, init_from='resume')
    ended('whole', **shorter)
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


@pytest.mark.slow
def test_a_second_ctrl_c_goes_at_once_and_corrupts_nothing(training, ended, tmp_path):
    one = training(**LONG, prepare=lambda: slow(tbtt.seed_folder, 'to_bytes', 0.2))
    assert one.says('iter      4')
    one.kill(signal.SIGINT)
    time.sleep(0.05)
    begin = time.monotonic()
    one.kill(signal.SIGINT)
    assert one.wait() in (-signal.SIGINT, 128 + signal.SIGINT) and time.monotonic() - begin < 1
    last = evaluations(tmp_path / 'run') + 4
    ended(**LONG | dict(max_iters=last, init_from='resume'))
    ended('whole', **LONG | dict(max_iters=last))
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


def slow(module, name, seconds):
    """Make a function take `seconds` longer."""
    function = getattr(module, name)
    setattr(module, name, lambda *args: (time.sleep(seconds), function(*args))[1])


# Several trainings on one folder.

JOINT = LONG | dict(num_seeds=3)    # seeds 1337 to 1339
ONE = LONG | dict(seed=1338)


@pytest.fixture
def holder(training, tmp_path):
    """holder(pair=False, **settings): a running training in the folder, in one process or two."""
    def hold(pair=False, **settings):
        port = free_port()
        prepares = [as_rank(rank, port) for rank in range(2)] if pair else [lambda: None]
        held = [training(**settings, prepare=prepare) for prepare in prepares]
        assert held[0].says('iter      2'), held[0].said()
        # the second process prints nothing
        while pair and not (tmp_path / 'run/seed_1338/ckpt.pt').exists():
            assert held[1].ended() is None, held[1].said()
            time.sleep(0.005)
        return held
    return hold


def as_rank(rank, port):
    """-> a function that sets what torchrun tells the first or the second of two processes"""
    return lambda: os.environ.update(rank_of_two(rank, port))


def refused(training, tmp_path, **settings):
    """A training that asks for what a stopped process holds is refused at once, and changes nothing."""
    before = contents(tmp_path / 'run')
    other = training(**settings)
    assert other.wait(60) == 75 and 'another training writes into' in one_line(other.said())
    assert contents(tmp_path / 'run') == before


@pytest.mark.slow_after_first
@pytest.mark.parametrize('first, second', [
    (dict(ONE, out_dir='run/seed_1338'), dict(JOINT, init_from='resume')),
    (dict(ONE, out_dir='run/seed_1338'), dict(JOINT, overwrite=True)),
    (dict(JOINT), dict(ONE, out_dir='run/seed_1338', init_from='resume')),
    (dict(JOINT), dict(JOINT, seed=1339, init_from='resume')),
    (dict(JOINT), dict(LONG, overwrite=True)),
    (dict(JOINT, pair=True), dict(ONE, out_dir='run/seed_1338', init_from='resume')),
    (dict(LONG), dict(LONG, init_from='resume')),
    (dict(LONG), dict(JOINT, overwrite=True)),
], ids=['a single, a joint', 'a single, a joint over it', 'a joint, a single', 'a joint, a joint',
        'a joint, a single over it', 'a pair, a single of the second', 'a single, the same',
        'a single, a joint over it all'])
def test_a_second_training_is_refused_while_the_first_lives_and_changes_nothing(
        training, ended, holder, tmp_path, first, second):
    first, second = ({**settings, 'out_dir': tmp_path / settings.get('out_dir', 'run')}
                     for settings in (first, second))
    held = holder(**first)
    for one in held:
        one.stop()
    refused(training, tmp_path, **second)
    for one in held:
        one.kill(signal.SIGCONT)
    assert all([one.ended() is None for one in held])    # the holder did not notice
    for one in held:
        one.kill()
        one.wait()
    at = evaluations(tmp_path / 'run')
    ended(**second | dict(max_iters=2 if 'overwrite' in second else at + 2))    # nothing waits for the dead
    assert evaluations(Path(second['out_dir'])) == (2 if 'overwrite' in second else at + 2)


@pytest.mark.slow
def test_the_same_command_again_hears_that_the_run_lives_not_that_it_may_be_replaced(training, holder,
                                                                                     tmp_path):
    held, = holder(**LONG | dict(out_dir=tmp_path / 'run'))
    held.stop()
    refused(training, tmp_path, **LONG | dict(out_dir=tmp_path / 'run'))


@pytest.mark.slow
def test_a_refused_start_leaves_a_live_change_alone(training, ended, small_math, tmp_path):
    """The holder is stopped between its list and the renames: its temporary files are not leftovers."""
    ended(**JOINT | dict(max_iters=2))
    put_in_place = tbtt.atomic.put_in_place

    def stop_first(*args):
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        put_in_place(*args)
    held = training('run/seed_1338', **ONE | dict(max_iters=6, init_from='resume'),
                    prepare=lambda: setattr(tbtt.atomic, 'put_in_place', stop_first))
    held.wait_for_stop()
    assert any((tmp_path / 'run/seed_1338').glob(f'*{tbtt.atomic.TMP}'))
    refused(training, tmp_path, **JOINT | dict(init_from='resume'))
    while held.ended() is None:
        held.kill(signal.SIGCONT)
        time.sleep(0.01)
    assert held.status == 0, held.said()
    ended('whole', **ONE | dict(max_iters=6))
    assert difference(tmp_path / 'whole', tmp_path / 'run/seed_1338') == 0


@pytest.mark.slow
@forked_sweeps()
def test_a_sweep_waits_for_who_stands_still_and_goes_on_when_he_dies(training, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, 'WAIT', 0.05)
    sweep = Sweep(sweep_file(tmp_path, num_seeds=2), {}, tmp_path)
    job, = sweep.jobs(8)
    sweep.prepare(job.run)
    place = job.folder / 'seed_1338'
    settings = dataclasses.asdict(job.run.config())
    held = training(**settings | dict(seed=1338, num_seeds=1, out_dir=place, max_iters=100_000))
    assert held.says('iter     10'), held.said()
    held.stop()
    before, ended, said = contents(place), [], []
    waiting = threading.Thread(target=lambda: ended.append(launch.do(job, launch.Children(), {},
                                                                     said.append)))
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert not ended and str(place) in said[0] and contents(place) == before and not launch.done(job)
    held.kill()
    held.wait()
    waiting.join(60)
    assert ended == [None] and len(said) == 1 and launch.done(job)


@pytest.mark.slow
def test_a_run_that_comes_and_goes_between_the_look_and_the_lock_is_not_deleted(
        command, monkeypatch, small_math, tmp_path):
    settings = SHORT | dict(dataset=small_math, out_dir=tmp_path / 'run')
    take, came = tbtt.run_folder.Locks.take, []

    def slow(self, folder):
        if not came:
            other = Training(tmp_path / 'log', settings, lambda: setattr(tbtt.run_folder.Locks, 'take', take))
            came.append(other.wait())
        take(self, folder)
    for second in (dict(), dict(overwrite=True)):
        came.clear()
        shutil.rmtree(tmp_path / 'run', ignore_errors=True)
        monkeypatch.setattr(tbtt.run_folder.Locks, 'take', slow)
        result = command(SCRIPT, **settings | second)
        monkeypatch.undo()
        assert came == [0] and result.status in (2, 75) and 'another' in one_line(result.err)
        assert evaluations(tmp_path / 'run') == 4


@pytest.mark.slow
@pytest.mark.parametrize('pair', [False, True])
def test_seeds_that_stand_at_different_iterations_are_brought_in_step(training, ended, tmp_path, pair):
    settings = dict(JOINT, num_seeds=4, max_iters=12, learning_rate=0.01)
    ended('whole', **settings)
    for seed, last in (1337, 4), (1338, 8), (1339, 12):
        ended(f'run/seed_{seed}', **settings | dict(seed=seed, num_seeds=1, max_iters=last))
    port = free_port()
    ranks = [training(**settings | dict(init_from='resume'),
                      prepare=as_rank(rank, port) if pair else lambda: None)
             for rank in range(1 + pair)]
    assert [rank.wait(60) for rank in ranks] == [0] * len(ranks), ranks[0].said()
    legs = re.findall(r'parameters, (\d) seed\(s\), from iteration (\d+)', ranks[0].said())
    assert legs == ([('1', '4')] if pair else [('1', '0'), ('2', '4'), ('3', '8')])
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


@pytest.mark.slow
def test_new_seeds_may_join_a_run_of_the_same_settings_and_of_no_others(ended, tmp_path):
    ended(**JOINT | dict(num_seeds=2, max_iters=4))
    said = ended(**JOINT | dict(seed=1339, num_seeds=2, max_iters=4, batch_size=32), status=2)
    assert 'already holds a run' in one_line(said)
    ended(**JOINT | dict(seed=1339, num_seeds=2, max_iters=4))
    assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == [f'seed_{seed}'
                                                                          for seed in range(1337, 1341)]


@pytest.mark.slow
def test_a_short_chaos_loses_nothing(small_math, tmp_path):
    chaos = Chaos(tmp_path, small_math, random.Random(3), max_iters=8)
    for _ in range(4):
        chaos.round()
    chaos.finish()
    assert not chaos.faults and chaos.count['runs'] == 1, chaos.report()


# Damaged lists, links, limits.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('damage',
                         ['', 'nonsense', '[1,2]', 'null', '[["a"]]', '[' * 100_000, '{"name": "01234567"}',
                          '{"name": "01234567", "files": ["../x"], "others": {}}',
                          '{"name": "../x", "files": ["ckpt.pt"], "others": {}}',
                          '{"name": "01234567", "files": ["/etc/passwd"], "others": {}}',
                          '{"name": "01234567", "files": [], "others": {"seed_1": [3]}}'],
                         ids=lambda text: text[:20])
def test_a_damaged_list_is_one_line_and_obeyed_in_nothing(command, learned_briefly, tmp_path, damage):
    settings, learned = learned_briefly
    folder = shutil.copytree(learned, tmp_path / 'run')
    (folder / tbtt.atomic.COMMIT).write_text(damage)
    for name in ('x', 'x.01234567.tbtt.tmp'):
        (tmp_path / name).write_text(name)
    before = contents(tmp_path)
    result = command(SCRIPT, **settings | dict(out_dir=folder, init_from='resume', max_iters=8))
    assert result.status == 2 and 'delete it' in one_line(result.err) and '--overwrite=True' in result.err
    assert contents(tmp_path) == before
    result = command(SCRIPT, **settings | dict(out_dir=folder, overwrite=True, max_iters=0))
    assert result.status == 0 and evaluations(folder) == 0 and (tmp_path / 'x').read_text() == 'x', result.err


def test_overwriting_follows_no_link(command, learned_briefly, tmp_path):
    settings, learned = learned_briefly
    keep, run = shutil.copytree(learned, tmp_path / 'keep'), tmp_path / 'run'
    before = contents(keep)
    run.mkdir()
    (run / 'seed_1').symlink_to(keep)
    result = command(SCRIPT, **settings | dict(out_dir=run, seed=1, num_seeds=2, max_iters=0, overwrite=True))
    assert result.status == 2 and 'is a link' in one_line(result.err)
    result = command(SCRIPT, **settings | dict(out_dir=run, max_iters=0, overwrite=True))
    assert result.status == 0 and not (run / 'seed_1').is_symlink() and evaluations(run) == 0, result.err
    assert contents(keep) == before


def test_more_seeds_than_files_may_be_open_are_refused_by_name(command, small_math, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        result = command(SCRIPT, **SHORT | dict(dataset=small_math, out_dir=tmp_path / 'run', num_seeds=1100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    line = one_line(result.err)
    assert result.status == 2 and 'ulimit -n' in line
    assert 'fewer seeds' in line and not (tmp_path / 'run').exists()


# Disks and folders.

@pytest.mark.slow
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


@pytest.mark.slow
def test_a_quota_names_the_file_and_keeps_the_last_good_state(ended, run, tmp_path):
    before = unlocked(run)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

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


@pytest.mark.slow
@pytest.mark.parametrize('num_seeds', [1, 3])
def test_a_folder_removed_under_way_is_named_and_does_not_come_back(training, tmp_path, num_seeds):
    one = training(**LONG | dict(num_seeds=num_seeds, eval_interval=100))
    assert one.says('iter    100')
    time.sleep(0.1)    # it trains, and writes nothing
    os.rename(tmp_path / 'run', tmp_path / 'gone')
    assert one.wait(20) == 2
    assert str(tmp_path / 'run') in one_line(one.said()) and not (tmp_path / 'run').exists()
    shutil.rmtree(tmp_path / 'gone')


# Data, losses, settings.

@pytest.mark.slow
@pytest.mark.parametrize('name', ['train.bin', 'val.bin', 'meta.pkl'])
def test_data_that_change_while_training_do_not_reach_it_and_stop_the_next(training, ended, run, small_math,
                                                                           tmp_path, name):
    data = shutil.copytree(small_math, tmp_path / 'data')
    one = training('part', dataset=data, max_iters=400)
    assert one.says('iter      2')
    good = (data / name).read_bytes()
    (data / name).write_bytes(good[:-6] if name == 'meta.pkl' else good[2:] + good[:2])
    one.kill(signal.SIGTERM)
    # the data that it read are whole, but it may also report that the files changed
    assert one.wait() in (2, 128 + signal.SIGTERM)
    line = one_line(ended('part', status=2, dataset=data, init_from='resume', max_iters=400))
    assert 'data' in line and 'prepare' in line
    (data / name).write_bytes(good)
    at = load(tmp_path / 'part/ckpt.pt')['iter_num']
    ended('part', dataset=data, init_from='resume', max_iters=at + 2 - at % 2)
    ended('whole', max_iters=at + 2 - at % 2)
    assert difference(tmp_path / 'whole', tmp_path / 'part') == 0


def ill(seed, iteration):
    """Make the loss and the weights of one seed NaN from an iteration on."""
    import tbtt.engine
    step = tbtt.engine.Engine.step

    def sick(self, state, starts, rate):
        losses, new = step(self, state, starts, rate)
        here = (self.seeds == seed) & (state.step[:, 0] >= iteration)
        new = new._replace(params=torch.where(here[:, None], torch.nan, new.params))
        return torch.where(here, torch.nan, losses), new
    tbtt.engine.Engine.step = sick


def test_a_loss_that_is_not_finite_is_in_the_results_and_not_in_a_checkpoint(ended, tmp_path):
    said = ended(status=1, prepare=lambda: ill(1337, 3), max_iters=8)
    assert 'not finite at iteration 3' in said
    assert np.isnan(read_results(tmp_path / 'run/results.csv')['train_loss'][-1])
    checkpoint = load(tmp_path / 'run/ckpt.pt')
    assert checkpoint['iter_num'] == 2 and all(value.isfinite().all()
                                               for value in checkpoint['model'].values())
    assert json.loads((tmp_path / 'run/run.json').read_text())['diverged'] == 3


def test_the_last_good_checkpoint_is_written_though_the_disk_is_slower_than_the_loss(ended, tmp_path):
    def prepare():
        ill(1338, 3)
        slow(tbtt.seed_folder, 'to_bytes', 0.05)
    ended(prepare=prepare, num_seeds=3)
    assert load(tmp_path / 'run/seed_1338/ckpt.pt')['iter_num'] == 2
    assert [load(tmp_path / f'run/seed_{seed}/ckpt.pt')['iter_num'] for seed in (1337, 1339)] == [4, 4]


@pytest.mark.slow
def test_seeds_interrupted_just_after_one_diverged_go_on_as_if_they_had_not_been(training, ended, tmp_path):
    def prepare():
        ill(1338, 10)
        import tbtt.progress
        step = tbtt.progress.Reporter.step

        def interrupted(self, t, losses):
            if t == 13:
                os.kill(os.getpid(), signal.SIGTERM)
            step(self, t, losses)
        tbtt.progress.Reporter.step = interrupted
    settings = dict(num_seeds=3, eval_interval=5, keep_checkpoints=5, max_iters=20)
    ended(status=128 + signal.SIGTERM, prepare=prepare, **settings)
    ended(init_from='resume', prepare=lambda: ill(1338, 10), **settings)
    ended('whole', prepare=lambda: ill(1338, 10), **settings)
    rows = read_results(tmp_path / 'run/seed_1338/results.csv')
    assert rows['iter'].tolist() == [0, 5, 10, 15] and np.isnan(rows['train_loss'][-1])
    assert difference(tmp_path / 'whole', tmp_path / 'run') == 0


@pytest.mark.slow
def test_a_finished_run_says_so_changes_nothing_and_may_go_further(ended, run, tmp_path):
    before = contents(run)
    assert 'is finished at iteration 4' in ended(init_from='resume') and contents(run) == before
    ended(init_from='resume', max_iters=8)
    ended('whole', max_iters=8)
    assert difference(tmp_path / 'whole', run) == 0


@pytest.mark.parametrize('name, value', [
    ('n_embd', 12), ('n_layer', 2), ('n_head', 2), ('mlp_expansion', 2), ('block_size', 8), ('bias', True),
    ('dropout', 0.1), ('batch_size', 32), ('gradient_accumulation_steps', 2), ('learning_rate', 0.02),
    ('min_lr', 0.002), ('warmup_iters', 3), ('lr_decay_iters', 30), ('decay_lr', False),
    ('weight_decay', 0.1), ('beta1', 0.8),
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


def test_results_that_are_not_what_the_run_wrote_are_not_gone_on_with(command, learned_briefly, tmp_path):
    settings, learned = learned_briefly
    folder = shutil.copytree(learned, tmp_path / 'run')
    text = (folder / 'results.csv').read_text()
    for damaged in (text.replace('\n2,', '\n3,'), ''.join(text.splitlines(True)[:-1]), text[:-1], None):
        (folder / 'results.csv').unlink() if damaged is None else (folder / 'results.csv').write_text(damaged)
        before = contents(folder)
        result = command(SCRIPT, **settings | dict(out_dir=folder, init_from='resume', max_iters=8))
        assert result.status == 2 and 'results.csv' in one_line(result.err) and contents(folder) == before
