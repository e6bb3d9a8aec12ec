"""Two gloo processes, started by torchrun or as torchrun does it, compared with one process."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import tbtt.engine
from chaos import Training, free_port
from conftest import HERE, TINY, contents, load, options
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.distributed import Ranks
from tbtt.results import read_results

TRAIN = 'train_with_eval.py'


def torchrun(cwd, **settings):
    """Train with two processes. -> exit status and what they printed"""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
               HERE / TRAIN]
    done = subprocess.run([*command, *options(settings)], cwd=cwd, capture_output=True, text=True,
                          timeout=120)
    return done.returncode, done.stdout + done.stderr


def close(one, other):
    """Do two runs' results agree, except for the order of summation?"""
    one, other = read_results(one / 'results.csv'), read_results(other / 'results.csv')
    return all(np.allclose(one[column], other[column], rtol=1e-5, equal_nan=True) for column in one)


@pytest.mark.slow
def test_seeds_dealt_out_to_two_processes_are_those_of_one(command, small_math, tmp_path):
    settings = dict(TINY, dataset=small_math, num_seeds=3)
    assert command(TRAIN, out_dir=tmp_path / 'one', **settings).status == 0
    status, said = torchrun(tmp_path, out_dir='two', **settings)
    assert status == 0, said
    for seed in ('seed_1337', 'seed_1338', 'seed_1339'):
        assert close(tmp_path / 'one' / seed, tmp_path / 'two' / seed)


@pytest.fixture
def ranks(small_math, tmp_path):
    """ranks(prepare=..., size=2, **settings): processes as torchrun starts them. -> [Training]"""
    started = []

    def start(prepare=lambda rank: None, size=2, **settings):
        port = free_port()

        def begin(rank):
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank),
                              MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            prepare(rank)
        begun = [Training(tmp_path / f'log {len(started) + rank}',
                          TINY | dict(dataset=small_math, out_dir=tmp_path / 'run')
                          | settings, lambda rank=rank: begin(rank)) for rank in range(size)]
        started.extend(begun)
        return begun
    yield start
    for one in started:
        one.kill()
        one.wait()


def statuses(ranks):
    return [rank.wait(60) for rank in ranks]


def iterations(run):
    return {path.parent.name: load(path)['iter_num'] for path in run.glob('*/ckpt.pt')}


@pytest.mark.slow
@pytest.mark.parametrize('windows', ['any', 'line'])    # lines of different lengths
def test_a_batch_split_over_two_processes_gives_the_run_of_one(ranks, tmp_path, datasets, windows):
    settings = dict(dtype='float32', windows=windows)
    if windows == 'line':
        settings |= dict(dataset=datasets['facts_char'], block_size=36)
    alone, = ranks(size=1, out_dir=tmp_path / 'one', **settings)
    both = ranks(out_dir=tmp_path / 'two', **settings)
    assert statuses([alone, *both]) == [0, 0, 0], [one.said() for one in both]
    assert 'split over 2 processes' in both[0].said()
    assert close(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.slow
def test_a_rank_that_is_done_waits_for_the_others_and_says_nothing(ranks, tmp_path):
    """Three seeds over two processes: first only the second process's seed is finished, then all are."""
    alone, = ranks(size=1, seed=1338, out_dir=tmp_path / 'run/seed_1338')
    assert alone.wait() == 0
    both = ranks(num_seeds=3, init_from='resume', eval_interval=10)
    assert statuses(both) == [0, 0] and set(iterations(tmp_path / 'run').values()) == {20}, both[0].said()
    assert both[1].said() == ''
    before = contents(tmp_path / 'run')
    both = ranks(num_seeds=3, init_from='resume')
    assert statuses(both) == [0, 0] and 'finished at iteration 20' in both[0].said()
    assert contents(tmp_path / 'run') == before


@pytest.mark.slow
def test_a_rank_whose_seeds_all_diverged_stops_no_other(ranks, tmp_path):
    both = ranks(num_seeds=3, prepare=lambda rank: rank == 1 and ill(3))
    assert statuses(both) == [0, 0], both[1].said()
    assert iterations(tmp_path / 'run') == {'seed_1337': 20, 'seed_1338': 0, 'seed_1339': 20}
    assert 'seed 1338: the loss is not finite' in both[1].said()


def ill(iteration):
    """Make the losses of all seeds of this process NaN from an iteration on."""
    step = tbtt.engine.Engine.step

    def sick(self, state, starts, rate):
        losses, new = step(self, state, starts, rate)
        return torch.where(state.step[:, 0] >= iteration, torch.nan, losses), new
    tbtt.engine.Engine.step = sick


def test_what_one_rank_is_refused_ends_all_and_changes_nothing(ranks, tmp_path):
    alone, = ranks(size=1, seed=1338, out_dir=tmp_path / 'run/seed_1338', max_iters=100_000)
    assert alone.says('iter     10')
    alone.stop()
    before = contents(tmp_path / 'run')
    both = ranks(num_seeds=2, init_from='resume')
    assert statuses(both) == [2, 75], [one.said() for one in both]
    assert 'another training writes into' in both[1].said()
    assert 'Traceback' not in both[0].said() + both[1].said()
    assert contents(tmp_path / 'run') == before


@pytest.mark.slow
def test_the_ranks_of_a_run_that_is_interrupted_all_save(ranks, tmp_path):
    both = ranks(num_seeds=3, max_iters=100_000)
    assert all([one.says('iter     10') for one in both[:1]])
    for one in both:
        one.kill(signal.SIGTERM)
    assert statuses(both) == [143, 143], [one.said() for one in both]
    assert len(iterations(tmp_path / 'run')) == 3
    both = ranks(num_seeds=3, init_from='resume', max_iters=10 + max(iterations(tmp_path / 'run').values()))
    assert statuses(both) == [0, 0], [one.said() for one in both]


@pytest.mark.parametrize('size, seeds', [(1, 5), (2, 5), (4, 5), (5, 5)])
def test_every_seed_is_dealt_to_one_process(monkeypatch, size, seeds):
    dealt = []
    for rank in range(size):
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', str(size))
        dealt += Ranks.from_environment(Config(num_seeds=seeds)).shard_seeds(range(seeds))
    assert sorted(dealt) == list(range(seeds))


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    with pytest.raises(UserError, match='batch_size=882 does not divide among 4'):
        Ranks.from_environment(Config(num_seeds=1, batch_size=882))
