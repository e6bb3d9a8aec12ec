"""A run's folder during training: who may write there, which seeds are left to train, and what is written.

Each seed has its own folder (seed_folder.py), which the process that trains the seed locks.
"""
import contextlib
import dataclasses
import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import filelock
import torch

from tbtt.atomic import COMMIT, TMP, flush_folder, half_made, recover, write_folders
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.dataset import Dataset
from tbtt.distributed import Ranks
from tbtt.evaluate import Evaluation
from tbtt.layout import ABOUT, LATEST, LOCK, folder_of_seed, kept_checkpoints, seed_folders
from tbtt.results import read_info
from tbtt.resume import describe_loss
from tbtt.seed_folder import FILES, MAY_DIFFER, SeedFolder, begun, finished, is_ours, same

SPARE_FILES = 100    # files that may be open besides the locks


class Busy(UserError):
    """Another process uses the folder: waiting and trying again will help."""
    status = 75    # EX_TEMPFAIL of sysexits.h

    def __init__(self, folder: Path) -> None:
        super().__init__(f'another training writes into {folder}: wait for it, or choose another out_dir')


# Locks.

def is_taken(folder: Path) -> bool:
    """Has another process locked this folder? Creates nothing."""
    if not (folder / LOCK).exists():
        return False
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


class Locks:
    """The folders that this process has locked, and what it created to lock them."""

    def __init__(self) -> None:
        self.held, self.made = {}, []    # {folder: its lock}; paths

    def take(self, folder: Path) -> None:
        """Lock a folder, and create it if it is missing. Raises `Busy` if another process has locked it."""
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir(exist_ok=True)
                self.made.append(path)
        lock, new = filelock.FileLock(folder / LOCK), not (folder / LOCK).exists()
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise Busy(folder) from None
        self.held[folder] = lock
        if new:
            self.made.append(folder / LOCK)

    def keep(self) -> None:
        """Keep what was created for the locks, because it is used from now on."""
        for path in self.made:
            flush_folder(path.parent)    # new names must reach the disk too
        self.made = []

    def release(self) -> None:
        """Release all locks, and remove what was created for them, unless `keep` was called."""
        for path in reversed(self.made):
            with contextlib.suppress(OSError):    # another program has put something there
                path.rmdir() if path.is_dir() else path.unlink()
        for lock in self.held.values():
            lock.release()    # the file of a used lock stays
        self.held, self.made = {}, []


def check_open_files(num_seeds: int) -> None:
    """Raise `UserError` if the locks of so many seeds need more open files than a process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < num_seeds + SPARE_FILES:
        raise UserError(f'num_seeds={num_seeds}: every seed keeps a file open, and only {limit} may be open '
                        f'here: ulimit -n {num_seeds + SPARE_FILES} allows more, or train fewer seeds')


# The run.

class RunFolder:
    """The folder of a run while this process trains seeds in it: locked against other writers, written in the
    background.

    On entry it locks what it is going to write, and reads what it resumes from. Nothing is changed before
    `start`. Raises `UserError` if the folder already holds a run and neither `init_from=resume` nor
    `overwrite` says what to do, and `Busy` if another process uses it.
    """

    def __init__(self, config: Config, dataset: Dataset, ranks: Ranks | None = None,
                 say: Callable[[str], None] = print) -> None:
        check_open_files(config.num_seeds)
        self.path, self.config, self.ranks, self.say = Path(config.out_dir), config, ranks or Ranks(), say
        self.resuming = config.init_from == 'resume'
        numbers = range(config.seed, config.seed + config.num_seeds)
        self.asked = {self.path_of(seed) for seed in numbers}    # the seeds of all processes
        self.seeds = [SeedFolder(self.path_of(seed), seed, config, dataset)
                      for seed in self.ranks.shard_seeds(numbers)]
        self.leg = self.seeds    # the seeds that are trained now
        self.locks, self.metadata, self.started = Locks(), {}, False
        self.losses, self.snapshot, self.began = [], None, time.monotonic()
        self.writer, self.pending = ThreadPoolExecutor(max_workers=1), None

    def path_of(self, seed: int) -> Path:
        """The folder of a seed: the run's folder, or with several seeds a folder below it."""
        return folder_of_seed(self.path, seed) if self.config.num_seeds > 1 else self.path

    # Looking and locking.

    def __enter__(self) -> 'RunFolder':
        try:
            self.ranks.together(self.claim)
            self.ranks.together(self.read)
        except BaseException:
            self.locks.release()
            raise
        return self

    def claim(self) -> None:
        """Raise `UserError` if this would harm another run, lock what is to be written, and look again."""
        before = self.look()
        if self.ranks.writes:
            for folder in self.to_write():
                self.locks.take(folder)
        if self.look() != before:
            raise Busy(self.path)    # it wrote between the two looks, and may have ended
        if not self.resuming:
            for other in seed_folders(self.path) if self.config.num_seeds == 1 else [self.path]:
                # A run of one seed and a run of several may start at once, before either has left a file.
                if other not in self.locks.held and is_taken(other):
                    raise Busy(other)

    def look(self) -> dict[Path, int]:
        """Raise `UserError` if the settings do not fit what is in the folder. -> what is to be overwritten,
        {file: time of last change}"""
        if self.resuming:
            self.look_for_a_run()
        elif not self.config.overwrite:
            self.look_for_others()
        else:
            for link in self.asked.intersection(self.links()):
                raise UserError(f'{link} is a link, and what it leads to is not overwritten: remove the link '
                                f'first')
            return {path: path.stat().st_mtime_ns for folder in [*self.asked, *self.others()]
                    for path in files_of(folder)}
        return {}

    def look_for_a_run(self) -> None:
        """Raise `UserError` unless there is a run of these seeds to resume. Note which of them are
        finished."""
        if not any(begun(path) for path in self.asked):
            several = [path.name for path in seed_folders(self.path) if begun(path)]
            if several or begun(self.path):
                raise UserError(f'{self.path} holds {", ".join(several) or "one seed"}, not what '
                                f'num_seeds={self.config.num_seeds} and seed={self.config.seed} ask for: '
                                f'these cannot change when a run is resumed')
            raise UserError(f'no run in {self.path} to resume, for there is no checkpoint: train without '
                            f'--init_from=resume')
        for seed in self.seeds:
            if finished(seed.path, self.config):
                seed.skip()

    def look_for_others(self) -> None:
        """Raise `UserError` if the folder holds anything else than other seeds of the same run."""
        for folder in (self.path, *seed_folders(self.path)):
            if begun(folder) and not self.is_of_this_run(folder):
                if is_taken(folder):
                    raise Busy(folder)
                raise UserError(f'{self.path} already holds a run: --init_from=resume continues it, '
                                f'--overwrite=True replaces it')

    def is_of_this_run(self, folder: Path) -> bool:
        """Does a folder hold another seed that was trained with these settings?"""
        if folder in self.asked or folder == self.path or self.config.num_seeds == 1:
            return False
        theirs, mine = read_info(folder).get('config'), dataclasses.asdict(self.config)
        return bool(theirs) and isinstance(theirs, dict) and all(
            same(theirs.get(name, mine[name]), mine[name]) for name in mine.keys() - MAY_DIFFER)

    def others(self) -> list[Path]:
        """The folders, without links, in which seeds that are not asked for have left something."""
        below = [folder for folder in seed_folders(self.path) if not folder.is_symlink()]
        return [folder for folder in (self.path, *below) if folder not in self.asked and begun(folder)]

    def links(self) -> list[Path]:
        """The seeds' folders that are symbolic links: what they lead to is never overwritten."""
        return [folder for folder in seed_folders(self.path) if folder.is_symlink()]

    def to_write(self) -> list[Path]:
        """The folders that this process has to lock."""
        folders = [seed.path for seed in self.seeds if not seed.finished]
        if self.config.overwrite and not self.resuming and self.ranks.leader:
            folders += self.others()
        return folders

    # Reading.

    def read(self, finished: bool = False) -> None:
        """Read the run that is on the disk, without finished seeds unless `finished`. Changes nothing."""
        if not self.resuming:
            return
        seeds = [seed for seed in self.seeds if finished or not seed.finished]
        changes = half_made([seed.path for seed in seeds], is_ours)
        for seed in seeds:
            if begun(seed.path):
                seed.read(changes.get(seed.path))
                if note := describe_loss(seed.checkpoint, seed.path / LATEST):
                    self.say(note)

    def peek(self) -> list[list[SeedFolder]]:
        """All seeds as they are on the disk, grouped by iteration. Takes no lock and changes nothing."""
        if self.resuming:
            self.look_for_a_run()
        self.read(finished=True)
        at = sorted({seed.iteration for seed in self.seeds})
        return [[seed for seed in self.seeds if seed.iteration == iteration] for iteration in at]

    # What is left to do.

    def going(self) -> list[SeedFolder]:
        """The seeds that are not complete."""
        return [seed for seed in self.seeds if not seed.is_complete(self.config.max_iters)]

    def legs(self) -> Iterator[tuple[list[SeedFolder], int, int]]:
        """Which seeds to train together next, from which iteration to which: (seeds, first, last). Seeds that
        are behind come first, up to the first evaluation at or after the next seed ahead. Diverged seeds are
        trained along with NaN as weights, so that the other seeds have the same order of summation and the
        same dropout as in a run that was never interrupted."""
        max_iters, interval = self.config.max_iters, self.config.eval_interval
        if not self.going() and self.ranks.writes:
            self.prepare()
        while going := self.going():
            first = min(seed.iteration for seed in going)
            ahead = min((seed.iteration for seed in going if seed.iteration > first), default=max_iters)
            last = min(max_iters, math.ceil(ahead / interval) * interval)
            self.leg = [seed for seed in self.seeds
                        if seed in going and seed.iteration == first or seed.closed]
            self.losses, self.began = [], time.monotonic()
            yield self.leg, first, last
            self.keep_states()

    def keep_states(self) -> None:
        """Let the seeds of a leg continue from the state of its last `record`."""
        self.count_seconds()
        for r, seed in enumerate(self.leg):
            if seed.diverged is None and self.snapshot:
                seed.checkpoint = {**self.snapshot(r), 'model_args': seed.model_args}

    def count_seconds(self) -> None:
        """Add the time since the last call, or since the leg began, to the seconds of the leg's seeds."""
        now = time.monotonic()
        for seed in self.leg:
            seed.seconds += now - self.began
        self.began = now

    def states(self, seeds: list[SeedFolder], fresh: Callable[[int], dict]) -> dict[Path, dict]:
        """-> {path: checkpoint} of seeds; `fresh` gives the state of replica r for a seed that has none. A
        diverged seed gets NaN as weights."""
        states = {}
        for r, seed in enumerate(seeds):
            state = seed.checkpoint or {**fresh(r), 'model_args': seed.model_args}
            if seed.closed:
                state = {**state, 'model': {name: value * math.nan for name, value in state['model'].items()}}
            states[seed.path / LATEST] = state
        return states

    def has(self, iteration: int) -> bool:
        """Is the evaluation of this iteration already in the results?"""
        return all(seed.last_evaluated == iteration for seed in self.leg if not seed.closed)

    @property
    def iteration(self) -> int:
        """The iteration of the seed that is furthest behind."""
        return min(seed.iteration for seed in self.going() or self.seeds)

    def describe_end(self) -> str:
        """Why there is nothing to do."""
        if all(seed.closed for seed in self.seeds):
            return (f'{self.path}: the loss was not finite at iteration {self.seeds[0].diverged}; start anew '
                    f'with other settings, such as a smaller learning_rate')
        return f'{self.path} is finished at iteration {self.iteration}: a larger max_iters would continue it'

    @property
    def all_diverged(self) -> bool:
        """Is the loss of all seeds that are trained now not finite?"""
        return all(seed.diverged is not None for seed in self.leg)

    # Writing.

    def start(self, **metadata: object) -> None:
        """Begin to write. metadata: what made the run, for run.json. What the run overwrites is removed only
        now, when everything is ready."""
        self.metadata = metadata
        if not self.started and self.ranks.writes:
            self.prepare()
            self.started = True

    def prepare(self) -> None:
        """Clean up after a crash, or remove the run that is overwritten."""
        self.locks.keep()
        ours = [seed.path for seed in self.seeds if seed.path in self.locks.held]
        if self.resuming:
            recover(ours, is_ours)
        else:
            if self.config.overwrite and self.ranks.leader:
                self.remove_others()
            for folder in ours:
                remove_run(folder)
        for seed in self.seeds:
            if not seed.finished and seed.is_complete(self.config.max_iters):
                seed.mark()

    def remove_others(self) -> None:
        """Remove what seeds that are not asked for have left. Links are removed, not followed."""
        for folder in self.others():
            remove_run(folder)
            remove_folder(folder)
        for link in self.links():
            link.unlink()

    def watch(self, iteration: int, losses: torch.Tensor) -> None:
        """Take in the losses (steps, R) of the steps before an iteration, perhaps still being computed."""
        self.losses.append((iteration - len(losses), losses))

    def find_diverged(self) -> None:
        """Mark the seeds whose loss is no longer finite, and say so."""
        for first, losses in self.losses:
            for seed, bad in zip(self.leg, ~losses.isfinite().T.cpu()):
                if seed.diverged is None and bad.any():
                    seed.diverged = first + int(bad.int().argmax())
                    self.say(f'seed {seed.seed}: the loss is not finite at iteration {seed.diverged}; it '
                             f'stops there, and its last good checkpoint stays')
        self.losses = []

    def healthy(self, rows: list[dict]) -> list[dict]:
        """The rows of the seeds whose loss is finite; all rows if there are none."""
        return [row for row, seed in zip(rows, self.leg) if seed.diverged is None] or rows

    def record(self, iteration: int, snapshot: Callable[[int], dict],
               found: Evaluation | None = None) -> Future | None:
        """Write the state at an iteration, and its evaluation if there is one, in the background: the files
        of all seeds change as one. snapshot: r -> what a checkpoint holds of replica r. Waits for the
        previous write, and raises its error. -> a future of the result of `write`, done when all is on the
        disk; None in a process that writes nothing"""
        if found:
            self.watch(iteration + 1, torch.tensor([[row['train_loss'] for row in found.rows]]))
        self.find_diverged()
        self.flush()
        self.count_seconds()    # not in the writing thread, which may run after the end of the leg
        self.snapshot = snapshot
        seeds = []
        for r, seed in enumerate(self.leg):
            new = found is not None and seed.last_evaluated < iteration
            row, answers = (found.rows[r], found.answers[r]) if new else (None, {})
            # A diverged seed that has no row of it yet stays where it was: when resumed, it diverges again.
            if not seed.closed and (row or seed.diverged is None):
                seed.iteration, seed.closed = iteration, seed.diverged is not None
                seed.last_evaluated = iteration if row else seed.last_evaluated
                seeds.append((r, seed, row, answers))
        if self.ranks.writes:
            self.pending = self.writer.submit(self.write, iteration, snapshot, seeds)
        return self.pending

    def write(self, iteration: int, snapshot: Callable[[int], dict], seeds: list[tuple]
              ) -> list[tuple[SeedFolder, dict]]:
        """Replace the files of these seeds as one. seeds: (index among the replicas, seed, row or None,
        answers) each. -> the rows that were written, (seed, row) each"""
        write_folders({seed.path: {ABOUT: self.describe(seed, iteration),
                                   **seed.next_files(iteration, snapshot(r), row, answers, not seed.closed)}
                       for r, seed, row, answers in seeds})
        return [(seed, row) for _, seed, row, _ in seeds if row]

    def describe(self, seed: SeedFolder, iteration: int) -> bytes:
        """The content of run.json: what made the run, how far it is, and the seconds that it took so far (all
        seeds of a process together)."""
        info = {'seed': seed.seed, 'tasks': list(seed.meta.get('tasks', {})), **self.metadata,
                'iter_num': iteration, 'finished': seed.is_complete(self.config.max_iters),
                'diverged': seed.diverged if seed.closed else None,
                'seconds': round(seed.seconds, 3), 'config': seed.config}
        return (json.dumps(info, indent=1) + '\n').encode()

    def flush(self) -> None:
        """Wait until what was recorded is on the disk."""
        if self.pending is not None:
            self.pending, done = None, self.pending
            done.result()

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self.writer.shutdown()
            self.locks.release()


def files_of(folder: Path) -> list[Path]:
    """The files that runs left in a folder. run.json is last: as long as it exists, there is a run."""
    names = [COMMIT, *reversed(FILES)]
    return [*folder.glob(f'*{TMP}'), *kept_checkpoints(folder).values(),
            *(folder / name for name in names if (folder / name).is_file())]


def remove_run(folder: Path) -> None:
    """Remove what runs left in a folder."""
    for path in files_of(folder):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder if nothing but the lock, which this process holds, is left in it."""
    if [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        with contextlib.suppress(OSError):    # another program put something there
            folder.rmdir()
