"""The fused step: its gradient, its exact bits, its agreement with the other modes, and when another mode is
used instead."""
import ctypes
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value

from conftest import HERE, TINY, checkpoints, equal_weights, options, tiny_config, train, weights
from tbtt.batches import texts
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.engine import Engine, ForwardPass
from tbtt.fused import build, kernel
from tbtt.fused.build import NotHere
from tbtt.replicas import Replicas
from tbtt.results import ORDER_COLUMNS, read_results

CPU = torch.device('cpu')
WD = dict(weight_decay=0.1, learning_rate=3e-3, min_lr=1e-4)
SHAPES = {
    'paper': dict(n_embd=14),
    'deep': dict(n_embd=12, n_head=3, n_layer=2, mlp_expansion=4, bias=True, block_size=7, batch_size=21),
}


def build_small(*flags: str) -> ctypes.CDLL:
    """Build the library of a small shape, quickly."""
    return build.build(dict(V=3, T=2, C=2, H=1, L=1, F=2, BIAS=0), ('-O0', *flags))


def has_fused() -> bool:
    """Does the kernel build here?"""
    try:
        build_small()
        return True
    except NotHere:
        return False


pytestmark = pytest.mark.skipif(not has_fused(),
                                reason='needs a C compiler and a processor with fused multiply-add')


@pytest.fixture
def threads():
    """Set the number of threads, for a test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of built libraries."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'tbtt'


@pytest.fixture
def filled(tmp_path, monkeypatch) -> Path:
    """A cache with only the small library, copied from the library built for all tests."""
    known = build.cache_folder()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with monkeypatch.context() as patch:
        patch.setattr(build, 'compile_into', lambda folder, key, command: shutil.copy2(
            build.cached(known, key), folder))
        build_small()
    return tmp_path / 'cache' / 'tbtt'


def random_data(vocab_size: int, count: int = 300) -> torch.Tensor:
    return torch.randint(vocab_size, (count,), generator=torch.Generator().manual_seed(1))


def new_engine(data: torch.Tensor, vocab_size: int, config: Config, lively: bool = False,
               newline: int | None = None) -> Engine:
    """An engine on the CPU. lively: with weights so large that every part of the model matters"""
    seeds = list(range(config.seed, config.seed + config.num_seeds))
    replicas = Replicas.from_seeds(config.model_args(vocab_size), seeds)
    if lively:
        replicas.flat += 0.3 * torch.randn(replicas.flat.shape, generator=torch.Generator().manual_seed(2))
    engine = Engine(replicas, data, seeds, config, CPU, torch.float32, newline=newline)
    engine.prepare()
    return engine


def double_gradient(engine: Engine, starts: torch.Tensor) -> torch.Tensor:
    """The gradient of autograd in float64, (R, parameters)."""
    text = texts(engine.data, starts, engine.config.block_size + 1)
    model, names = engine.replicas.template.double(), engine.replicas.names

    def loss(params):
        logits = functional_call(model, params, (text[:, :, :-1].transpose(0, 1),))    # (R, micro, V, T, B)
        logits = logits.movedim(2, 1).flatten(2)
        return torch.nn.functional.cross_entropy(
            logits, text[:, :, 1:].transpose(0, 1).flatten(1).long(), reduction='none').mean(1).sum()

    named = {name: value.unsqueeze(1)
             for name, value in engine.replicas.named(engine.state.params.double()).items()}
    gradient, _ = grad_and_value(loss)(named)
    model.float()
    return torch.cat([gradient[name].flatten(1) for name in names], 1)


def random_shape(rng: random.Random) -> dict:
    """Random settings of a small model and its batches."""
    n_head = rng.randint(1, 3)
    return dict(block_size=rng.randint(1, 13), n_head=n_head, n_embd=n_head * rng.randint(4, 12),
                n_layer=rng.randint(1, 3), mlp_expansion=rng.randint(1, 4), bias=rng.random() < 0.5,
                batch_size=rng.randint(1, 70), gradient_accumulation_steps=rng.randint(1, 3),
                num_seeds=rng.randint(1, 3))


@pytest.fixture
def quickly(monkeypatch):
    """Compile in a third of the time."""
    monkeypatch.setattr(kernel, 'build', lambda shape, flags: build.build(shape, ('-O0',)))


@pytest.mark.slow_after_first
@pytest.mark.parametrize('vocab_size', [1, 2, 17, 51, 100])
def test_the_gradient_is_that_of_autograd_in_float64(vocab_size, quickly):
    shape = random_shape(random.Random(vocab_size))
    engine = new_engine(random_data(vocab_size), vocab_size, tiny_config(compile='fused', **shape),
                        lively=True)
    starts, _ = engine.example()
    found, _ = engine.kernel.gradient(engine.state, starts)
    torchs, _ = engine.gradient(engine.state, texts(engine.data, starts, shape['block_size'] + 1))
    expected = double_gradient(engine, starts)
    error, torchs_error = ((one - expected).norm() for one in (found, torchs))
    assert error <= max(1e-6 * expected.norm(), 5 * torchs_error), shape


@pytest.mark.slow_after_first
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('more', [dict(), WD, dict(grad_clip=0.0), dict(grad_clip=0.05),
                                  dict(beta1=0.5, beta2=0.9), dict(gradient_accumulation_steps=3),
                                  dict(num_seeds=3, **WD)])
def test_steps_are_those_of_the_eager_mode(math_data, shape, more):
    settings = dict(learning_rate=2e-3, min_lr=1e-3) | SHAPES[shape] | more
    eager, fused = (new_engine(math_data.train, 17, tiny_config(compile=mode, **settings))
                    for mode in ('False', 'fused'))
    assert fused.mode == 'fused'
    assert (train(eager, 0, 20) - train(fused, 0, 20)).abs().max() < 2e-5
    for r in range(len(fused.seeds)):
        one, other = weights(eager, r), weights(fused, r)
        # the bias of the keys has no gradient
        for name in one.keys() - {name for name in one if name.endswith('c_attn.bias')}:
            assert (one[name] - other[name]).abs().max() < 1e-4, name


@pytest.mark.slow
def test_every_mode_gives_the_losses_of_every_other_over_200_steps(math_data):
    modes = {mode: new_engine(math_data.train, 17,
                              tiny_config(compile=mode, num_seeds=2, max_iters=30000, **WD))
             for mode in ('False', 'True', 'fused')}
    losses = [train(engine, 0, 200) for engine in modes.values()]
    assert all((one - losses[0]).abs().max() < 5e-5 for one in losses)


@pytest.mark.slow
@pytest.mark.parametrize('how', [dict(windows='line'), dict(line_order='fresh')])
def test_windows_within_a_line_and_of_a_fresh_order_are_trained_on_as_in_the_eager_mode(math_data, how,
                                                                                        threads):
    settings = dict(how, block_size=12, gradient_accumulation_steps=2, num_seeds=3, learning_rate=2e-3,
                    min_lr=1e-3)
    eager, fused = (new_engine(math_data.train, 17, tiny_config(compile=mode, **settings),
                               newline=math_data.newline)
                    for mode in ('False', 'fused'))
    expected = train(eager, 0, 20)
    threads(2)
    assert fused.mode == 'fused' and (train(fused, 0, 20) - expected).abs().max() < 2e-5


def state_after(config: Config, data: torch.Tensor, steps: int = 30) -> list[torch.Tensor]:
    """Losses, weights and moments of a fused run."""
    engine = new_engine(data, 17, config, lively=True)
    return [train(engine, 0, steps), *(x.clone() for x in engine.state[:3])]


@pytest.mark.slow_after_first
@pytest.mark.parametrize('shape', SHAPES)
def test_the_number_of_threads_changes_no_bit(math_data, threads, shape):
    config = tiny_config(compile='fused', **SHAPES[shape] | WD | dict(batch_size=150))
    expected = state_after(config, math_data.train)
    for count in (2, 3, 7):
        threads(count)
        assert all(torch.equal(x, y) for x, y in zip(expected, state_after(config, math_data.train)))


@pytest.mark.slow_after_first
@pytest.mark.parametrize('R', [3, 8])
@pytest.mark.parametrize('count', [1, 2, 3])
def test_a_replica_is_the_run_that_its_seed_would_be_alone_to_the_bit(math_data, threads, R, count):
    config = dict(compile='fused', batch_size=40, **WD)
    alone = [new_engine(math_data.train, 17, tiny_config(seed=5 + r, **config)) for r in range(R)]
    losses = [train(engine, 0, 40) for engine in alone]
    threads(count)
    together = new_engine(math_data.train, 17, tiny_config(seed=5, num_seeds=R, **config))
    assert torch.equal(train(together, 0, 40), torch.cat(losses, 1))
    assert all(equal_weights(weights(together, r), weights(alone[r])) for r in range(R))


def test_a_resumed_run_is_the_one_that_was_not_interrupted_to_the_bit(math_data):
    config = tiny_config(compile='fused', num_seeds=2, **WD)
    first, second = (new_engine(math_data.train, 17, config) for _ in range(2))
    train(first, 0, 13)
    saved = checkpoints(first)
    expected = train(first, 13, 30)
    second.load(saved)
    assert torch.equal(train(second, 13, 30), expected) and equal_weights(weights(first, 1),
                                                                          weights(second, 1))


def runs_here(flags: tuple[str, ...]) -> bool:
    """Does this processor have the instructions?"""
    known = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    return {'-march=haswell': ' avx2 ', '-march=skylake-avx512': ' avx512dq ',
            '-mfma': ' fma '}[flags[-1]] in known


@pytest.mark.slow
@pytest.mark.parametrize('flags',
                         [('-march=haswell',), ('-march=skylake-avx512',), ('-march=x86-64', '-mfma')])
@pytest.mark.parametrize('shape', SHAPES)
def test_other_instruction_sets_give_the_same_bits(math_data, flags, shape, monkeypatch):
    if not runs_here(flags):
        pytest.skip(f'this processor has no {flags[-1]}')
    config = tiny_config(compile='fused', **SHAPES[shape] | WD)
    expected = state_after(config, math_data.train)
    monkeypatch.setattr(kernel, 'build', lambda shape, more: build.build(shape, flags))
    assert all(torch.equal(x, y) for x, y in zip(expected, state_after(config, math_data.train)))


@pytest.mark.slow
@pytest.mark.parametrize('compiler', ['gcc', 'clang'])
def test_other_compilers_give_the_same_bits(math_data, compiler, monkeypatch):
    if not shutil.which(compiler):
        pytest.skip(f'{compiler} is not installed')
    if os.path.samefile(shutil.which(compiler), build.find_compiler()):
        pytest.skip(f'{compiler} is the compiler that all other tests use')
    config = tiny_config(compile='fused', **SHAPES['deep'] | WD)
    expected = state_after(config, math_data.train)
    monkeypatch.setenv('CC', compiler)
    assert all(torch.equal(x, y) for x, y in zip(expected, state_after(config, math_data.train)))


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_replica_that_diverges_does_not_touch_its_neighbours(math_data, value, threads):
    threads(2)
    config = tiny_config(compile='fused', num_seeds=3, **WD)
    healthy, ill = (new_engine(math_data.train, 17, config) for _ in range(2))
    ill.state.params[1, 20] = value
    expected, found = train(healthy, 0, 10), train(ill, 0, 10)
    assert found[:, 1].isnan().all() and torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert all(equal_weights(weights(ill, r), weights(healthy, r)) for r in (0, 2))


def test_denormal_numbers_count_as_zero_and_stay_what_they_are_outside(math_data):
    config = tiny_config(compile='fused')
    with_denormals, with_zeros = (new_engine(math_data.train, 17, config) for _ in range(2))
    with_denormals.state.params[:, 5], with_zeros.state.params[:, 5] = 1e-40, 0.0
    with_denormals.state.exp_avg[:, 5] = 1e-41
    assert torch.equal(train(with_denormals, 0, 20), train(with_zeros, 0, 20))
    assert torch.equal(with_denormals.state.params, with_zeros.state.params)
    assert (torch.tensor([1e-40]) * 2 > 0).all()    # the thread keeps denormals afterwards


def test_a_batch_that_draws_no_window_twice_is_computed_all_the_same(math_data, monkeypatch):
    config = tiny_config(compile='fused', **WD)
    merged = state_after(config, math_data.train, 10)
    monkeypatch.setattr(kernel, 'MERGE', 0)
    for one, other in zip(merged, state_after(config, math_data.train, 10)):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('R, T, B', [(1, 9, 1), (1, 5, 33), (2, 9, 16), (3, 1, 7), (1, 4, 700), (3, 2, 333)])
def test_its_forward_pass_is_that_of_the_model(math_data, threads, R, T, B):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused', num_seeds=R), lively=True)
    tokens = random_data(17, R * T * B).view(R, T, B)
    for count in (1, 2):
        threads(count)
        torch.testing.assert_close(engine.forward(tokens), engine.replicas.forward(tokens), rtol=1e-4,
                                   atol=1e-5)
        torch.testing.assert_close(engine.forward(tokens[0]), engine.replicas.forward(tokens[0]), rtol=1e-4,
                                   atol=1e-5)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('vocab_size', [2, 11, 12, 17, 51, 100])    # most libraries are built already
def test_the_last_logits_have_the_bits_of_the_whole_forward_pass(quickly, threads, vocab_size):
    rng = random.Random(vocab_size)
    shape = random_shape(rng)
    engine = new_engine(random_data(vocab_size), vocab_size, tiny_config(compile='fused', **shape),
                        lively=True)
    for B in (1, 16, rng.randint(2, 50)):
        R, T = shape['num_seeds'], rng.randint(1, shape['block_size'])
        tokens, position = random_data(vocab_size, R * T * B).view(R, T, B), random_data(T, R * B).view(R, B)
        logits = engine.forward(tokens)
        expected = logits.gather(2, position[:, None, None].expand(-1, vocab_size, -1, -1))[:, :, 0]
        for count in (1, 2, 3):
            threads(count)
            assert torch.equal(engine.forward.last(tokens, position), expected), (shape, T, B)
            assert torch.equal(engine.forward(tokens), logits)


def test_they_are_those_of_the_weights_as_they_are_now(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused', num_seeds=2), lively=True)
    tokens, position = random_data(17, 2 * 5 * 20).view(2, 5, 20), torch.full((2, 20), 4)
    before = engine.forward.last(tokens, position)
    train(engine, 0, 3)
    engine.state.params[1, 7] += 0.5
    after = engine.forward.last(tokens, position)
    assert torch.equal(after, engine.forward(tokens)[:, :, 4]) and not torch.equal(after, before)
    torch.testing.assert_close(after, engine.replicas.forward(tokens)[:, :, 4], rtol=1e-4, atol=1e-5)


def test_replicas_that_diverged_leave_the_logits_of_others(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused', num_seeds=2, **SHAPES['deep']))
    tokens, position = random_data(17, 2 * 5 * 20).view(2, 5, 20), torch.full((2, 20), 2)
    expected = engine.forward.last(tokens, position)[1]
    engine.state.params[0] = torch.nan
    found = engine.forward.last(tokens, position)
    assert found[0].isnan().all() and torch.equal(found[1], expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_its_losses_are_those_of_its_logits_whatever_the_number_of_threads(math_data, threads, shape):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused', num_seeds=2, **SHAPES[shape]),
                        lively=True)
    T = engine.config.block_size
    every = random_data(18, 2 * (T + 1) * 600).view(2, T + 1, 600) - 1    # -1: no target
    for text in (every, every[..., :1], every[1, :4, :37]):
        logits, targets = engine.forward(text[..., :-1, :].clamp(min=0)), text[..., 1:, :].expand(2, -1, -1)
        expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction='none',
                                                     ignore_index=-1)
        found = engine.forward.losses(text)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
        threads(3)
        assert torch.equal(engine.forward.losses(text), found)
        threads(1)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('dataset, R', [('as_math', 2), ('both_math_and_facts', 1)])
def test_a_run_leaves_the_same_with_and_without_what_it_computes_apart(command, datasets, tmp_path, dataset,
                                                                       R, monkeypatch):
    settings = dict(TINY, dataset=datasets[dataset], compile='fused', num_seeds=R, block_size=12)
    assert command('train_with_eval.py', out_dir=tmp_path / 'apart', **settings).status == 0
    monkeypatch.setattr(ForwardPass, 'last', None)
    assert command('train_with_eval.py', out_dir=tmp_path / 'whole', **settings).status == 0
    monkeypatch.setattr(ForwardPass, 'losses', None)
    assert command('train_with_eval.py', out_dir=tmp_path / 'torch', **settings).status == 0
    found = sorted((tmp_path / 'apart').rglob('answers.npz'))
    assert len(found) == R
    for one in found:
        folder = one.parent.relative_to(tmp_path / 'apart')
        for name in ('answers.npz', 'results.csv'):
            assert (one.parent / name).read_bytes() == (tmp_path / 'whole' / folder / name).read_bytes()
        assert one.read_bytes() == (tmp_path / 'torch' / folder / 'answers.npz').read_bytes()
        rows, others = (read_results(tmp_path / run / folder / 'results.csv') for run in ('apart', 'torch'))
        for name in rows:    # the logarithm of a loss is rounded differently
            tolerance = 1e-5 if name in ('train_loss', 'val_loss', *ORDER_COLUMNS) else 0
            np.testing.assert_allclose(rows[name], others[name], rtol=0, atol=tolerance, err_msg=name)


def test_while_it_is_measured_torch_has_one_thread_and_the_fused_step_all(math_data, threads, monkeypatch):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused'))
    counts, in_threads = [], kernel.in_threads
    monkeypatch.setattr(kernel, 'in_threads',
                        lambda work, count: (counts.append(count), in_threads(work, count)))
    threads(3)
    with engine.measuring():
        assert torch.get_num_threads() == 1
        engine.forward(torch.zeros(9, 1000, dtype=torch.int64))
        engine.forward(torch.zeros(9, 100, dtype=torch.int64))    # too small for more than one thread
    assert counts == [3, 1] and torch.get_num_threads() == 3


@pytest.mark.parametrize('more', [dict(), dict(windows='line'), dict(line_order='fresh')])
def test_it_draws_the_same_batches(math_data, more):
    engine = new_engine(math_data.train, 17, tiny_config(compile='fused', num_seeds=3, seed=10**9, **more),
                        newline=math_data.newline)
    asked = engine.seeds, 29990, 30001, 37
    assert torch.equal(engine.kernel.draw(*asked), engine.batches.draw(*asked))


def test_a_launch_gets_by_with_the_threads_that_are_granted(math_data, threads, monkeypatch):
    config = tiny_config(compile='fused', num_seeds=3)
    expected = state_after(config, math_data.train)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    threads(4)
    monkeypatch.setattr('threading.Thread.start', refuse)
    assert all(torch.equal(x, y) for x, y in zip(expected, state_after(config, math_data.train)))


# When another mode is used.

def test_it_is_chosen_by_itself_where_it_fits(math_data):
    assert new_engine(math_data.train, 17, tiny_config(compile='auto', max_iters=30000)).mode == 'fused'
    assert new_engine(math_data.train, 17,
                      tiny_config(compile='auto', max_iters=20)).mode.startswith('eager (fewer')


def refusal(data: torch.Tensor, **more) -> str:
    """Why the fused step is not available: an error of one line if it is demanded, else a part of the mode's
    name."""
    with pytest.raises(UserError, match='compile=fused, but') as error:
        new_engine(data, 17, tiny_config(compile='fused', **more))
    reason = str(error.value).split('is not available: ')[1]
    engine = new_engine(data, 17, tiny_config(compile='auto', max_iters=500, **more))
    assert engine.mode == f'eager (not fused: {reason})' and '\n' not in reason
    assert train(engine, 0, 2).isfinite().all()
    return reason


@pytest.mark.parametrize('thread', [0, 1])
def test_an_error_in_a_thread_is_raised_when_all_threads_have_ended(thread):
    ended = []

    def work(i: int, granted: int) -> None:
        if i == thread:
            raise MemoryError(f'in thread {i}')
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(MemoryError, match=f'thread {thread}'):
        kernel.in_threads(work, 3)
    assert sorted([*ended, thread]) == [0, 1, 2]


@pytest.mark.slow
def test_what_it_has_not_is_trained_in_another_mode_that_says_so(math_data):
    assert 'dropout' in refusal(math_data.train, dropout=0.1)
    assert 'too large' in refusal(math_data.train, n_embd=512)


def test_without_a_compiler_another_mode_is_taken(math_data, cache, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('CC', raising=False)
    assert 'no C compiler' in refusal(math_data.train)


def test_a_compiler_that_fails_is_named_with_what_it_says(math_data, cache, tmp_path, monkeypatch):
    failing = tmp_path / 'sick-cc'
    failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
                       'echo "step.c: error: no such instruction" >&2\nexit 1\n')
    failing.chmod(0o755)
    monkeypatch.setenv('CC', str(failing))
    reason = refusal(math_data.train)
    assert 'sick-cc' in reason and 'no such instruction' in reason
    assert not list(cache.iterdir())


def test_a_wrong_gradient_is_found_before_the_first_step(math_data, monkeypatch):
    right = kernel.Kernel.gradient
    monkeypatch.setattr(kernel.Kernel, 'gradient', lambda self, *args: (right(self, *args)[0] * 1.0001, None))
    assert 'differs from that of autograd by 1.0e-04' in refusal(math_data.train)


def built(cache: Path) -> Path:
    """The only library in the cache."""
    path, = cache.iterdir()
    return path


def test_a_library_is_built_once_and_lies_where_only_the_user_writes(cache, monkeypatch):
    build_small()
    path = built(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and not path.stat().st_mode & 0o022
    monkeypatch.setattr(build, 'compile_into', lambda *args: pytest.fail('built again'))
    build_small()


@pytest.mark.slow
def test_another_compiler_or_processor_or_source_builds_anew(filled, monkeypatch):
    build_small('-DANOTHER')
    monkeypatch.setattr(build, 'processor', lambda: 'another')
    build_small()
    assert len(list(filled.iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize('damage', [lambda content: content[:1000], lambda content: b'',
                                    lambda content: content[:-1] + b'?'])
def test_a_damaged_library_is_built_again(filled, damage):
    path, content = built(filled), built(filled).read_bytes()
    path.unlink()    # write a new file of that name: the old one is loaded
    path.write_bytes(damage(content))
    path.chmod(0o700)
    library = build_small()
    library.num_params.restype = ctypes.c_int64
    assert library.num_params() == 3 * 2 + 2 * 2 + 2 + 12 + 4 + 2 + 4 + 4 + 2
    assert build.digest(built(filled).read_bytes()) in built(filled).name


@pytest.mark.slow
def test_a_library_that_others_may_write_is_not_loaded(filled):
    path = built(filled)
    path.chmod(0o777)
    assert build.cached(filled, path.name.split('-')[0]) is None and not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize('make', [
    lambda folder: (folder.mkdir(parents=True), folder.chmod(0o777)),
    lambda folder: (folder.parent.mkdir(), (folder.parent / 'elsewhere').mkdir(),
                    folder.symlink_to('elsewhere'))])
def test_a_cache_that_others_may_write_or_that_is_a_link_is_not_used(cache, make):
    make(cache)
    assert build.cache_folder() is None
    build_small()
    assert not list(cache.iterdir())


@pytest.mark.slow
def test_where_no_cache_can_be_the_library_is_built_for_the_process(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert build.cache_folder() is None and build_small().num_params() > 0


SANITIZED = """
import os
del os.environ['LD_PRELOAD']    # loaded here; the compiler needs no sanitizer and is ten times slower with it
import torch
from conftest import tiny_config, train
from tbtt.fused import build, kernel
from test_fused import SHAPES, new_engine, random_data
once = build.build
# A trap in place of what it says of undefined behaviour compiles in half of the time.
FLAGS = ('-O0', '-fsanitize=address,undefined', '-fsanitize-undefined-trap-on-error')
kernel.build = lambda shape, flags: once(shape, FLAGS)
ONE = dict(n_embd=1, block_size=1, batch_size=1)
LINES = dict(SHAPES['deep'], windows='line', num_seeds=3)
CASES = (1, 17, SHAPES['paper']), (2, 40, SHAPES['deep']), (2, 40, LINES), (2, 1, ONE)
for threads, vocab_size, shape in CASES:
    torch.set_num_threads(threads)
    data = torch.cat([random_data(vocab_size), torch.tensor([0])])    # the last token ends a line
    engine = new_engine(data, vocab_size, tiny_config(compile='fused', **shape), lively=True, newline=0)
    assert train(engine, 0, 3).isfinite().all()
    T, R = engine.config.block_size, len(engine.seeds)
    engine.forward(torch.zeros(T, 5, dtype=torch.int64))
    engine.forward.losses(torch.zeros(T + 1, 17, dtype=torch.int64))
    engine.forward.last(*torch.zeros(2, R, 1, 33, dtype=torch.int64).unbind())
print('clean')
"""


@pytest.mark.slow
def test_sanitizers_find_nothing():
    found = [subprocess.run([build.find_compiler(), f'-print-file-name={name}'], capture_output=True,
                            text=True).stdout.strip()
             for name in ('libasan.so', 'libubsan.so')]
    if not all(os.path.isabs(path) for path in found):
        pytest.skip('the sanitizers of the compiler are not installed')
    environment = {**os.environ, 'LD_PRELOAD': ' '.join(found), 'ASAN_OPTIONS': 'detect_leaks=0',
                   'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{HERE}:{HERE / "tests"}'}
    done = subprocess.run([sys.executable, '-c', SANITIZED], env=environment, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0 and done.stdout == 'clean\n', (done.returncode, done.stderr[-3000:])


RUNS = """
import contextlib, runpy, sys
script, *settings = sys.argv[1:]
sys.path.insert(0, script.rpartition('/')[0])
for mode in ('fused', 'False'):
    sys.argv = [script, *settings, f'--compile={mode}', f'--out_dir=run_{mode}']
    with contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name='__main__')
print({'torch._dynamo', 'sympy', 'scipy', 'matplotlib'} & sys.modules.keys() or 'none of them')
"""


@pytest.mark.slow
def test_a_run_that_compiles_nothing_does_not_wait_for_the_import_of_torchs_compiler(small_math, tmp_path):
    settings = {name: value for name, value in dict(TINY, dataset=small_math).items() if name != 'compile'}
    done = subprocess.run([sys.executable, '-c', RUNS, HERE / 'train_with_eval.py', *options(settings)],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.count('iter     20:') == 4 and done.stdout.endswith('none of them\n'), done


@pytest.mark.slow
def test_a_run_says_that_its_step_is_fused_and_resumes_to_the_byte(command, small_math, tmp_path):
    settings = dict(TINY, dataset=small_math, compile='fused', num_seeds=2)
    one = command('train_with_eval.py', out_dir=tmp_path / 'one', **settings)
    assert one.status == 0 and 'the step is fused' in one.out + one.err
    assert command('train_with_eval.py', out_dir=tmp_path / 'two',
                   **settings | dict(max_iters=10)).status == 0
    assert command('train_with_eval.py', out_dir=tmp_path / 'two', init_from='resume', **settings).status == 0
    for seed in ('seed_1337', 'seed_1338'):
        first, second = (torch.load(tmp_path / run / seed / 'ckpt.pt', weights_only=True)['model']
                         for run in ('one', 'two'))
        assert equal_weights(first, second)
