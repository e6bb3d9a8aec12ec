"""The order of the lines as something that is learned: exact floors of the loss with and without knowing it.

Training reads one text of lines in one order, through windows that start anywhere. A model may learn the
lines, and it may learn which line follows which. How much of the second a loss shows is told by two floors.
Both are exact for windows of block_size + 1 = T + 1 characters, of which the last T are predicted, and in
nats a character:

    known       the least mean loss over all windows of this text, for a predictor that sees only the window:
                (H(window) - H(its first character)) / T, entropies over the windows of the text
    unknown     the same where the lines are known and not their order: over windows of an endless text in
                which every next line is any of the lines, each as likely as it is frequent, whatever came
                before

The mean of the T conditional entropies H(character k | those before it in the window) is that difference over
T, by the chain rule. A model at `unknown` has learned none of the order, one at `known` all of it, one that
does not know the lines less than none.
"""
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

LARGEST = 2**16    # characters of a text whose order is looked at: prose has no set of lines to be learned


def entropy(counts: Counter) -> float:
    """Of the shares of the counts, in nats."""
    total = counts.total()
    return math.log(total) - sum(count * math.log(count) for count in counts.values()) / total


def known_floor(text: str, block_size: int) -> float:
    """Nats a character where the text is known; see above."""
    windows = Counter(text[start:start + block_size + 1] for start in range(len(text) - block_size))
    first = Counter(text[:len(text) - block_size])
    return (entropy(windows) - entropy(first)) / block_size


def unknown_floor(lines: Sequence[str], block_size: int) -> float:
    """Nats a character where the lines are known, each with its newline, and not their order; see above.

    A window is the end of a line, whole lines, and the beginning of one, cut at the newlines in it. So its
    probability is a product, and the mean of its logarithm a sum over these parts, whatever was before them.
    """
    length, num_characters = block_size + 1, sum(map(len, lines))
    ends = Counter(line[start:] for line in lines for start in range(len(line)))
    begins = Counter(line[:stop] for line in lines for stop in range(1, len(line) + 1))
    inside = Counter(line[start:start + length] for line in lines for start in range(len(line) - length + 1))
    following = [0.0]    # [r]: the mean of -log P of the r characters that follow a line's end
    for r in range(1, length):
        following.append(sum(math.log(len(lines) / begins[line[:r]]) + following[max(0, r - len(line))]
                             for line in lines) / len(lines))
    surprise = sum(count * math.log(num_characters / count) for count in inside.values())
    for end, count in ends.items():
        if len(end) < length:
            surprise += count * (math.log(num_characters / count) + following[length - len(end)])
    return (surprise / num_characters - entropy(Counter(''.join(lines)))) / block_size


class Order(NamedTuple):
    """What is to be learned of the order of a text's lines. other: (n,) tokens, the same lines in another
    order, which is the same for every order of the text."""
    known: float
    unknown: float
    other: torch.Tensor

    def learned(self, loss: float) -> float:
        """The share of the order that a mean loss over all windows of the text shows: 0 at `unknown`, 1 at
        `known`."""
        return (self.unknown - loss) / (self.unknown - self.known)


def order_of(data: torch.Tensor, newline: int | None, block_size: int) -> Order | None:
    """The order of the lines of a text, (n,) tokens; None where it is no text of lines, is too long, or has
    no order."""
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
