"""What a user sees while a run trains: a bar on a terminal, plain lines elsewhere; and what stops it from outside."""
import signal
import sys
from collections import deque
from statistics import mean

from tqdm import tqdm

from tbtt.results import counted_groups, group_label, heldout_groups


def scores_line(rows):
    """One evaluation in words, the seeds taken together: `addition 98.0%  held-out 23/40 (2 of 4)  ...`"""
    parts = []
    for group in counted_groups():
        if f'{group}_total' in rows[0]:
            right, total = (sum(row[f'{group}_{what}'] for row in rows) for what in ('correct', 'total'))
            text = f'{100 * right / total:.1f}%'
            if group in heldout_groups():
                answered, questions = (sum(row[f'{group}_{what}'] for row in rows) for what in ('answered', 'questions'))
                text = f'{right}/{total} ({answered} of {questions})'
            parts.append(f'{group_label(group).lower()} {text}')
    if 'combined_acc' in rows[0]:
        parts.append(f'combined {mean(row["combined_acc"] for row in rows):.1f}%')
    losses = (mean(row[f'{split}_loss'] for row in rows) for split in ('train', 'val'))
    return '  '.join(parts + ['loss train {:.4f} val {:.4f}'.format(*losses)])


class Progress:
    """A tqdm bar with the last losses and scores, or a plain line every `log_interval` iterations. quiet: neither."""

    def __init__(self, start, config, quiet=False):
        self.bar = tqdm(total=config.max_iters, initial=start, unit='it', dynamic_ncols=True,
                        disable=quiet or not sys.stderr.isatty())
        self.quiet, self.log_interval, self.waiting = quiet, config.log_interval, deque()

    def step(self, iteration, losses):
        """iteration: steps done; losses: (steps, R) of those since the last call, perhaps still being computed."""
        self.bar.update(len(losses))
        due = iteration // self.log_interval > (iteration - len(losses)) // self.log_interval
        if due and self.bar.disable and not self.quiet:
            self.waiting.append((iteration, losses))
        # A GPU may be behind the host: a line waits for its loss, no step waits for a line.
        while self.waiting and (losses.device.type == 'cpu' or len(self.waiting) > 1):
            self.print_line(*self.waiting.popleft())

    def print_line(self, iteration, losses):
        print(f'iter {iteration:6d}: loss {losses[-1].nanmean().item():.4f}', flush=True)

    def evaluated(self, iteration, rows):
        """Print an evaluation, and show it in the bar."""
        while self.waiting:
            self.print_line(*self.waiting.popleft())
        self.say(f'iter {iteration:6d}: {scores_line(rows)}')
        self.bar.set_postfix_str(scores_line(rows).replace('  ', ', '))

    def say(self, line, always=False):
        """Print a line above the bar; where this is quiet, only what is to be said always."""
        if always or not self.quiet:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def close(self):
        self.bar.close()


class Interruption:
    """Remembers the first SIGINT or SIGTERM, for the loop to end after its step; a second one ends the process."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.remember)

    def remember(self, number, frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
