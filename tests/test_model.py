"""The GPT: its size, its forward pass compared with a plain one, its gradient, and its initial weights."""
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

from conftest import equal_weights
from model import GPT, MANY, GPTConfig, dropout
from tbtt.baseline import NanoGPT
from tbtt.config import load_config
from tbtt.replicas import Replicas

VOCABULARY = {'math': 17, 'facts': 51, 'both': 66}
SHAPES = {
    'paper': dict(n_layer=1, n_head=1, n_embd=14, block_size=9, bias=False, vocab_size=17, mlp_expansion=1),
    'deep': dict(n_layer=3, n_head=4, n_embd=24, block_size=11, bias=False, vocab_size=23),
    'long': dict(n_layer=1, n_head=2, n_embd=12, block_size=40, bias=False, vocab_size=17),
    'many tokens': dict(n_layer=1, n_head=2, n_embd=12, block_size=5, bias=False, vocab_size=MANY + 3,
                        tanh_gelu=True),
    'biased': dict(n_layer=2, n_head=2, n_embd=12, block_size=7, bias=True, vocab_size=19, mlp_expansion=3),
}


def lively(args, seeds=(0,), **more):
    """Replicas with weights and biases so large that every part of the model shows in the logits."""
    replicas = Replicas.from_seeds({**args, **more}, list(seeds))
    noise = torch.Generator().manual_seed(1)
    for r in range(len(seeds)):
        state = replicas.state_dict(replicas.flat[r])
        replicas.load(r, {name: value + 0.3 * torch.randn(value.shape, generator=noise) for name, value in
                          state.items()})
    return replicas


def plain(replicas, r, args):
    model = NanoGPT(**args)
    model.load_state_dict(replicas.state_dict(replicas.flat[r]), strict=True)
    return model.eval()


def random_tokens(args, *shape):
    return torch.randint(args['vocab_size'], shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize('task, model, count', [
    ('math', 'mini_14', 1456), ('math', 'mini_28', 5264), ('math', 'mini_56', 19936),
    ('math', 'mlt', 10628352), ('facts', 'mini_14', 1932), ('facts', 'mini_28', 6216),
    ('facts', 'mini_56', 21840), ('facts', 'mlt', 10641408), ('both', 'mini_14', 2142),
    ('both', 'mini_28', 6636), ('both', 'mini_56', 22680), ('both', 'mlt', 10647168)])
@pytest.mark.parametrize('twin', ['', '_wd'])
def test_every_config_makes_the_papers_number_of_parameters(task, model, count, twin):
    config = load_config([f'config/train_{task}_{model}{twin}.py'], {})
    with torch.device('meta'):
        assert GPT(GPTConfig(**config.model_args(VOCABULARY[task]))).get_num_params() == count


@pytest.mark.parametrize('task', VOCABULARY)
@pytest.mark.parametrize('model', ['mini_14', 'mini_28', 'mini_56', 'mlt'])
def test_every_config_states_the_papers_run(task, model):
    config, twin = (load_config([f'config/train_{task}_{model}{end}.py'], {}) for end in ('', '_wd'))
    large = model == 'mlt'
    assert (config.out_dir, twin.out_dir) == (f'{task}_{model}', f'{task}_{model}_wd')
    assert (config.n_layer, config.n_head, config.mlp_expansion) == ((6, 6, 4) if large else (1, 1, 1))
    assert (config.block_size, config.batch_size) == ((9, 882) if task == 'math' else (24, 576))
    assert (config.learning_rate, config.min_lr) == ((1e-5, 1e-6) if large else (1e-2, 1e-4))
    assert (config.dropout, config.weight_decay) == ((0.2, 0.1) if large else (0, 0))
    assert (twin.dropout, twin.weight_decay) == (0, 0.1)
    assert (config.max_iters, config.lr_decay_iters, config.warmup_iters,
            config.eval_interval) == (30000, 25000, 2000, 250)
    assert (config.beta1, config.beta2, config.grad_clip, config.bias) == (0.9, 0.99, 1, False)


@pytest.mark.parametrize('task', ['facts', 'both'])
@pytest.mark.parametrize('model', ['mini_14', 'mini_28', 'mini_56'])
def test_a_config_with_frequencies_is_the_papers_but_for_its_data_and_length(task, model):
    paper, ours = (load_config([f'config/train_{task}{skewed}_{model}.py'], {}) for skewed in ('', '_skewed'))
    new = dict(out_dir=f'{task}_skewed_{model}', dataset=f'{task}_skewed', max_iters=10000, warmup_iters=700,
               lr_decay_iters=8300)
    assert ours == dataclasses.replace(paper, **new)
    for name in ('warmup_iters', 'lr_decay_iters'):    # the shape of the schedule
        assert getattr(ours, name) / ours.max_iters == pytest.approx(getattr(paper, name) / paper.max_iters,
                                                                     rel=0.06)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('R', [1, 3])
def test_logits_are_those_of_a_plain_forward(shape, R):
    args = SHAPES[shape]
    replicas = lively(args, seeds=range(R))
    tokens = random_tokens(args, R, args['block_size'], 5)
    with torch.no_grad():
        logits, shared = replicas.forward(tokens), replicas.forward(tokens[0])
        for r in range(R):
            model = plain(replicas, r, args)
            assert (logits[r] - model(tokens[r].T).permute(2, 1, 0)).abs().max() < 1e-4
            assert (shared[r] - model(tokens[0].T).permute(2, 1, 0)).abs().max() < 1e-4
    assert logits.std() > 0.3 and (R == 1 or (shared[0] - shared[1]).abs().max() > 0.3)


@pytest.mark.parametrize('shape', SHAPES)
def test_the_model_alone_takes_tokens_without_the_replica_axis(shape):
    args = SHAPES[shape]
    replicas = lively(args)
    model = GPT(GPTConfig(**args)).eval()
    model.load_state_dict(replicas.state_dict(replicas.flat[0]), strict=True)
    tokens = random_tokens(args, 4, 3)    # shorter than the block
    assert (model(tokens) - plain(replicas, 0, args)(tokens.T).permute(2, 1, 0)).abs().max() < 1e-4


@pytest.mark.parametrize('shape', SHAPES)
def test_a_token_changes_no_logits_before_it_and_none_of_its_neighbours_in_the_batch(shape):
    args = SHAPES[shape]
    replicas = lively(args)
    tokens = random_tokens(args, 1, args['block_size'], 3)
    changed = tokens.clone()
    changed[0, 4, 1] = (changed[0, 4, 1] + 1) % args['vocab_size']
    with torch.no_grad():
        difference = (replicas.forward(changed) - replicas.forward(tokens)).abs().amax(1)[0]    # (T, B)
    assert difference[:4].max() < 1e-5 and difference[:, [0, 2]].max() < 1e-5
    assert difference[4:, 1].min() > 1e-3


@pytest.mark.slow_after_first
@pytest.mark.parametrize('bias', [False, True])
def test_the_gradient_is_that_of_finite_differences_in_float64(bias):
    args = dict(n_layer=2, n_head=2, n_embd=4, block_size=3, bias=bias, vocab_size=5, mlp_expansion=2)
    replicas = lively(args)
    model = GPT(GPTConfig(**args)).double()
    model.load_state_dict(replicas.state_dict(replicas.flat[0]))
    x, y = random_tokens(args, 2, 3, 4)

    def loss():
        return F.cross_entropy(model(x).permute(2, 1, 0).flatten(0, 1), y.T.flatten())

    loss().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - differences(loss, parameter.data)).abs().max() < 1e-8, name


def differences(loss, values, step=1e-5):
    """Central differences of a loss by each entry of `values`."""
    flat, found = values.view(-1), torch.zeros(values.numel(), dtype=values.dtype)
    for i, value in enumerate(flat.tolist()):
        ends = []
        for at in (value + step, value - step):
            flat[i] = at
            with torch.no_grad():
                ends.append(loss().item())
        flat[i] = value
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.view_as(values)


def test_initial_weights_are_gpt_2s():
    model = GPT(GPTConfig(n_layer=6, n_head=4, n_embd=128, block_size=64, vocab_size=100, bias=True))
    for name, p in model.named_parameters():
        if p.dim() == 1:
            assert (p == (0 if name.endswith('bias') else 1)).all(), name
        else:
            expected = 0.02 / math.sqrt(12) if name.endswith('c_proj.weight') else 0.02
            assert p.std().item() == pytest.approx(expected, rel=0.05) and p.mean().abs() < 0.001, name


def test_the_head_is_the_embedding():
    replicas = Replicas.from_seeds(SHAPES['paper'], [0, 1])
    for r in range(2):
        state = replicas.state_dict(replicas.flat[r])
        assert torch.equal(state['lm_head.weight'], state['transformer.wte.weight'])
        assert NanoGPT(**SHAPES['paper']).state_dict().keys() == state.keys()


def test_weights_are_a_function_of_the_seed_and_drawing_them_disturbs_no_other_draw():
    before = torch.get_rng_state()
    together, alone = Replicas.from_seeds(SHAPES['deep'], [3, 4, 5]), Replicas.from_seeds(SHAPES['deep'], [5])
    assert torch.equal(torch.get_rng_state(), before)
    states = [together.state_dict(row) for row in together.flat]
    assert equal_weights(states[2], alone.state_dict(alone.flat[0])) and not equal_weights(states[0],
                                                                                           states[1])


def test_dropout_is_off_where_one_asks_and_on_where_one_trains():
    args = {**SHAPES['deep'], 'dropout': 0.5}
    replicas, tokens = lively(args), random_tokens(args, 1, 11, 8)
    with torch.no_grad():
        assert torch.equal(replicas.forward(tokens), replicas.forward(tokens))
        model = replicas.template.train()
        assert not torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9])
def test_dropout_keeps_each_element_by_chance_and_scales_what_it_keeps(p):
    x = torch.ones(64, 9, 700)
    torch.manual_seed(5)
    masks = torch.stack([dropout(x, p), dropout(x, p)])
    assert set(masks.unique().tolist()) == {0.0, (x[0, 0, 0] / (1 - p)).item()}
    kept, size = (masks > 0).double(), masks[0].numel()
    sigma = (p * (1 - p) / size) ** 0.5
    assert ((kept.mean((1, 2, 3)) - (1 - p)).abs() < 4 * sigma).all()
    # the masks of the two calls, and of neighbours along each axis, agree only as often as by chance
    pairs = [(kept[0], kept[1]), *((kept[0].narrow(axis, 0, n - 1), kept[0].narrow(axis, 1, n - 1))
                                   for axis, n in enumerate(x.shape))]
    for a, b in pairs:
        assert abs(((a - 1 + p) * (b - 1 + p)).mean()) < 4 * p * (1 - p) / a.numel() ** 0.5
    torch.manual_seed(5)
    assert torch.equal(dropout(x, p), masks[0])
    assert dropout(x, 0.0) is x and dropout(x, p, on=False) is x


@pytest.mark.slow
def test_the_compiled_gradient_of_many_tokens_has_the_same_bits_every_time():
    args = dict(n_layer=0, n_head=1, n_embd=64, block_size=64, bias=False, vocab_size=MANY)
    replicas, threads = lively(args), torch.get_num_threads()
    tokens = torch.randint(7, (1, 64, 64), generator=torch.Generator().manual_seed(2))    # each token often

    def loss(params):
        return functional_call(replicas.template, params, (tokens,)).square().mean()

    compiled = torch.compile(grad(loss), dynamic=False)
    torch.set_num_threads(2)
    try:
        first, *others = [compiled(replicas.named(replicas.flat)) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(equal_weights(first, other) for other in others)
