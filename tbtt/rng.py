"""Random numbers that depend only on what they are for (seed, iteration, position), not on earlier draws.

A counter-based generator (the 64-bit finaliser of SplitMix64, Steele et al. 2014, chained over the keys) in
integer arithmetic: the same numbers on every device, in any order, for one replica or a hundred.
"""
import torch


def signed(constant: int) -> int:
    """An unsigned 64-bit constant as the int64 with the same bits: torch has no arithmetic on uint64."""
    return constant - 2**64 if constant >= 2**63 else constant


GOLDEN, MIX_1, MIX_2 = map(signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift to the right; int64's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser of each int64 element: if one bit changes, about half of all bits change."""
    x = (x ^ shifted(x, 30)) * MIX_1
    x = (x ^ shifted(x, 27)) * MIX_2
    return x ^ shifted(x, 31)


def chain(*keys: torch.Tensor | int) -> torch.Tensor:
    """Integer tensors (or integers) that broadcast -> int64 tensor of 64 bits that depend on all of them."""
    state = torch.tensor(0)
    for key in keys:
        state = mix(state + torch.as_tensor(key) * GOLDEN + GOLDEN)
    return state


def random_bits(*keys: torch.Tensor | int) -> torch.Tensor:
    """Integer tensors (or integers) that broadcast -> int64 tensor of 31 random bits each."""
    return shifted(chain(*keys), 33)


def integers(high: int, *keys: torch.Tensor | int) -> torch.Tensor:
    """Uniform integers from 0 to high - 1, high below 2**31."""
    return (random_bits(*keys) * high) >> 31


def gumbel(*keys: torch.Tensor | int) -> torch.Tensor:
    """Standard Gumbel noise, float32: argmax(logits + gumbel) is a draw from softmax(logits)."""
    # 23 bits: exact in float32, never 0 or 1.
    uniform = (shifted(random_bits(*keys), 8).float() + 0.5) / 2**23
    return -torch.log(-torch.log(uniform))


# What the numbers are for: the first key after the seed, so that no two purposes share a stream.
BATCHES, ANSWERS, SAMPLES, LOSSES, DROPOUT, LINES, OFFSETS = range(7)


def batch_starts(seeds: torch.Tensor, first: int, last: int, batch_size: int,
                 num_windows: int) -> torch.Tensor:
    """Where the windows of the batches of iterations first..last-1 start: (R,) seeds -> (iterations, R,
    batch_size)."""
    iterations = torch.arange(first, last, device=seeds.device)[:, None, None]
    rows = torch.arange(batch_size, device=seeds.device)
    return integers(num_windows, seeds[:, None], BATCHES, iterations, rows)
