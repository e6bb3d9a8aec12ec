"""What a run tells while it trains: a bar on a terminal, plain lines elsewhere, Weights & Biases,
TensorBoard; and what stops it from outside."""
import contextlib
import dataclasses
import importlib.util
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.results import counted_groups, group_label, heldout_groups

SLOW = 2.0    # seconds without a word after which one is due
BAR = '{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
REFRESH = 0.1    # seconds between two looks at the loss for the bar


def scores_line(rows: list[dict]) -> str:
    """One evaluation in words, the seeds taken together: `addition 98.0%  held-out 23/40 (2 of 4)  ...`"""
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
    """The mean of the last of some steps, losses (steps, R); seeds that diverged left out."""
    return losses[-1].nanmean().item()


def means(rows: list[dict]) -> dict:
    """Each column's mean over the seeds."""
    return {name: mean(row[name] for row in rows) for name in rows[0]}


class WandbLog:
    """Rows as a run of Weights & Biases."""

    def __init__(self, config: Config) -> None:
        import wandb
        self.run = wandb.init(project=config.wandb_project, config=dataclasses.asdict(config),
                              name=config.wandb_run_name or Path(config.out_dir).name)

    def log(self, iteration: int, rows: list[dict]) -> None:
        """Add an evaluation, as the means of its rows over the seeds."""
        self.run.log(means(rows), step=iteration)

    def close(self) -> None:
        """Finish the run, and wait until all of it is uploaded."""
        self.run.finish()


class TensorboardLog:
    """Rows as scalars in out_dir/tensorboard."""

    def __init__(self, config: Config) -> None:
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(Path(config.out_dir) / 'tensorboard')

    def log(self, iteration: int, rows: list[dict]) -> None:
        """Add an evaluation, as the means of its rows over the seeds."""
        for name, value in means(rows).items():
            self.writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is not in the file yet."""
        self.writer.close()


LOGS = {'wandb_log': ('wandb', WandbLog), 'tensorboard_log': ('tensorboard', TensorboardLog)}


def wanted_logs(config: Config) -> list[type]:
    """The classes of logs that the settings ask for. Raises `UserError` naming a package that is missing."""
    kinds = []
    for name, (package, kind) in LOGS.items():
        if getattr(config, name):
            if importlib.util.find_spec(package) is None:
                raise UserError(f'{name}=True needs the package {package}: pip install {package}')
            kinds.append(kind)
    return kinds


class Reporter:
    """Tells how a run is going, in the order in which it went: a step's loss once it is computed (a GPU may
    be behind the host), an evaluation once it is on the disk. No step waits for a line. quiet: says only what
    has to be said.

    signal: the first SIGINT or SIGTERM that came, for the loop to end after its step; a second one ends the
    process.
    """

    def __init__(self, config: Config, quiet: bool = False) -> None:
        self.config, self.quiet, self.signal = config, quiet, 0
        self.kinds = [] if quiet else wanted_logs(config)
        self.waiting, self.behind = deque(), False    # (can it be told?, tell it); is the device behind?
        self.logs, self.handlers, self.bar = [], {}, None
        self.looked, self.scores = 0.0, ''    # when the bar last showed a loss; the last scores there

    def __enter__(self) -> 'Reporter':
        return self

    def remember(self, number: int, frame: object) -> None:
        """As a signal handler: keep the number; the same signal once more ends the process."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def start(self, iteration: int, line: str) -> None:
        """Training begins, or goes on with other seeds."""
        if self.bar is None:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self.remember)
            self.logs = [kind(self.config) for kind in self.kinds]
            self.bar = tqdm(total=self.config.max_iters, unit='it', dynamic_ncols=True, bar_format=BAR,
                            disable=self.quiet or not sys.stderr.isatty())
        self.bar.n = self.bar.initial = iteration
        self.bar.unpause()
        self.tell(line)

    @contextlib.contextmanager
    def if_slow(self, line: str) -> Iterator[None]:
        """Say a line where what is done under it takes long."""
        timer = threading.Timer(SLOW, self.tell, [line])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def step(self, iteration: int, losses: torch.Tensor) -> None:
        """iteration: steps done; losses: (steps, R) of those since the last call, perhaps still being
        computed."""
        self.behind = losses.device.type != 'cpu'
        self.bar.update(len(losses))
        if self.bar.disable:
            self.plain_line(iteration, losses)
        elif time.monotonic() - self.looked > REFRESH:
            self.looked = time.monotonic()
            self.bar.set_postfix_str(f'loss {last_loss(losses):.4f}{self.scores}')
        self.catch_up()

    def plain_line(self, iteration: int, losses: torch.Tensor) -> None:
        """Every `log_interval` iterations, a line."""
        interval = self.config.log_interval
        if iteration // interval > (iteration - len(losses)) // interval:
            self.waiting.append((lambda: not self.behind or len(self.waiting) > 1,
                                 lambda: self.tell(f'iter {iteration:6d}: loss {last_loss(losses):.4f}')))

    def evaluation(self, iteration: int, rows: list[dict], written: Future | None) -> None:
        """An evaluation, to be told once it is `written`; None in a process that writes nothing and tells
        nothing."""
        if written is not None:
            self.waiting.append((lambda: written.done() and not written.exception(),
                                 lambda: self.tell_evaluation(iteration, rows)))
        self.catch_up()

    def tell_evaluation(self, iteration: int, rows: list[dict]) -> None:
        """Print an evaluation, show its scores beside the bar, and hand its rows to the logs."""
        self.tell(f'iter {iteration:6d}: {scores_line(rows)}')
        self.scores = ''
        if 'combined_acc' in rows[0]:
            self.scores += f', {mean(row["combined_acc"] for row in rows):.0f}% right'
        if 'heldout_total' in rows[0]:
            right, total = (sum(row[f'heldout_{kind}'] for row in rows) for kind in ('correct', 'total'))
            self.scores += f', held-out {right}/{total}'
        for log in self.logs:
            log.log(iteration, rows)

    def catch_up(self) -> None:
        """Tell what can be told by now."""
        while self.waiting and self.waiting[0][0]():
            self.waiting.popleft()[1]()

    def tell(self, line: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the bar, even where this is quiet."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def __exit__(self, *_: object) -> None:
        self.behind = False
        self.catch_up()
        if self.bar is not None:
            self.bar.close()
        for log in self.logs:
            log.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
