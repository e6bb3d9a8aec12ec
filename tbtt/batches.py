"""Which windows a batch has: from anywhere in the text, within a line, or of lines shuffled per window."""
import torch

from tbtt import rng
from tbtt.cli import UserError

NOTHING = -1    # the token after a window's text ends: never a target; as an input it does not matter


def texts(data: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """data (n,), starts (..., B) -> the `length` tokens from each start on, (..., length, B): the batch is
    the last axis, as in the model."""
    return data[starts.unsqueeze(-2) + torch.arange(length, device=data.device)[:, None]]


class Batches:
    """Draws the windows of training batches from a text and cuts them out of it.

    data: (n,) integer tokens. newline: the token that ends a line. windows: 'any', or 'line': each window
    lies within one line. It has block_size + 1 characters, or is the whole line if that is not longer. Its
    first character is not predicted. All lines are equally likely, and so are all windows of a line.
    line_order: 'fixed', as in the text, or 'fresh': for each window, all lines are shuffled anew, and the
    window is cut at random from that text. Every line is equally likely at every place. Windows within a line
    have no order. Raises `UserError` if the text does not have the lines that these settings need.
    """

    def __init__(self, data: torch.Tensor, block_size: int, windows: str = 'any', line_order: str = 'fixed',
                 newline: int | None = None):
        self.data, self.block_size = data, block_size
        self.by_line = windows == 'line'
        self.fresh = line_order == 'fresh' and not self.by_line
        self.plain = not self.by_line and not self.fresh    # every window is a piece of the text
        if not self.plain:
            self.find_lines(newline, f'windows={windows}' if self.by_line else f'line_order={line_order}')

    def find_lines(self, newline: int | None, setting: str) -> None:
        """Find where lines begin and end. `ends` (n,): the end of the line that each character is in."""
        if newline is None or self.data[-1] != newline:
            raise UserError(f'{setting}: expected a text of lines, the last with its end; prepare such a '
                            'dataset')
        after = (self.data == newline).nonzero()[:, 0] + 1
        self.first = torch.cat([after.new_zeros(1), after[:-1]])    # (lines,)
        self.length = after - self.first
        lines = torch.arange(len(after), device=after.device)
        self.line = torch.repeat_interleave(lines, self.length)    # (n,)
        self.ends = after[self.line]
        if self.by_line:
            self.drawn = (self.length > 1).nonzero()[:, 0]    # an empty line has nothing to predict
            self.num_windows = (self.length - self.block_size).clamp(min=1)[self.drawn]
            if not len(self.drawn):
                raise UserError(f'{setting}: every line of the text is empty')
        # The most lines in a window: one character of its first line, then the shortest lines of the text.
        self.num_lines = 2 + int((self.length.sort().values.cumsum(0) < self.block_size).sum())
        if self.fresh and self.num_lines > len(after):
            raise UserError(f'{setting}: a window of {self.block_size + 1} characters may span '
                            f'{self.num_lines} lines, but the text has {len(after)}: choose a smaller '
                            'block_size')

    def draw(self, seeds: torch.Tensor, first: int, last: int, batch_size: int) -> torch.Tensor:
        """Where the windows of iterations first..last-1 start in the text, for seeds (R,).
        -> (iterations, R, B); with a fresh order (iterations, R, K, B): the starts of the window and of the
        K - 1 lines that may follow"""
        if self.plain:
            return rng.batch_starts(seeds, first, last, batch_size, len(self.data) - self.block_size)
        iterations = torch.arange(first, last, device=seeds.device)[:, None, None]
        if self.by_line:
            return self.sample(batch_size, seeds[:, None], rng.BATCHES, iterations)
        rows = torch.arange(batch_size, device=seeds.device)
        start = rng.integers(len(self.data), seeds[:, None], rng.BATCHES, iterations, rows)
        lines = [self.line[start]]
        for k in range(1, self.num_lines):
            line = rng.integers(len(self.first) - k, seeds[:, None], rng.LINES, iterations, rows, k)
            for taken in torch.stack(lines).sort(0).values:    # the line-th of the lines not taken yet
                line = line + (line >= taken)
            lines.append(line)
        return torch.stack([start, *(self.first[line] for line in lines[1:])], -2)

    def sample(self, count: int, *keys: torch.Tensor | int) -> torch.Tensor:
        """Starts of `count` random windows of the text in its own order, for each of the keys (see `rng`).
        -> (..., count)"""
        rows = torch.arange(count, device=self.data.device)
        if not self.by_line:
            return rng.integers(len(self.data) - self.block_size, *keys, rows)
        line = rng.integers(len(self.drawn), *keys, rows)
        return self.first[self.drawn][line] + rng.integers(self.num_windows[line], *keys, rows, rng.OFFSETS)

    def cut(self, starts: torch.Tensor) -> torch.Tensor:
        """Starts as drawn, (..., B) or (..., K, B) -> the windows' text (..., T + 1, B); a window within a
        line has NOTHING after the end of the line"""
        if self.plain:
            return texts(self.data, starts, self.block_size + 1)
        place = torch.arange(self.block_size + 1, device=starts.device)[:, None]
        text, begin = NOTHING, torch.zeros_like(starts[..., 0, :] if self.fresh else starts)
        for start in starts.unbind(-2) if self.fresh else [starts]:
            end = begin + self.ends[start] - start
            index = (start - begin).unsqueeze(-2) + place
            here = (place >= begin.unsqueeze(-2)) & (place < end.unsqueeze(-2))
            text = torch.where(here, self.data[index.clamp(0, len(self.data) - 1)], text)
            begin = end
        return text

    def every(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All windows of the text in its own order.
        -> their starts (N,) and their weights in a mean (N,), float32"""
        if not self.by_line:
            starts = torch.arange(len(self.data) - self.block_size, device=self.data.device)
            return starts, torch.ones_like(starts, dtype=torch.float32)
        lines = torch.arange(len(self.drawn), device=self.data.device)
        line = torch.repeat_interleave(lines, self.num_windows)
        before = self.num_windows.cumsum(0) - self.num_windows
        starts = self.first[self.drawn][line] + torch.arange(len(line), device=line.device) - before[line]
        return starts, 1 / self.num_windows[line].float()
