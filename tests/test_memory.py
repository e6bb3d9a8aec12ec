"""When memory runs out, one line says what would fit or what is too large."""
import math
import shutil

import pytest
import torch

from conftest import TINY, contents, run_script, tiny_config
from model import GPTConfig
from tbtt import device
from tbtt.engine import Engine

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def begun(small_math, tmp_path_factory):
    """The folder of a run of three seeds, stopped at iteration 0."""
    folder = tmp_path_factory.mktemp('begun') / 'run'
    assert run_script('train_with_eval.py', dataset=small_math, out_dir=folder,
                      **TINY | dict(num_seeds=3, max_iters=0)) == 0
    return folder


@pytest.mark.slow_after_first
@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory.'), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
                                   RuntimeError('could not create a primitive')])
@pytest.mark.parametrize('free', [2**20, 2**40])
def test_what_would_fit_is_less_than_what_was_asked_for_and_all_is_kept(command, small_math, begun, tmp_path,
                                                                        monkeypatch, error, free):
    settings = dict(TINY, dataset=small_math, out_dir=shutil.copytree(begun, tmp_path / 'run'), num_seeds=3)
    before = contents(tmp_path / 'run' / 'seed_1337')

    def fails(*_):
        raise error

    monkeypatch.setattr(Engine, 'run', fails)
    monkeypatch.setattr(device, 'free_bytes', lambda device: free)
    result = command('train_with_eval.py', **settings | dict(init_from='resume'))
    assert result.status == 2 and result.err.count('\n') == 1
    if free == 2**40:
        assert 'out of memory with num_seeds=3: about 1 would fit' in result.err
    else:
        assert 'activations' in result.err and '1.05 MB are free: make batch_size' in result.err
    after = contents(tmp_path / 'run' / 'seed_1337')
    assert {name: after[name] for name in after if name != 'run.json'} == {
        name: before[name] for name in before if name != 'run.json'}


@pytest.mark.parametrize('settings, largest', [
    (dict(n_embd=10**5), 'n_embd, n_layer or mlp_expansion'),
    (dict(batch_size=10**6), 'batch_size, block_size or'),
    (dict(batch_size=1, gradient_accumulation_steps=10**6), 'batch_size or gradient')])
def test_where_one_replica_is_too_large_the_settings_that_make_it_so_are_named(settings, largest):
    assert f'make {largest}' in device.describe_shortage(tiny_config(**settings), 17, CPU)


def test_other_errors_are_not_taken_for_memory():
    assert not device.is_out_of_memory(RuntimeError('shapes do not fit'))
    assert not device.is_out_of_memory(ValueError('out of memory'))


def test_more_memory_holds_more_replicas_and_none_holds_none():
    config = tiny_config()
    each = sum(device.bytes_of_replica(config, 17).values())
    counts = [device.replicas_that_fit(config, 17, 4 * device.INDEX_BYTES / 0.9 + n * each)
              for n in (0, 1, 10, 100)]
    assert counts == [0, 0, 9, 90] and device.replicas_that_fit(config, 17, 0) == 0


def test_a_limit_of_the_shell_or_of_a_job_is_seen(monkeypatch):
    free = device.free_bytes(CPU)
    assert 0 < free < math.inf
    monkeypatch.setattr(device.resource, 'getrlimit', lambda _: (2**20, 2**20))    # less than it uses already
    assert device.free_bytes(CPU) == 0
    monkeypatch.undo()
    monkeypatch.setattr(device, 'free_of_job', lambda: 123)
    assert device.free_bytes(CPU) == 123


def test_a_machine_without_proc_has_half_of_its_memory(monkeypatch, tmp_path):
    """As on macOS, which has no /proc and no SC_AVPHYS_PAGES."""
    monkeypatch.setattr(device, 'Path', lambda name: tmp_path / name.lstrip('/'))
    sizes = {'SC_PHYS_PAGES': 2**20, 'SC_PAGE_SIZE': 2**14}
    monkeypatch.setattr(device.os, 'sysconf', sizes.__getitem__)
    assert device.free_bytes(CPU) == 2**33


def test_fewer_tokens_go_through_a_larger_model_or_more_replicas_at_once():
    small, large = GPTConfig(vocab_size=17, n_embd=14, n_head=1, block_size=9), GPTConfig()
    assert device.tokens_per_pass(small, 1, CPU) > device.tokens_per_pass(small, 100, CPU) >= 9
    assert device.tokens_per_pass(small, 1, CPU) > device.tokens_per_pass(large, 1, CPU) >= 1024
