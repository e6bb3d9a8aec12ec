"""The captured step: its host side on every machine, and the real capture where there is a CUDA GPU."""
import contextlib

import pytest
import torch

from conftest import new_engine, tiny_config
from tbtt.capture import Captured, in_place
from tbtt.engine import Engine, State
from tbtt.replicas import Replicas

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    """A stand-in for a CUDA graph: it replays by taking its owner's steps again."""
    owner = None

    def replay(self):
        owner, state = self.owner, self.state
        owner.losses.copy_(torch.stack([in_place(owner.step, state, owner.starts[k], owner.lr[k])
                                        for k in range(owner.size)]))


@pytest.fixture
def no_gpu(monkeypatch):
    """Replaces torch.cuda's streams and graphs, to test the host side of a capture without a GPU."""
    monkeypatch.setattr(torch.cuda, 'Stream', Stream)
    monkeypatch.setattr(torch.cuda, 'current_stream', Stream)
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Graph)


def capture(engine, size):
    """A capture of the engine's step; the engine's state stays as it was."""
    before = State(*(x.clone() for x in engine.state))
    captured = Captured(engine.step, engine.state, *engine.example(), size=size)
    captured.graph.owner, captured.graph.state = captured, engine.state
    # without a GPU, capturing executes the steps
    assert torch.equal(engine.state.step, before.step + captured.warm_up + size)
    torch._foreach_copy_(engine.state, before)
    return captured


@pytest.mark.parametrize('steps', [1, 3, 7, 9])
def test_the_captured_step_feeds_every_batch_and_rate_in_their_order(no_gpu, math_data, steps):
    config = tiny_config(num_seeds=2)
    single, several = (new_engine(math_data.train, 17, config) for _ in range(2))
    several.step_fn = capture(several, size=3)
    launches = [losses for _, losses in several.run(0, steps)]
    losses = torch.cat([losses for _, losses in single.run(0, steps)])
    assert [len(x) for x in launches] == [3] * (steps // 3) + [1] * (steps % 3)
    assert torch.equal(torch.cat(launches), losses) and torch.equal(several.state.params, single.state.params)


def test_windows_of_lines_in_fresh_order_are_captured_too(no_gpu, math_data):
    config = tiny_config(num_seeds=2, line_order='fresh')
    single, several = (new_engine(math_data.train, 17, config, newline=math_data.newline) for _ in range(2))
    several.step_fn = capture(several, size=3)
    ours, expected = (torch.cat([losses for _, losses in engine.run(0, 7)]) for engine in (several, single))
    assert torch.equal(ours, expected)


def test_a_capture_that_does_not_step_is_found_out_and_leaves_the_state_as_it_was(no_gpu, monkeypatch,
                                                                                  math_data):
    monkeypatch.setattr(Graph, 'replay', lambda self: None)
    engine = new_engine(math_data.train, 17, tiny_config())
    before = State(*(x.clone() for x in engine.state))
    engine.try_captured()
    assert engine.mode == 'compiled (not captured: a replay of the graph did not step)'
    assert all(torch.equal(x, y) for x, y in zip(engine.state, before))


@pytest.mark.parametrize('scale', [2.0**16, 2.0**60])
def test_with_float16_a_step_that_overflows_is_no_failed_replay(no_gpu, monkeypatch, math_data, scale):
    init = Captured.__init__

    def with_a_graph_that_replays(self, step, state, *args):
        init(self, step, state, *args, size=3)
        self.graph.owner, self.graph.state = self, state

    monkeypatch.setattr(Captured, '__init__', with_a_graph_that_replays)
    engine = new_engine(math_data.train, 17, tiny_config(num_seeds=2), torch.float16)
    engine.state.scale.fill_(scale)
    before = State(*(x.clone() for x in engine.state))
    engine.try_captured()
    assert engine.mode == 'compiled and captured'
    assert all(torch.equal(x, y) for x, y in zip(engine.state, before))


def on_cuda(math_data, dtype, **settings):
    config = tiny_config(**{'device': 'cuda', 'max_iters': 1000, 'num_seeds': 3, **settings})
    seeds = list(range(config.seed, config.seed + config.num_seeds))
    device = torch.device('cuda')
    engine = Engine(Replicas.from_seeds(config.model_args(17), seeds, device), math_data.train, seeds, config,
                    device, dtype)
    engine.prepare()
    return engine


@on_a_gpu
@pytest.mark.parametrize('dtype, tolerance',
                         [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)])
def test_captured_compiled_and_eager_agree_with_the_cpu(math_data, dtype, tolerance):
    ours = torch.cat([losses
                      for _, losses in new_engine(math_data.train, 17, tiny_config(num_seeds=3)).run(0, 60)])
    for compile in ('False', 'True'):
        engine = on_cuda(math_data, dtype, compile=compile)
        assert engine.mode == ('compiled and captured' if compile == 'True' else 'eager (compile=False)')
        losses = torch.cat([losses for _, losses in engine.run(0, 60)]).cpu()
        torch.testing.assert_close(losses, ours, rtol=tolerance, atol=tolerance)


@on_a_gpu
def test_every_replay_draws_new_dropout_masks_and_the_same_ones_again_from_the_same_iteration(math_data):
    engine = on_cuda(math_data, torch.float32, dropout=0.3, compile='True', learning_rate=0.0, min_lr=0.0)
    first = torch.cat([losses for _, losses in engine.run(0, 50)])
    again = torch.cat([losses for _, losses in engine.run(0, 50)])
    assert torch.equal(first, again) and not torch.allclose(first[:25].mean(0), first[25:].mean(0), rtol=1e-6)


@on_a_gpu
def test_memory_on_the_gpu_does_not_grow_with_iterations(math_data):
    engine = on_cuda(math_data, torch.float32, compile='True')
    used = []
    for first in range(0, 300, 100):
        for _ in engine.run(first, first + 100):
            pass
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[1] == used[2]
