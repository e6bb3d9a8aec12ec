"""How much of the lines' order a model has learned: exact floors of the loss with and without knowing it.

Training reads the lines of a text in one fixed order, through windows that start anywhere. A model may learn
the lines, and it may also learn which line follows which. Two floors show how much of the order is in a loss.
Both are in nats per character and exact for windows of block_size + 1 = T + 1 characters, of which the last T
are predicted:

    known       the lowest mean loss over all windows of this text, for a predictor that sees only the window:
                (H(window) - H(its first character)) / T, with entropies over the windows of the text
    unknown     the same for a predictor that knows the lines, but not their order: over windows of an endless
                text in which each next line is drawn at random, as likely as it is frequent, whatever came
                before

By the chain rule, H(window) - H(its first character) is the sum of the T conditional entropies
H(character k | the characters before it in the window). A model at `unknown` has learned nothing of the
order, a model at `known` all of it. A model above `unknown` has not learned the lines
completely.
"""
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

LARGEST = 2**16    # characters; longer texts have no `Order`: prose has no set of lines to learn


def entropy(counts: Counter) -> float:
    """The entropy, in nats, of the distribution that the counts give."""
    total = counts.total()
    return math.log(total) - sum(count * math.log(count) for count in counts.values()) / total


def known_floor(text: str, block_size: int) -> float:
    """The floor `known` in nats per character; see above."""
    windows = Counter(text[start:start + block_size + 1] for start in range(len(text) - block_size))
    first = Counter(text[:len(text) - block_size])
    return (entropy(windows) - entropy(first)) / block_size


def unknown_floor(lines: Sequence[str], block_size: int) -> float:
    """The floor `unknown` in nats per character; see above. lines: each with its newline.

    Cut at its newlines, a window consists of the end of a line, whole lines, and the beginning of a line.
    These parts are independent. So the window's probability is a product over them, and the mean of its
    logarithm a sum.
    """
    length, num_characters = block_size + 1, sum(map(len, lines))
    ends = Counter(line[start:] for line in lines for start in range(len(line)))
    begins = Counter(line[:stop] for line in lines for stop in range(1, len(line) + 1))
    inside = Counter(line[start:start + length] for line in lines for start in range(len(line) - length + 1))
    following = [0.0]    # [r]: mean of -log P of the r characters after the end of a line
    for r in range(1, length):
        following.append(sum(math.log(len(lines) / begins[line[:r]]) + following[max(0, r - len(line))]
                             for line in lines) / len(lines))
    surprise = sum(count * math.log(num_characters / count) for count in inside.values())
    for end, count in ends.items():
        if len(end) < length:
            surprise += count * (math.log(num_characters / count) + following[length - len(end)])
    return (surprise / num_characters - entropy(Counter(''.join(lines)))) / block_size


class Order(NamedTuple):
    """The two floors of a text, and its lines in another order. other: (n,) tokens; whatever the order of the
    text, they are the same."""
    known: float
    unknown: float
    other: torch.Tensor

    def learned(self, loss: float) -> float:
        """The share of the order that is learned at this mean loss over all windows of the text: 0 at
        `unknown`, 1 at `known`."""
        return (self.unknown - loss) / (self.unknown - self.known)


def order_of(data: torch.Tensor, newline: int | None, block_size: int) -> Order | None:
    """The `Order` of a text, (n,) tokens. None if the text does not consist of lines, is too long, or has no
    order to learn."""
    if newline is None or len(data) > LARGEST or data[-1] != newline:
        return None
    text = ''.join(map(chr, data.tolist()))
    lines = [line + chr(newline) for line in text.split(chr(newline))[:-1]]
    known, unknown = known_floor(text, block_size), unknown_floor(lines, block_size)
    if unknown - known < 1e-9:
        return None
    lines.sort()
    random.Random(0).shuffle(lines)
    return Order(known, unknown, torch.tensor([ord(token) for token in ''.join(lines)], dtype=data.dtype))
