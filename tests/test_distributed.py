"""Two gloo processes started by torchrun against one process."""
import subprocess
import sys

import numpy as np
import pytest

from conftest import HERE, TINY, options, shell
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.distributed import Ranks
from tbtt.results import read_results

TRAIN = 'train_with_eval.py'


def torchrun(cwd, **settings):
    """Train with two processes. -> exit status and what they printed"""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', HERE / TRAIN]
    done = subprocess.run([*command, *options(settings)], cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def close(one, other):
    """Do two runs' results agree up to the order of summation?"""
    one, other = read_results(one / 'results.csv'), read_results(other / 'results.csv')
    return all(np.allclose(one[column], other[column], rtol=1e-5, equal_nan=True) for column in one)


def test_seeds_dealt_out_to_two_processes_are_those_of_one(small_math, tmp_path):
    settings = dict(TINY, dataset=small_math, num_seeds=3)
    assert shell(TRAIN, cwd=tmp_path, out_dir='one', **settings).status == 0
    status, said = torchrun(tmp_path, out_dir='two', **settings)
    assert status == 0, said
    for seed in ('seed_1337', 'seed_1338', 'seed_1339'):
        assert close(tmp_path / 'one' / seed, tmp_path / 'two' / seed)
    status, said = torchrun(tmp_path, out_dir='two', init_from='resume', **settings)
    assert status == 0 and 'finished at iteration 20' in said


def test_a_batch_split_over_two_processes_gives_the_run_of_one(small_math, tmp_path):
    settings = dict(TINY, dataset=small_math, dtype='float32')
    assert shell(TRAIN, cwd=tmp_path, out_dir='one', **settings).status == 0
    status, said = torchrun(tmp_path, out_dir='two', **settings)
    assert status == 0 and 'split over 2 processes' in said, said
    assert close(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.parametrize('size, seeds', [(1, 5), (2, 5), (4, 5), (5, 5)])
def test_every_seed_is_dealt_to_one_process(monkeypatch, size, seeds):
    dealt = []
    for rank in range(size):
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', str(size))
        dealt += Ranks.from_environment(Config(num_seeds=seeds)).deal(range(seeds))
    assert sorted(dealt) == list(range(seeds))


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    with pytest.raises(UserError, match='batch_size=882 does not divide among 4'):
        Ranks.from_environment(Config(num_seeds=1, batch_size=882))
