"""One seed's folder: what an evaluation writes into it, and how the seed is resumed from it.

The folder is complete: seeds that were trained together can be resumed alone, and seeds that were trained
alone can be resumed together.
"""
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from tbtt import answers, nanogpt
from tbtt.atomic import COMMIT, Change, new_content, write_files
from tbtt.checkpoint import read_checkpoint, to_bytes
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.dataset import Dataset
from tbtt.layout import ABOUT, ANSWERS, KEPT, LATEST, RESULTS, kept_checkpoint, kept_checkpoints
from tbtt.results import append_row, format_results, read_info, read_results, scores

BEST = {score: f'ckpt_best_{score}.pt' for score in scores()}    # math, facts, combined
# run.json is first: if any other file exists, so does run.json. Checkpoints that are kept (layout.KEPT) are
# not listed here.
FILES = (ABOUT, LATEST, *BEST.values(), RESULTS, ANSWERS)
# Settings that may change when a run is resumed: they name places, the machine or the length of the run, or
# only what is printed or kept.
MAY_CHANGE = {'out_dir', 'init_from', 'overwrite', 'eval_only', 'max_iters', 'log_interval', 'dataset',
              'keep_answers', 'keep_checkpoints', 'wandb_log', 'wandb_project', 'wandb_run_name',
              'wandb_mode', 'trackio_log', 'tensorboard_log', 'device', 'dtype', 'compile'}
MAY_DIFFER = MAY_CHANGE | {'seed', 'num_seeds'}    # between the seeds of a run


def is_ours(name: str) -> bool:
    """Does a run write a file of this name?"""
    return name in FILES or KEPT.fullmatch(name) is not None


def begun(folder: Path) -> bool:
    """Does a seed's folder hold anything of a run?"""
    return any((folder / name).exists() for name in (*FILES, COMMIT)) or bool(kept_checkpoints(folder))


def finished(folder: Path, config: Config) -> bool:
    """Is the run of one seed in this folder done, at `max_iters` or because its loss was no longer finite?
    Raises `UserError` if it was made with other settings than `config`, as resuming it would."""
    info = read_info(folder)
    if not info.get('finished') or (folder / COMMIT).exists():    # the other files may not be in place yet
        return False
    recorded = info.get('config', {})
    if type(info.get('iter_num')) is not int or not isinstance(recorded, dict):
        raise UserError(f'{folder}/run.json: damaged (iter_num or config): delete it or train the run again')
    asked = dataclasses.asdict(config)
    check_unchanged(recorded, {name: asked[name] for name in asked.keys() - {'seed', 'num_seeds'}}, folder)
    return info['iter_num'] >= config.max_iters or info.get('diverged') is not None


def check_unchanged(recorded: dict, asked: dict, folder: Path) -> None:
    """Raise `UserError` if the settings `asked` differ from `recorded`, those of the run in `folder`, except
    in `MAY_CHANGE`. The error names the first difference, and the options that undo all of them."""
    then = {name: recorded[name] for name, now in asked.items()
            if name in recorded and name not in MAY_CHANGE and not same(recorded[name], now)}
    if then:
        name = next(iter(then))
        options = ' '.join(f'--{name}={value}' for name, value in then.items())
        raise UserError(f'{name}={asked[name]!r}, but the run in {folder} has {name}={then[name]!r}: this '
                        f'cannot change when a run is resumed; resume it with {options}')


def same(one: object, other: object) -> bool:
    """Are they equal? A tensor of several numbers, which has no place among plain values, equals nothing."""
    try:
        return bool(one == other)
    except RuntimeError:
        return False


def digest(text: str) -> str:
    """The SHA-256 digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class SeedFolder:
    """One seed's folder: its rows as CSV text, its best scores, how far it is.

    iteration: how far it is. last_evaluated: the last iteration that has a row, -1 if there is none.
    checkpoint: the state to resume from, None for a fresh seed. diverged: the iteration at which its loss was
    no longer finite, or None. closed: is the row without a finite loss written? finished: does run.json say
    that nothing is left to do?
    """

    def __init__(self, path: Path, seed: int, config: Config, dataset: Dataset) -> None:
        self.path, self.seed, self.meta, self.digest = path, seed, dataset.meta, dataset.digest
        self.model_args = config.model_args(self.meta['vocab_size'])
        self.config = dataclasses.asdict(config) | {'seed': seed, 'num_seeds': 1, 'out_dir': str(path)}
        self.csv, self.last_evaluated, self.iteration = format_results([]), -1, 0
        self.diverged, self.closed, self.finished = None, False, False
        self.best, self.best_val_loss = {}, float('inf')
        self.checkpoint, self.seconds = None, 0.0
        self.answers = answers.no_answers(dataset.tasks, dataset.codec.itos) if dataset.tasks else {}

    def is_complete(self, max_iters: int) -> bool:
        """Is nothing left to train or evaluate?"""
        evaluated = self.last_evaluated == self.iteration or self.iteration > max_iters
        return self.finished or self.closed or self.iteration >= max_iters and evaluated

    def skip(self) -> None:
        """Read how far a finished seed is from its run.json."""
        info = read_info(self.path)
        self.finished, self.iteration, self.diverged = True, info['iter_num'], info.get('diverged')
        self.closed = self.diverged is not None

    def read(self, change: Change | None) -> None:
        """Read what is on the disk, or will be there once a half-made change is finished. Changes nothing.

        Raises `UserError` for damaged files, and if a setting differs that cannot change when resuming.
        """
        checkpoint = read_checkpoint(new_content(self.path, change, LATEST))
        self.check(checkpoint)
        self.best, self.best_val_loss = best_of(checkpoint, self.path / LATEST)
        info = read_info(self.path, new_content(self.path, change, ABOUT).name)
        self.read_results(checkpoint, new_content(self.path, change, RESULTS), info)
        self.checkpoint, self.iteration = checkpoint, checkpoint['iter_num']
        if self.closed:
            self.iteration = self.last_evaluated
        self.read_answers(new_content(self.path, change, ANSWERS))
        self.finished = bool(info.get('finished')) and self.is_complete(self.config['max_iters'])
        seconds = info.get('seconds')
        self.seconds = float(seconds) if isinstance(seconds, (int, float)) else 0.0

    def check(self, checkpoint: dict) -> None:
        """Raise `UserError` unless a checkpoint was made with these settings and these data."""
        path = self.path / LATEST
        check_unchanged(nanogpt.recorded_settings(checkpoint), self.config, path)
        if not same(nanogpt.UNNAMED | checkpoint['model_args'], nanogpt.UNNAMED | self.model_args):
            raise UserError(f'{path} holds a model of {checkpoint["model_args"]}, the settings ask for '
                            f'{self.model_args}')
        for key, now in (('meta', self.meta), ('data', self.digest)):
            if not same(checkpoint.get(key, now), now):
                raise UserError(f'{path} was trained on other data than {self.config["dataset"]} now holds: '
                                f'restore the old data, or train again')

    def read_results(self, checkpoint: dict, path: Path, info: dict) -> None:
        """Read the rows. Raises `UserError` unless they are the rows that the checkpoint was written with."""
        place, empty = self.path / RESULTS, format_results([])
        if not path.exists():
            if checkpoint.get('results', digest(empty)) != digest(empty):
                raise UserError(f'{place}, which the run wrote together with {LATEST}, is missing: '
                                f'restore it, or train again')
            return
        rows, lines = read_results(path), path.read_text().splitlines(keepends=True)
        keep = int(np.searchsorted(rows['iter'], checkpoint['iter_num'], side='right'))
        if checkpoint.get('results', now := digest(''.join(lines[:keep + 1]))) != now:
            raise UserError(f'{place} is not what the run wrote together with {LATEST}: restore it, or '
                            f'train again')
        self.diverged, self.closed = info.get('diverged'), not np.isfinite(rows['train_loss'][-1])
        if self.closed:
            keep = len(rows['iter'])
            if self.diverged is None:
                self.diverged = int(rows['iter'][-1])
        self.csv = ''.join(lines[:keep + 1])
        if 'best' not in checkpoint:    # of the paper's code: its best files stay until a score is better
            self.best = {score: float(np.nanmax(rows[f'{score}_acc'][:keep])) for score in BEST
                         if np.isfinite(rows[f'{score}_acc'][:keep]).any()}
        self.last_evaluated = int(rows['iter'][keep - 1]) if keep else -1
        if not self.closed:    # resumed, a seed that diverged does so again
            self.diverged = None

    def read_answers(self, path: Path) -> None:
        """Read the answers. A run from before answers were kept, or a run that has lost the file, goes on
        without the earlier answers. Raises `UserError` if the file is damaged or is about other questions."""
        if self.answers and self.config['keep_answers'] and path.exists():
            self.answers = answers.resume_answers(path, self.answers, self.last_evaluated)

    def mark(self) -> None:
        """Write into run.json that nothing is left to do. Needed if a resume asks for fewer iterations than
        the run already has."""
        info = read_info(self.path) | {'seed': self.seed, 'iter_num': self.iteration, 'finished': True,
                                       'diverged': self.diverged, 'config': self.config}
        write_files(self.path, {ABOUT: (json.dumps(info, indent=1) + '\n').encode()})
        self.finished = True

    def next_files(self, iteration: int, state: dict, row: dict | None, given: dict[str, answers.Given],
                   healthy: bool) -> dict[str, bytes]:
        """Take in an evaluation. -> the files to write at an iteration, {name: bytes}: the latest checkpoint
        and, if there is an evaluation (`row`, `given`), the results and the answers with it, a checkpoint for
        every score that is strictly better than before, and a checkpoint to keep if it is due. If the loss is
        not finite (not `healthy`), only results and answers: the last good checkpoint stays. state: what the
        engine's snapshot holds of this seed."""
        files, names = {}, [LATEST]
        if row is not None:
            self.csv = append_row(self.csv, row)
            files[RESULTS] = self.csv.encode()
            if self.config['keep_answers'] and given:
                self.answers = answers.append_answers(self.answers, iteration, given)
                files[ANSWERS] = answers.format_answers(self.answers)
        if healthy:
            if row is not None:
                better = [score for score in BEST if row.get(f'{score}_acc', -1) > self.best.get(score, -1)]
                self.best |= {score: row[f'{score}_acc'] for score in better}
                self.best_val_loss = min(self.best_val_loss, row['val_loss'])
                names += [BEST[score] for score in better]
                if (every := self.config['keep_checkpoints']) and iteration % every == 0:
                    names.append(kept_checkpoint(iteration))
            content = to_bytes({
                **state, 'model_args': self.model_args, 'iter_num': iteration, 'best': self.best,
                'best_val_loss': self.best_val_loss, 'config': self.config, 'meta': self.meta,
                'data': self.digest, 'results': digest(self.csv)})
            files |= {name: content for name in names}
        return files


def best_of(checkpoint: dict, path: Path) -> tuple[dict, float]:
    """-> best scores, best validation loss of a checkpoint. Raises `UserError` if these or the iteration are
    impossible."""
    best, loss = checkpoint.get('best', {}), checkpoint.get('best_val_loss', float('inf'))
    try:
        loss = float(loss)
        if checkpoint['iter_num'] < 0 or any(not 0 <= float(value) <= 100 for value in best.values()):
            raise ValueError
    except (AttributeError, RuntimeError, TypeError, ValueError):
        raise UserError(f'{path} is damaged: iter_num {checkpoint["iter_num"]}, best {best}, best_val_loss '
                        f'{loss}') from None
    return best, loss
