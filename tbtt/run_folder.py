"""A run's folder: who may write there, what an evaluation leaves in it, and how a run goes on from it."""
import dataclasses
import hashlib
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import torch

from tbtt import nanogpt
from tbtt.checkpoint import read_checkpoint, to_bytes
from tbtt.cli import UserError
from tbtt.config import ROOT
from tbtt.atomic import COMMIT, recover, write_files
from tbtt.distributed import Ranks
from tbtt.results import append_row, format_results, read_info, read_results, scores

LATEST, RESULTS, ABOUT, LOCK = 'ckpt.pt', 'results.csv', 'run.json', '.lock'
BEST = {score: f'ckpt_best_{score}.pt' for score in scores()}    # math, facts, combined
BUSY = 'another training writes into'
FILES = (LATEST, *BEST.values(), RESULTS, ABOUT)
# Settings that may change when a run goes on: they name places and the machine, or only how much is printed.
MAY_CHANGE = {'out_dir', 'init_from', 'overwrite', 'eval_only', 'max_iters', 'log_interval', 'wandb_log', 'dataset',
              'wandb_project', 'wandb_run_name', 'tensorboard_log', 'device', 'dtype', 'compile'}


class SeedRun:
    """What one seed leaves: its rows as CSV text, its best scores, its place in the folder of the run.

    folder: relative to the run's folder, '' for a run of one seed. diverged: the iteration at which its loss was no
    longer finite, or None.
    """

    def __init__(self, folder, seed, config, dataset):
        self.folder, self.seed, self.meta, self.digest = folder, seed, dataset.meta, dataset.digest
        self.model_args = config.model_args(self.meta['vocab_size'])
        place = str(Path(config.out_dir) / folder)
        self.config = dataclasses.asdict(config) | {'seed': seed, 'num_seeds': 1, 'out_dir': place}
        self.csv, self.last_evaluated = format_results([]), -1
        self.diverged, self.closed = None, False    # closed: its last row is the one without a finite loss
        self.best, self.best_val_loss = {}, float('inf')

    def next_files(self, iteration, state, row, healthy):
        """Take in an evaluation. -> the files to write at an iteration, {path: bytes}: the latest checkpoint, and where
        there is an evaluation (`row`) the results with it and a checkpoint for every score that is strictly better than
        before. Where the loss is not finite (not `healthy`) only the results: the last good checkpoint stays. state: what
        the engine's snapshot holds of this seed."""
        files, better = {}, []
        if row is not None:
            self.csv = append_row(self.csv, row)
            files[RESULTS] = self.csv.encode()
        if healthy:
            if row is not None:
                better = [score for score in BEST if row.get(f'{score}_acc', -1) > self.best.get(score, -1)]
                self.best |= {score: row[f'{score}_acc'] for score in better}
                self.best_val_loss = min(self.best_val_loss, row['val_loss'])
            content = to_bytes({
                **state, 'model_args': self.model_args, 'iter_num': iteration, 'best_val_loss': self.best_val_loss,
                'config': self.config, 'meta': self.meta, 'data': self.digest, 'results': digest(self.csv),
                'best': self.best})
            files |= {name: content for name in (*(BEST[score] for score in better), LATEST)}
        return {str(Path(self.folder) / name): content for name, content in files.items()}

    def latest(self, out_dir):
        return Path(out_dir) / self.folder / LATEST

    def resume(self, out_dir):
        """Take up the scores and rows that are on disk. -> the latest checkpoint

        Raises `UserError` where the checkpoint was made with settings that cannot change under way.
        """
        path = self.latest(out_dir)
        checkpoint = read_checkpoint(path)
        check_unchanged(nanogpt.recorded_settings(checkpoint), self.config, path.parent)
        if not same(nanogpt.EXPANSION | checkpoint['model_args'], nanogpt.EXPANSION | self.model_args):
            raise UserError(f'{path} holds a model of {checkpoint["model_args"]}, the settings ask for {self.model_args}')
        for key, now in (('meta', self.meta), ('data', self.digest)):
            if not same(checkpoint.get(key, now), now):
                raise UserError(f'{path} was trained on other data than {self.config["dataset"]} now holds: prepare them as '
                                f'they were, or train anew')
        self.best, self.best_val_loss = best_of(checkpoint, path)
        results = path.parent / RESULTS
        if results.exists():
            rows, lines = read_results(results), results.read_text().splitlines(keepends=True)
            keep = int(np.searchsorted(rows['iter'], checkpoint['iter_num'], side='right'))
            if checkpoint.get('results', now := digest(''.join(lines[:keep + 1]))) != now:
                raise UserError(f'{results} is not what the run wrote there with {path.name}: bring it back, or train anew')
            self.diverged, self.closed = read_info(path.parent).get('diverged'), not np.isfinite(rows['train_loss'][-1])
            if self.closed and self.diverged is None:
                self.diverged = int(rows['iter'][-1])
            if self.diverged is not None:
                keep = len(rows['iter'])
                # What is loaded is from before it diverged: nothing finite may be recorded of it any more.
                checkpoint['model'] = {name: value * math.nan for name, value in checkpoint['model'].items()}
            self.csv = ''.join(lines[:keep + 1])
            self.last_evaluated = int(rows['iter'][keep - 1]) if keep else -1
        return checkpoint


def check_unchanged(recorded, asked, folder):
    """Raise `UserError` where settings, {name: value}, are not those that the run in `folder` was made with: it names the
    first, and the options that bring all of them back."""
    then = {name: recorded[name] for name, now in asked.items()
            if name in recorded and name not in MAY_CHANGE and not same(recorded[name], now)}
    if then:
        name = next(iter(then))
        options = ' '.join(f'--{name}={value}' for name, value in then.items())
        raise UserError(f'{name}={asked[name]!r}, but the run in {folder} has {name}={then[name]!r}: that cannot change '
                        f'under way, it goes on with {options}')


def same(one, other):
    """Are they equal? A tensor, which has no place among plain values, is equal to none."""
    try:
        return bool(one == other)
    except RuntimeError:
        return False


def best_of(checkpoint, path):
    """-> best scores, best validation loss of a checkpoint. Raises `UserError` where these or the iteration cannot be."""
    best, loss = checkpoint.get('best', {}), checkpoint.get('best_val_loss', float('inf'))
    try:
        loss = float(loss)
        if checkpoint['iter_num'] < 0 or any(not 0 <= float(value) <= 100 for value in best.values()):
            raise ValueError
    except (AttributeError, RuntimeError, TypeError, ValueError):
        raise UserError(f'{path} is damaged: iter_num {checkpoint["iter_num"]}, best {best}, best_val_loss {loss}') from None
    return best, loss


class RunFolder:
    """The folder of a run while it trains: locked against a second writer, written in the background.

    Raises `UserError` where it holds another run and neither `init_from=resume` nor `overwrite` says what to do.
    """

    def __init__(self, config, dataset, ranks=None):
        self.path = Path(config.out_dir)
        self.config, self.ranks = config, ranks or Ranks()
        seeds = range(config.seed, config.seed + config.num_seeds)
        self.seeds = [SeedRun(f'seed_{seed}' if config.num_seeds > 1 else '', seed, config, dataset)
                      for seed in self.ranks.deal(seeds)]
        self.locks, self.about = [], {}
        self.writer = ThreadPoolExecutor(max_workers=1)
        self.pending = None
        self.started, self.seconds_before = time.monotonic(), 0.0

    def held(self):
        """The names of run files that are in the folder."""
        patterns = [*FILES, *(f'seed_*/{name}' for name in FILES)]
        return sorted(str(path.relative_to(self.path)) for pattern in patterns for path in self.path.glob(pattern))

    def read(self):
        """Take up the run that is on disk. -> ({path: latest checkpoint} of the seeds, the iteration they are at)"""
        self.check_seeds()
        checkpoints = {seed.latest(self.path): seed.resume(self.path) for seed in self.seeds}
        at = {checkpoint['iter_num'] for seed, checkpoint in zip(self.seeds, checkpoints.values())
              if seed.diverged is None}
        if len(at) > 1:
            raise UserError(f'the seeds in {self.path} are at different iterations, {sorted(at)}: resume each in its own '
                            f'folder until they are not')
        self.seconds_before = read_info(self.path / self.seeds[0].folder).get('seconds', 0.0)
        return checkpoints, at.pop() if at else max(checkpoint['iter_num'] for checkpoint in checkpoints.values())

    def check_seeds(self):
        """Raise `UserError` unless the folder holds the seeds that the settings ask for."""
        here = {path.parent.name for path in self.path.glob(f'seed_*/{LATEST}')}
        several = range(self.config.num_seeds if self.config.num_seeds > 1 else 0)
        if here != {f'seed_{self.config.seed + r}' for r in several}:
            raise UserError(f'{self.path} holds {", ".join(sorted(here)) or "one seed"}, not what num_seeds='
                            f'{self.config.num_seeds} and seed={self.config.seed} ask for: those cannot change under way')

    def evaluated(self, iteration):
        """Is the evaluation of this iteration among the results?"""
        return max(seed.last_evaluated for seed in self.seeds) == iteration

    def __enter__(self):
        """Take the folder. -> what `read` gives where the run goes on, ({}, 0) for a new one"""
        resuming = self.config.init_from == 'resume'
        try:
            if self.ranks.leader:
                self.claim(resuming)
            self.ranks.wait()
            return self.read() if resuming else ({}, 0)
        except BaseException:
            self.release()
            raise

    def claim(self, resuming):
        """Refuse what would harm another run, lock the folder and those of its seeds, and clean up after a crash."""
        held = self.held()
        if not resuming and not self.config.overwrite and held:
            raise UserError(f'{self.path} holds another run: --init_from=resume goes on, --overwrite=True starts anew')
        if resuming and not (held or any(self.path.glob(f'*{COMMIT}'))):
            raise UserError(f'no run in {self.path} to resume, for there is no checkpoint: train without --init_from=resume')
        self.acquire(self.path)
        recover(self.path)
        if resuming:
            self.check_seeds()
        for seed in self.seeds:    # each may also be resumed on its own
            if seed.folder:
                self.acquire(self.path / seed.folder)

    def acquire(self, folder):
        """Lock a folder. Raises `UserError` where another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.locks.append(filelock.FileLock(folder / LOCK))
        try:
            self.locks[-1].acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(f'{BUSY} {folder}: wait for it, or choose another out_dir') from None

    def begin(self, **about):
        """What made the run, for run.json. A new run removes what it overwrites only now, when all is ready to go."""
        if self.config.init_from != 'resume' and self.ranks.leader:
            for name in self.held():
                (self.path / name).unlink()
            ours = {self.path / seed.folder for seed in self.seeds}
            for lock in self.path.glob(f'seed_*/{LOCK}'):
                if lock.parent not in ours:
                    shutil.rmtree(lock.parent) if len(list(lock.parent.iterdir())) == 1 else lock.unlink()
        self.about = about
        self.ranks.wait()
        for seed in self.seeds:
            (self.path / seed.folder).mkdir(exist_ok=True)

    def release(self):
        for lock in self.locks:
            lock.release()    # the files stay: to delete one would let two others lock two files of its name

    def __exit__(self, *_):
        try:
            self.flush()
        finally:
            self.writer.shutdown()
            self.release()

    def all_diverged(self):
        return all(seed.diverged is not None for seed in self.seeds)

    def check_finite(self, first, losses):
        """Mark the seeds whose loss is no longer finite. losses: (steps, R) from iteration `first` on. -> the seeds that
        are new among them"""
        newly = []
        for seed, bad in zip(self.seeds, ~losses.isfinite().T.cpu()):
            if seed.diverged is None and bad.any():
                seed.diverged = first + int(bad.int().argmax())
                newly.append(seed)
        return newly

    def record(self, iteration, snapshot, rows=None, finished=False):
        """Write the state at an iteration, and its evaluation where there is one, in the background: all seeds' files
        change as one. snapshot: r -> what a checkpoint holds of replica r. Waits for the write before it, and raises
        what that raised."""
        self.flush()
        diverged = [seed.diverged for seed in self.seeds]    # as it is now, not when the disk has time
        going = [r for r, seed in enumerate(self.seeds) if seed.diverged is None or rows and not seed.closed]
        for r in going if rows else ():
            self.seeds[r].last_evaluated, self.seeds[r].closed = iteration, diverged[r] is not None
        if self.ranks.writes:
            self.pending = self.writer.submit(self.write, iteration, snapshot, rows, going, diverged, finished)

    def write(self, iteration, snapshot, rows, going, diverged, finished):
        files = {}
        for r in going:
            files |= self.seeds[r].next_files(iteration, snapshot(r), rows and rows[r], healthy=diverged[r] is None)
        for seed, since in zip(self.seeds, diverged):
            files[str(Path(seed.folder) / ABOUT)] = self.describe(seed, iteration, since, finished)
        write_files(self.path, files, f'{self.seeds[0].seed}.{COMMIT}')

    def describe(self, seed, iteration, diverged, finished):
        """run.json: what made the run, how far it is, and the seconds it took so far (all seeds together)."""
        seconds = self.seconds_before + time.monotonic() - self.started
        about = {'seed': seed.seed, 'tasks': list(seed.meta.get('tasks', {})), **self.about, 'iter_num': iteration,
                 'finished': finished, 'diverged': diverged, 'seconds': round(seconds, 1), 'config': seed.config}
        return (json.dumps(about, indent=1) + '\n').encode()

    def flush(self):
        """Wait until what was recorded is on the disk."""
        if self.pending is not None:
            self.pending, done = None, self.pending
            done.result()


def digest(text):
    """A text's fingerprint."""
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(device):
    """What the run runs on and was made from: {'hardware', 'versions', 'commit', 'command'}"""
    git = ['git', '-C', ROOT, 'describe', '--always', '--dirty', '--abbrev=12']
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which('git') else None
    return {'hardware': hardware(device), 'commit': commit or None, 'command': sys.argv,
            'versions': {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}}


def hardware(device):
    """The device in words: a GPU's name, or the processor's with the number of threads."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f'{name}, {torch.get_num_threads()} threads'
