"""Report on a run while it trains (a bar on a terminal, plain lines elsewhere, logs, a Python callback), and
notice signals that stop it."""
import contextlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from statistics import mean

import torch
from tqdm import tqdm

from tbtt.config import Config
from tbtt.loggers import Logs
from tbtt.results import counted_groups, group_label, heldout_groups
from tbtt.seed_folder import SeedFolder
from tbtt.startup import is_our_script

SLOW = 2.0    # seconds that a job may take before a line says so
BAR = '{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
REFRESH = 0.1    # seconds between two updates of the loss on the bar


def scores_line(rows: list[dict]) -> str:
    """One evaluation in words, all seeds together: `addition 98.0%  held-out 23/40 (2 of 4)  ...`"""
    parts = []
    for group in counted_groups():
        if f'{group}_total' in rows[0]:
            right, total = (sum(row[f'{group}_{what}'] for row in rows) for what in ('correct', 'total'))
            text = f'{100 * right / total:.1f}%'
            if group in heldout_groups():
                answered, questions = (sum(row[f'{group}_{what}'] for row in rows)
                                       for what in ('answered', 'questions'))
                text = f'{right}/{total} ({answered} of {questions})'
            parts.append(f'{group_label(group).lower()} {text}')
    if 'combined_acc' in rows[0]:
        parts.append(f'combined {mean(row["combined_acc"] for row in rows):.1f}%')
    losses = (mean(row[f'{split}_loss'] for row in rows) for split in ('train', 'val'))
    return '  '.join(parts + ['loss train {:.4f} val {:.4f}'.format(*losses)])


def last_loss(losses: torch.Tensor) -> float:
    """The mean loss of the last step, over the seeds without a NaN. losses: (steps, R)"""
    return losses[-1].nanmean().item()


Callback = Callable[[int, list[dict]], None]    # gets an evaluation: (iteration, one row per seed)


class Reporter:
    """Reports how a run is going, in order: the loss of a step once it is computed (a GPU may be behind the
    host), an evaluation once it is on the disk. No step waits for a line. quiet: print only what is
    necessary. callback: is called with every evaluation that this process wrote, each row with its `seed`.

    signal: the SIGINT or SIGTERM received, else 0; the training loop then ends after its step. The same
    signal once more ends the process; in another program than our scripts it does what it did before.
    """

    def __init__(self, config: Config, quiet: bool = False, callback: Callback | None = None) -> None:
        self.config, self.quiet, self.callback, self.signal = config, quiet, callback, 0
        self.logs = Logs(config, self.say)
        self.waiting, self.behind = deque(), False    # (is it ready?, report it); may the device lag?
        self.handlers, self.bar = {}, None
        self.looked, self.scores = 0.0, ''    # when the bar last showed a loss; its scores

    def __enter__(self) -> 'Reporter':
        return self

    def remember(self, number: int, frame: object) -> None:
        """A signal handler: keep the number, and handle a signal of this kind only once."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL if is_our_script() else self.handlers[number])

    def start(self, iteration: int, line: str) -> None:
        """Training begins, or goes on with other seeds. The first call sets the bar and the signal
        handlers."""
        if self.bar is None:
            if threading.current_thread() is threading.main_thread():    # only this one may
                for number in (signal.SIGINT, signal.SIGTERM):
                    # None: a handler that is not Python's, which Python cannot set again.
                    self.handlers[number] = signal.signal(number, self.remember) or signal.SIG_DFL
            self.bar = tqdm(total=self.config.max_iters, unit='it', dynamic_ncols=True, bar_format=BAR,
                            disable=self.quiet or not sys.stderr.isatty())
        self.bar.n = self.bar.initial = iteration
        self.bar.unpause()
        self.tell(line)

    @contextlib.contextmanager
    def if_slow(self, line: str) -> Iterator[None]:
        """Print a line if the work within this context takes longer than `SLOW`."""
        timer = threading.Timer(SLOW, self.tell, [line])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def step(self, iteration: int, losses: torch.Tensor) -> None:
        """Report steps. iteration: steps done so far; losses: (steps, R) since the last call, perhaps still
        being computed."""
        self.behind = losses.device.type != 'cpu'
        self.bar.update(len(losses))
        if self.bar.disable:
            self.plain_line(iteration, losses)
        elif time.monotonic() - self.looked > REFRESH:
            self.looked = time.monotonic()
            self.bar.set_postfix_str(f'loss {last_loss(losses):.4f}{self.scores}')
        self.catch_up()

    def plain_line(self, iteration: int, losses: torch.Tensor) -> None:
        """Report a line with the loss every `log_interval` iterations."""
        interval = self.config.log_interval
        if iteration // interval > (iteration - len(losses)) // interval:
            self.waiting.append((lambda: not self.behind or len(self.waiting) > 1,
                                 lambda: self.tell(f'iter {iteration:6d}: loss {last_loss(losses):.4f}')))

    def evaluation(self, iteration: int, rows: list[dict], written: Future | None) -> None:
        """Report an evaluation once it is `written`, which is None in a process that writes and reports
        nothing."""
        if written is not None:
            self.waiting.append((lambda: written.done() and not written.exception(),
                                 lambda: self.tell_evaluation(iteration, rows, written.result())))
        self.catch_up()

    def tell_evaluation(self, iteration: int, rows: list[dict], written: list[tuple[SeedFolder, dict]]
                        ) -> None:
        """Print an evaluation, show its scores beside the bar, and pass the written rows to logs and
        callback."""
        self.tell(f'iter {iteration:6d}: {scores_line(rows)}')
        self.scores = ''
        if 'combined_acc' in rows[0]:
            self.scores += f', {mean(row["combined_acc"] for row in rows):.0f}% right'
        if 'heldout_total' in rows[0]:
            right, total = (sum(row[f'heldout_{kind}'] for row in rows) for kind in ('correct', 'total'))
            self.scores += f', held-out {right}/{total}'
        self.logs.add(written)
        if self.callback:
            callback, self.callback = self.callback, None    # a callback that raises is not called again
            callback(iteration, [{'seed': seed.seed, **row} for seed, row in written])
            self.callback = callback

    def catch_up(self) -> None:
        """Report what is ready by now."""
        while self.waiting and self.waiting[0][0]():
            self.waiting.popleft()[1]()

    def tell(self, line: str) -> None:
        """Print a line above the bar, unless quiet."""
        if not self.quiet:
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the bar, even if quiet."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def __exit__(self, *_: object) -> None:
        self.behind = False
        try:
            self.catch_up()
        finally:
            if self.bar is not None:
                self.bar.close()
            self.logs.close()
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
