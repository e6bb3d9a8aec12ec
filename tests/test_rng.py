"""Random numbers by key: uniform, independent of one another, and the same whatever was drawn before."""
import pytest
import torch

from tbtt import rng


def chi_square(counts, shares):
    """Pearson's statistic over its degrees of freedom: about 1 where the shares are right."""
    expected = shares * counts.sum()
    return (((counts - expected) ** 2 / expected).sum() / (counts.numel() - 1)).item()


@pytest.mark.parametrize('key', [(0,), (1337, 0), (1337, 1, 29999), (2**31 - 1, 3)])
def test_integers_are_uniform_and_all_occur(key):
    found = rng.integers(50, *key, torch.arange(100_000))
    assert (found.min(), found.max()) == (0, 49)
    assert 0.4 < chi_square(found.bincount(minlength=50).float(), torch.full((50,), 0.02)) < 1.9


@pytest.mark.parametrize('one, other',
                         [((5, 0), (6, 0)), ((5, 0), (5, 1)), ((5, 2, 7), (5, 2, 8)), ((0, 1), (1, 0))])
def test_neighbouring_keys_give_independent_numbers(one, other):
    rows = torch.arange(100_000)
    a, b = rng.integers(8, *one, rows), rng.integers(8, *other, rows)
    assert 0.5 < chi_square((8 * a + b).bincount(minlength=64).float(), torch.full((64,), 1 / 64)) < 1.7


def test_neighbouring_rows_are_independent():
    found = rng.integers(8, 1337, 0, torch.arange(100_000))
    pairs = (8 * found[:-1] + found[1:]).bincount(minlength=64).float()
    assert 0.5 < chi_square(pairs, torch.full((64,), 1 / 64)) < 1.7


def test_all_31_bits_are_fair():
    bits = rng.random_bits(1337, torch.arange(100_000))
    shares = torch.stack([(bits >> i & 1).double().mean() for i in range(31)])
    assert bits.min() >= 0 and bits.max() < 2**31 and ((shares - 0.5).abs() < 0.008).all()


def test_no_two_purposes_share_their_numbers():
    purposes = {name: value for name, value in vars(rng).items() if name.isupper() and type(value) is int
                and name not in ('GOLDEN', 'MIX_1', 'MIX_2')}
    assert {'BATCHES', 'ANSWERS', 'SAMPLES', 'LOSSES'} <= purposes.keys()
    assert len(set(purposes.values())) == len(purposes)
    streams = [rng.random_bits(1337, value, torch.arange(1000)).tolist() for value in purposes.values()]
    # 7,000 draws from 2**31 values: by chance, one try in 88 has a collision
    assert len(set(sum(streams, []))) == 1000 * len(purposes)


def test_gumbel_noise_makes_argmax_a_draw_from_softmax():
    logits = torch.tensor([1.0, -1.0, 0.0, 2.0, -8.0])
    noise = rng.gumbel(1337, torch.arange(200_000)[:, None], torch.arange(5))
    counts = (logits + noise).argmax(1).bincount(minlength=5).float()
    assert noise.isfinite().all() and chi_square(counts, logits.softmax(0)) < 3


def test_batch_starts_cover_all_windows_evenly():
    starts = rng.batch_starts(torch.tensor([1337]), 0, 200, 500, 100)
    assert starts.shape == (200, 1, 500)
    counts = starts.flatten().bincount(minlength=100).float()
    assert len(counts) == 100 and 0.5 < chi_square(counts, torch.full((100,), 0.01)) < 1.6


def test_the_batch_of_an_iteration_is_a_function_of_seed_and_iteration_alone():
    whole = rng.batch_starts(torch.tensor([3, 4, 5]), 0, 20, 7, 1000)
    assert torch.equal(rng.batch_starts(torch.tensor([4]), 11, 14, 7, 1000), whole[11:14, 1:2])
    torch.manual_seed(0)
    assert torch.equal(rng.batch_starts(torch.tensor([3, 4, 5]), 0, 20, 7, 1000), whole)
    assert len({tuple(batch) for batch in whole.flatten(0, 1).tolist()}) == 60


def test_the_numbers_are_splitmix64s():
    # A change of the generator would change every run that was ever made; this test would notice it.
    state = 0
    for key in (1337, 2):    # in Python's integers
        z = state + (key + 1) * 0x9E3779B97F4A7C15 & 2**64 - 1
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        z = (z ^ z >> 27) * 0x94D049BB133111EB & 2**64 - 1
        state = z ^ z >> 31
    assert rng.random_bits(1337, 2).item() == state >> 33
