"""Batched sampling compared with one prompt, one sample and one token at a time."""
import pytest
import torch

from tbtt.baseline import NanoGPT
from tbtt.generate import generate
from tbtt.replicas import Replicas
from tbtt.rng import gumbel

ARGS = dict(n_layer=2, n_head=2, n_embd=12, block_size=6, bias=False, vocab_size=11, mlp_expansion=2)
# shorter than the block, longer, and equally long
PROMPTS = [[1], [2, 3], [4, 5, 6, 7, 8, 9, 10, 0], [1, 2, 3, 4, 5, 6]]
SEEDS = torch.tensor([1337, 7, 40])


@pytest.fixture(scope='module')
def replicas():
    """Three models that are neither certain nor clueless."""
    found = Replicas.from_seeds(ARGS, [0, 1, 2])
    found.flat += 0.4 * torch.randn(found.flat.shape, generator=torch.Generator().manual_seed(3))
    return found


def sample_slowly(model, prompt, seed, index, *keys, max_new_tokens, temperature, top_k):
    """One sample of one prompt, a token at a time, from the draws that belong to it. -> list of new tokens"""
    text = list(prompt)
    for step in range(max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([text[-ARGS['block_size']:]]))[0, -1]
        logits, tokens = logits.sort(descending=True)
        noise = gumbel(seed, *keys, step, index, torch.arange(min(top_k or 11, 11)))
        text.append(tokens[(logits[:len(noise)] / temperature + noise).argmax()].item())
    return text[len(prompt):]


def completions(replicas, seeds=SEEDS, keys=(1, 250), prompts=PROMPTS, **options):
    options = dict(num_samples=5, max_new_tokens=7, block_size=6, temperature=1.0, top_k=None) | options
    found = generate(replicas.forward, prompts, seeds, *keys, **options)
    return found.tokens[found.row]    # (R, P, S, new tokens)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('temperature, top_k', [(1.0, None), (1.0, 3), (2.5, 200), (0.01, 10), (0.8, 1)])
def test_every_sample_is_the_one_that_would_be_drawn_alone(replicas, temperature, top_k):
    found = completions(replicas, temperature=temperature, top_k=top_k)
    for r, seed in enumerate(SEEDS.tolist()):
        model = NanoGPT(**ARGS)
        model.load_state_dict(replicas.state_dict(replicas.flat[r]))
        for p, prompt in enumerate(PROMPTS):
            for s in range(5):
                expected = sample_slowly(model, prompt, seed, 5 * p + s, 1, 250, max_new_tokens=7,
                                         temperature=temperature, top_k=top_k)
                assert found[r, p, s].tolist() == expected, (r, p, s)


@pytest.mark.parametrize('top_k', [None, 1, 3])
def test_the_most_probable_completion_comes_behind_samples_that_are_the_same_without_it(replicas, top_k):
    found = completions(replicas, temperature=2.0, top_k=top_k, most_probable=True)
    assert torch.equal(found[:, :, :-1], completions(replicas, temperature=2.0, top_k=top_k))
    assert torch.equal(found[:, :, -1], completions(replicas, num_samples=1, top_k=1)[:, :, 0])
    assert top_k == 1 or not torch.equal(found[:, :, 0], found[:, :, -1])


@pytest.mark.slow_after_first
@pytest.mark.parametrize('max_tokens', [1, 6, 13, 50])
def test_pieces_give_what_the_whole_gives(replicas, max_tokens):
    assert torch.equal(completions(replicas, max_tokens=max_tokens), completions(replicas))


def test_a_forward_pass_is_never_larger_than_allowed(replicas):
    sizes = []

    def forward(tokens):
        sizes.append(tokens[0].numel())
        return replicas.forward(tokens)

    generate(forward, PROMPTS, SEEDS, num_samples=5, max_new_tokens=7, block_size=6, temperature=1.0,
             top_k=None, max_tokens=30)
    assert max(sizes) <= 30


def test_samples_that_agree_so_far_share_one_forward_pass(replicas):
    sizes = []

    def forward(tokens):
        sizes.append(tokens.shape[-1])
        return replicas.forward(tokens)

    generate(forward, PROMPTS, SEEDS, num_samples=50, max_new_tokens=4, block_size=6, temperature=1e-4,
             top_k=None)
    assert sizes == [len(PROMPTS)] * 4


def test_frequencies_are_those_of_softmax_over_the_most_likely_tokens(replicas):
    prompt, temperature, top_k = [1, 2, 3], 1.7, 4
    found = completions(replicas, prompts=[prompt], num_samples=20_000, max_new_tokens=1,
                        temperature=temperature, top_k=top_k)
    with torch.no_grad():
        logits = replicas.forward(torch.tensor(prompt)[:, None])[:, :, -1, 0] / temperature
    least = logits.topk(top_k).values[:, -1:]
    expected = logits.masked_fill(logits < least, -torch.inf).softmax(1)
    for r in range(3):
        shares = found[r].flatten().bincount(minlength=11) / 20_000
        assert (shares - expected[r]).abs().max() < 0.02 and (shares > 0).sum() == top_k


@pytest.mark.slow
def test_generation_ends_once_all_samples_have_the_stop_token(replicas):
    found = completions(replicas, stop=4, max_new_tokens=200, num_samples=3)
    assert found.shape[-1] < 200 and (found == 4).any(-1).all()
    whole = completions(replicas, max_new_tokens=200, num_samples=3)
    before = (found == 4).cumsum(-1) == 0
    assert torch.equal(whole[..., :found.shape[-1]][before], found[before])
    assert (found[~before] == 4).all() and not before.all()    # only stop tokens follow the first
    assert not (found[..., :-1] == 4).any(-1).all()    # generation ends no earlier than that


def test_draws_depend_on_seed_keys_and_sample_and_on_nothing_else(replicas):
    found = completions(replicas)
    torch.manual_seed(0)
    assert torch.equal(completions(replicas), found)
    assert not torch.equal(completions(replicas, keys=(1, 251)), found)
    assert not torch.equal(completions(replicas, seeds=SEEDS + 1), found)
    assert len({tuple(sample) for sample in found[0, 0].tolist()}) > 1


def test_a_replica_answers_beside_others_as_it_does_alone(replicas):
    alone = Replicas.from_seeds(ARGS, [1])
    alone.load(0, replicas.state_dict(replicas.flat[1]))
    assert torch.equal(completions(alone, seeds=SEEDS[1:2])[0], completions(replicas)[1])
