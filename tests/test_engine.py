"""The training step: replicas compared with single runs and with torch's optimizer, and what must not disturb
the step."""
import resource
from pathlib import Path

import pytest
import torch

from conftest import checkpoints, equal_weights, new_engine, tiny_config, train, weights
from tbtt import rng
from tbtt.baseline import NanoGPT, slice_batch
from tbtt.distributed import Ranks
from tbtt.engine import learning_rate
from tbtt.fused.build import NotHere

STATM = Path('/proc/self/statm')
WD = dict(weight_decay=0.1, learning_rate=3e-3, min_lr=1e-4)


def plain_model(engine, args, r=0):
    model = NanoGPT(**args)
    model.load_state_dict(weights(engine, r), strict=True)
    return model


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.slow
@pytest.mark.parametrize('R, iterations', [(1, 100), (3, 100), (8, 40)])
def test_a_replica_is_the_run_that_its_seed_would_be_alone(math_data, R, iterations):
    config = tiny_config(seed=5, num_seeds=R, n_embd=8, **WD)
    together = new_engine(math_data.train, 17, config)
    alone = [new_engine(math_data.train, 17, tiny_config(seed=5 + r, n_embd=8, **WD)) for r in range(R)]
    assert all(equal_weights(weights(together, r), weights(alone[r])) for r in range(R))
    losses = train(together, 0, iterations)
    assert losses.shape == (iterations, R) and losses[-1].max() < losses[0].min() - 0.1
    for r in range(R):
        assert (losses[:, r] - train(alone[r], 0, iterations)[:, 0]).abs().max() < 1e-5
        assert largest_difference(weights(together, r), weights(alone[r])) < 1e-4


def test_seeds_differ_in_weights_and_in_batches(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(num_seeds=2))
    assert not equal_weights(weights(engine, 0), weights(engine, 1))
    starts = rng.batch_starts(engine.seeds, 0, 1, 16, 100)[0]
    assert not torch.equal(starts[0], starts[1])


@pytest.mark.slow_after_first
@pytest.mark.parametrize('settings', [
    dict(), dict(weight_decay=0.3), dict(bias=True, weight_decay=0.3, n_head=2, n_layer=2, mlp_expansion=4),
    dict(grad_clip=0.05), dict(grad_clip=0.0), dict(beta1=0.5, beta2=0.9),
    dict(gradient_accumulation_steps=3)])
def test_steps_are_those_of_torchs_adamw_and_clipping_over_nanogpts_groups(math_data, settings):
    config = tiny_config(learning_rate=2e-3, min_lr=1e-3, **settings)
    engine = new_engine(math_data.train, 17, config)
    model = plain_model(engine, config.model_args(17) | {'mlp_expansion': config.mlp_expansion})
    optimizer = model.optimizer(config)
    losses, micro = train(engine, 0, 12)[:, 0], config.gradient_accumulation_steps
    for t in range(12):
        starts = rng.batch_starts(engine.seeds, t, t + 1, 16 * micro, len(math_data.train) - 9)[0, 0]
        loss = model.loss(*slice_batch(math_data.train, starts, 9))
        assert losses[t].item() == pytest.approx(loss.item(), abs=2e-5)
        loss.backward()
        if config.grad_clip:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            assert config.grad_clip == 1 or norm > config.grad_clip
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(config, t)
        optimizer.step()
        optimizer.zero_grad()
    assert largest_difference(weights(engine), model.state_dict()) < 2e-5


@pytest.mark.parametrize('settings', [dict(), dict(bias=True, n_layer=2, beta2=0.9, **WD)])
def test_the_optimizer_in_a_checkpoint_is_what_torchs_adamw_would_write(math_data, settings):
    config = tiny_config(**settings)
    engine = new_engine(math_data.train, 17, config)
    train(engine, 0, 2)
    ours = engine.snapshot()(0)['optimizer']
    model = plain_model(engine, config.model_args(17))
    optimizer = model.optimizer(config)
    assert repr(optimizer.state_dict()['param_groups']) == repr(ours['param_groups'])    # in their order too
    model.loss(*slice_batch(math_data.train, [0], 9)).backward()
    optimizer.step()
    theirs = optimizer.state_dict()['state']
    assert ours['state'].keys() == theirs.keys()
    for i, state in ours['state'].items():
        assert list(state) == list(theirs[i]) and state['step'] == 2
        assert all((x.shape, x.dtype) == (theirs[i][name].shape, theirs[i][name].dtype)
                   for name, x in state.items())


def test_decay_shrinks_matrices_and_embeddings_and_nothing_else(math_data):
    plain, decayed = (new_engine(math_data.train, 17,
                                 tiny_config(weight_decay=wd, bias=True, learning_rate=1e-2))
                      for wd in (0.0, 5.0))
    before = weights(plain)
    train(plain, 0, 1), train(decayed, 0, 1)
    shrunk = {name
              for name, value in weights(decayed).items() if not torch.equal(value, weights(plain)[name])}
    assert shrunk == {name for name, value in before.items() if value.dim() == 2}
    for name in shrunk:    # the learning rate of step 0 is 1e-2 / 3
        expected = weights(plain)[name] - before[name] * 5.0 * 1e-2 / 3
        assert torch.allclose(weights(decayed)[name], expected, atol=1e-6), name


def test_accumulated_gradients_are_those_of_one_large_batch(math_data):
    one = new_engine(math_data.train, 17, tiny_config(batch_size=48))
    three = new_engine(math_data.train, 17, tiny_config(batch_size=16, gradient_accumulation_steps=3))
    assert (train(one, 0, 20) - train(three, 0, 20)).abs().max() < 1e-5
    assert largest_difference(weights(one), weights(three)) < 1e-4


@pytest.mark.parametrize('iteration, expected', [
    (0, 0.01 / 2001), (999, 0.005 * 2000 / 2001), (1999, 0.01 * 2000 / 2001), (2000, 0.01),
    (13500, (0.01 + 1e-4) / 2), (25000, 1e-4), (25001, 1e-4), (30000, 1e-4)])
def test_the_learning_rate_warms_up_decays_by_a_cosine_and_stays(iteration, expected):
    config = tiny_config(warmup_iters=2000, lr_decay_iters=25000, learning_rate=1e-2, min_lr=1e-4)
    assert learning_rate(config, iteration) == pytest.approx(expected, rel=1e-9)


def test_the_learning_rate_has_no_corner_cases():
    assert learning_rate(tiny_config(warmup_iters=0, lr_decay_iters=0, learning_rate=0.5), 0) == 0.5
    assert learning_rate(tiny_config(warmup_iters=0, lr_decay_iters=10, learning_rate=0.5), 0) == 0.5
    assert learning_rate(tiny_config(warmup_iters=7, lr_decay_iters=7, learning_rate=0.5), 7) == 0.5
    assert {learning_rate(tiny_config(decay_lr=False, learning_rate=0.5), t) for t in (0, 1, 10**6)} == {0.5}


def test_how_the_iterations_are_divided_changes_nothing(math_data):
    engines = [new_engine(math_data.train, 17, tiny_config()) for _ in range(2)]
    whole = train(engines[0], 0, 20)
    parts = [train(engines[1], a, b) for a, b in ((0, 1), (1, 7), (7, 20))]
    assert torch.equal(torch.cat(parts), whole) and equal_weights(weights(engines[0]), weights(engines[1]))


def test_iterations_are_numbered_by_what_is_done(math_data):
    engine = new_engine(math_data.train, 17, tiny_config())
    done = [(t, len(losses)) for t, losses in engine.run(7, 12)]
    assert done[-1][0] == 12 and sum(count for _, count in done) == 5 and done[0][0] == 7 + done[0][1]


def test_an_engine_that_takes_up_a_snapshot_goes_on_as_the_other_would(math_data):
    config = tiny_config(num_seeds=2, **WD)
    first, second = (new_engine(math_data.train, 17, config) for _ in range(2))
    train(first, 0, 10)
    saved = checkpoints(first)
    expected = train(first, 10, 20)
    second.load(saved)
    assert torch.equal(train(second, 10, 20), expected)
    assert equal_weights(weights(first, 1), weights(second, 1))


def test_a_snapshot_does_not_change_with_the_training_that_goes_on(math_data):
    engine = new_engine(math_data.train, 17, tiny_config())
    snapshot = engine.snapshot()
    before = {name: value.clone() for name, value in snapshot(0)['model'].items()}
    train(engine, 0, 5)
    assert equal_weights(snapshot(0)['model'], before) and not equal_weights(weights(engine), before)


@pytest.mark.parametrize('dropout, differ', [(0.0, False), (0.3, True)])
def test_replicas_have_dropout_masks_of_their_own(math_data, dropout, differ):
    # The weights are equal and, as the data have one token, so are the batches: only the masks differ.
    engine = new_engine(torch.full((200,), 3), 17, tiny_config(num_seeds=2, dropout=dropout))
    engine.load(dict.fromkeys('ab', checkpoints(engine)['seed 0']))
    losses = train(engine, 0, 3)
    assert torch.equal(losses[:, 0], losses[:, 1]) != differ


def test_dropout_is_the_same_for_the_same_seed_whatever_was_drawn_before(math_data):
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        engine = new_engine(math_data.train, 17, tiny_config(dropout=0.3))
        runs.append(train(engine, 0, 5))
    assert torch.equal(*runs)


def test_a_replica_that_diverges_does_not_touch_its_neighbours(math_data):
    config = tiny_config(num_seeds=3, **WD)
    healthy, ill = (new_engine(math_data.train, 17, config) for _ in range(2))
    saved = checkpoints(ill)
    for value in saved['seed 1']['model'].values():
        value.fill_(torch.nan)
    ill.load(saved)
    expected, found = train(healthy, 0, 10), train(ill, 0, 10)
    assert found[:, 1].isnan().all() and torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert all(equal_weights(weights(ill, r), weights(healthy, r)) for r in (0, 2))


@pytest.mark.slow_after_first
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_lower_precision_trains_nearly_as_float32_does(math_data, dtype):
    exact, rough = (new_engine(math_data.train, 17, tiny_config(num_seeds=2), d)
                    for d in (torch.float32, dtype))
    expected, found = train(exact, 0, 40), train(rough, 0, 40)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05 and found[-1].max() < found[0].min() - 0.1


def test_with_float16_a_step_that_overflows_is_skipped_for_that_replica_alone(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(num_seeds=2), torch.float16)
    before = [weights(engine, r) for r in range(2)]
    engine.state.scale[1] = 2.0**60
    train(engine, 0, 1)
    assert not equal_weights(weights(engine, 0), before[0]) and equal_weights(weights(engine, 1), before[1])
    assert engine.state.scale.flatten().tolist() == [2.0**16, 2.0**59]
    losses = train(engine, 1, 60)    # the scale falls until steps succeed
    assert losses.isfinite().all() and not equal_weights(weights(engine, 1), before[1])


def unavailable(*args):
    raise NotHere('for a test')


@pytest.mark.slow
def test_a_compiled_step_gives_the_losses_of_an_eager_one(math_data, monkeypatch):
    # A single replica is compiled without its axis; test_fused.py compares two replicas.
    eager = new_engine(math_data.train, 17, tiny_config(**WD))
    monkeypatch.setattr('tbtt.engine.Kernel', unavailable)
    compiled = new_engine(math_data.train, 17,
                          tiny_config(compile='auto', max_iters=30000, **WD))
    assert compiled.mode.endswith(' (not fused: for a test)')
    if compiled.mode.startswith('compiled'):
        assert (train(eager, 0, 50) - train(compiled, 0, 50)).abs().max() < 1e-5
    else:
        assert compiled.mode.startswith('eager (')    # the reason follows


def test_where_nothing_compiles_every_part_of_the_step_is_eager(math_data, monkeypatch):
    def broken(function, **options):
        def fail(*args):
            raise RuntimeError('no compiler')
        return fail

    monkeypatch.setattr('tbtt.engine.Kernel', unavailable)
    monkeypatch.setattr(torch, 'compile', broken)
    engine = new_engine(math_data.train, 17, tiny_config(compile='auto', max_iters=30000, windows='line'),
                        newline=math_data.newline)
    assert engine.mode.startswith('eager (it does not compile here: no compiler)')
    assert train(engine, 0, 2).isfinite().all()


def test_dropout_goes_on_in_mid_interval_as_if_nothing_had_happened(math_data):
    config = tiny_config(dropout=0.3)
    whole, first, second = (new_engine(math_data.train, 17, config) for _ in range(3))
    expected = train(whole, 0, 10)
    train(first, 0, 7)
    saved = checkpoints(first)
    torch.manual_seed(99)    # another process or device would have another random state
    second.load(saved)
    assert torch.equal(train(second, 7, 10), expected[7:])


def test_a_checkpoint_with_a_stream_of_another_device_is_taken_up(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(dropout=0.3))
    saved = checkpoints(engine)
    # a CUDA generator's, as earlier versions saved it
    saved['seed 0']['stream'] = torch.zeros(16, dtype=torch.uint8)
    engine.load(saved)
    assert train(engine, 5, 7).isfinite().all()


def test_processes_that_split_a_batch_have_masks_of_their_own_wherever_they_begin(math_data):
    engines = [new_engine(math_data.train, 17, tiny_config(dropout=0.3)) for _ in range(2)]
    for rank, engine in enumerate(engines):
        engine.ranks = Ranks(rank, 2, split=True)
    for t in (0, 7):
        states = []
        for engine in engines:
            engine.seed_dropout(t)
            states.append(torch.get_rng_state())
        assert not torch.equal(*states)


@pytest.mark.parametrize('seeds, interval', [(1, 30000), (2000, 1000)])
def test_the_indices_of_a_stretch_stay_small_however_long_it_is(math_data, seeds, interval):
    engine = new_engine(math_data.train, 17, tiny_config(batch_size=882, eval_interval=interval))
    engine.seeds = torch.arange(seeds)
    starts, lr = engine.stretch(0, engine.stretch_size())
    assert 4 * starts.numel() * 8 <= 2**26 and len(starts) == len(lr) >= 1


def test_a_stretch_in_pieces_trains_as_a_whole(math_data, monkeypatch):
    whole, pieces = (new_engine(math_data.train, 17, tiny_config()) for _ in range(2))
    expected = train(whole, 0, 20)
    monkeypatch.setattr('tbtt.engine.INDEX_BYTES', 3 * 8 * 16)
    assert pieces.stretch_size() == 3 and torch.equal(train(pieces, 0, 20), expected)


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason='counts the memory as Linux tells it')
def test_memory_does_not_grow_with_iterations(math_data):
    engine = new_engine(math_data.train, 17, tiny_config(batch_size=128))
    resident = []
    for first in range(0, 300, 50):
        for _ in engine.run(first, first + 50):
            pass
        resident.append(int(STATM.read_text().split()[1]))
    # Keeping the activations of every step would cost a hundred times that.
    assert resident[-1] - resident[1] < 2 * 2**20 / resource.getpagesize()
