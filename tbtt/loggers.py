"""Logs of evaluations besides results.csv: TensorBoard, Weights & Biases, Trackio. Each seed is a separate
run there, with its settings, its evaluations and, once it is finished, its final scores.

A log receives an evaluation after it is on the disk; results.csv remains the record that counts. If a log
cannot be opened, training does not start. If it fails later, it is dropped and training continues. A resumed
run continues in its log: points that are there are not repeated, and missing points are added.
"""
import contextlib
import contextvars
import csv
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from tbtt.atomic import write_file
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.layout import RESULTS
from tbtt.results import format_results, result_columns
from tbtt.run_folder import RunFolder
from tbtt.seed_folder import SeedFolder

Point = dict[str, float]    # an evaluation: {column of results.csv: number}, without blanks
FINAL = ('_acc', '_answered', '_loss')    # how the columns end that count as scores


def read_points(text: str) -> dict[int, Point]:
    """The text of a results.csv -> {iteration: point}"""
    points = {}
    for row in csv.DictReader(io.StringIO(text.removeprefix('\ufeff')), skipinitialspace=True):
        cells = {name.strip(): cell for name, cell in row.items()}
        point = {column: float(cells[column]) for column in result_columns() if cells.get(column)}
        points[int(point.pop('iter'))] = point
    return points


def final_scores(points: dict[int, Point]) -> Point:
    """The scores at the best and at the last evaluation: {'best_math_acc': 98.0, ...}. The best, which the
    paper reports, is the first with the highest score over all questions; without tasks there is none."""
    *_, last = points.values()
    chosen = {'last': last}
    if 'combined_acc' in last:
        chosen['best'] = max(points.values(), key=lambda point: point.get('combined_acc', -1))
    return {f'{when}_{column}': value for when, point in chosen.items() for column, value in point.items()
            if column.endswith(FINAL)}


def with_prefix(final: Point) -> Point:
    """Final scores under their names as metrics: `final/best_math_acc`."""
    return {f'final/{name}': value for name, value in final.items()}


def points_of(seed: SeedFolder) -> dict[int, Point]:
    """All evaluations of a seed so far. For a seed that was finished earlier they are read from the disk."""
    points = read_points(seed.csv)
    return read_points((seed.path / RESULTS).read_text()) if seed.finished and not points else points


def names_of(seed: SeedFolder, config: Config, default: str) -> tuple[str, str | None]:
    """The name of a seed's run, and its group of runs (None if there is only one seed)."""
    run = config.wandb_run_name or default
    return (f'{run}/{seed.path.name}', run) if config.num_seeds > 1 else (run, None)


def is_first(seed: SeedFolder, config: Config) -> bool:
    """Is this the first seed? Only its run prints where to look, and logs the load of the machine."""
    return seed.seed == config.seed


class Log(Protocol):
    """One seed's run in a logging package, opened for a fresh or (`resuming`) for a resumed run.

    first: from this iteration on the log lacks evaluations.
    """
    first: int

    def __init__(self, seed: SeedFolder, config: Config, resuming: bool) -> None:
        """Open the log, with the settings of the seed."""

    def add(self, iteration: int, point: Point, final: Point) -> None:
        """Add an evaluation. final: the final scores if this evaluation ends the run, otherwise empty."""

    def close(self, finished: bool) -> None:
        """Write what is not written yet. finished: has the run reached its end?"""


class TensorboardLog:
    """Scalars in tensorboard/ of the seed's folder. When a run is resumed, all its points are written again
    into a new file. With `purge_step` that file makes TensorBoard ignore the points in earlier files."""
    first = 0

    def __init__(self, seed: SeedFolder, config: Config, resuming: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(seed.path / 'tensorboard', purge_step=0)
        _, settings, self.end = hparams(seed.config, {})
        self.writer.file_writer.add_summary(settings)

    def add(self, iteration: int, point: Point, final: Point) -> None:
        """Add an evaluation; it is in the file when this returns."""
        for name, value in (point | with_prefix(final)).items():
            self.writer.add_scalar(name, value, iteration)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file. A finished run is marked as finished in the tab HPARAMS."""
        if finished:
            self.writer.file_writer.add_summary(self.end)
        self.writer.close()


class WandbLog:
    """A run of Weights & Biases. Its id and the iteration that it logged last are in wandb.json of the seed's
    folder. With them a resumed run continues: online in the same run, offline in a further folder with the
    same id, which `wandb sync` joins to the first."""

    def __init__(self, seed: SeedFolder, config: Config, resuming: bool) -> None:
        import wandb

        if config.num_seeds > 1 and os.environ.get('WANDB_SWEEP_ID'):
            raise UserError(f'num_seeds={config.num_seeds}: a sweep of W&B gives one run to a process: '
                            f'num_seeds=1, with `seed` among the parameters of the sweep')
        self.path = seed.path / 'wandb.json'
        before = read_state(self.path) if resuming else {}
        mode = None if config.wandb_mode == 'auto' else config.wandb_mode
        online = (mode or wandb.setup().settings.mode) == 'online'
        name, group = names_of(seed, config, Path(config.out_dir).name)
        quiet = not is_first(seed, config)
        self.run = wandb.init(
            project=config.wandb_project, name=name, group=group, config=seed.config, id=before.get('id'),
            resume='allow' if before and online else None, mode=mode, reinit='create_new',
            settings=wandb.Settings(console='off', silent=quiet, x_disable_stats=quiet))
        self.first = self.run.starting_step or before.get('logged', -1) + 1

    def add(self, iteration: int, point: Point, final: Point) -> None:
        """Add an evaluation, and note in wandb.json that it was added. Final scores go into the summary."""
        self.run.log(point, step=iteration)
        self.run.summary.update(final)
        write_file(self.path, json.dumps({'id': self.run.id, 'logged': iteration}).encode())

    def close(self, finished: bool) -> None:
        """Wait until all is uploaded. An unfinished run is shown as failed until it is resumed."""
        self.run.finish(exit_code=0 if finished else 1)


def read_state(path: Path) -> dict:
    """wandb.json of a run: {'id': its id, 'logged': last iteration}; {} where there is none."""
    try:
        state = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
        return state and {'id': str(state['id']), 'logged': int(state['logged'])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: damaged ({error}): delete it, and the run continues in a new one of '
                        f'W&B') from error


class TrackioLog:
    """A run of Trackio, which writes into an SQLite file on this machine (TRACKIO_DIR), or to a Space."""

    def __init__(self, seed: SeedFolder, config: Config, resuming: bool) -> None:
        import trackio

        # Trackio finds a run by its name, so the name contains the folder.
        name, group = names_of(seed, config, config.out_dir)
        self.quiet, monitor = not is_first(seed, config), None if is_first(seed, config) else False
        # In a separate context: Trackio would end any other run that it sees.
        with self.output():
            self.run = contextvars.copy_context().run(
                trackio.init, project=config.wandb_project, name=name, group=group, config=seed.config,
                resume='allow' if resuming else 'never', embed=False, auto_log_cpu=monitor,
                auto_log_gpu=monitor)
        self.first = self.run._next_step

    def output(self) -> contextlib.AbstractContextManager:
        """A context in which the output of Trackio is shown for the first seed only."""
        return contextlib.redirect_stdout(io.StringIO() if self.quiet else sys.stdout)

    def add(self, iteration: int, point: Point, final: Point) -> None:
        """Add an evaluation. Final scores are metrics too: Trackio has no summary of a run."""
        self.run.log(point | with_prefix(final), step=iteration)

    def close(self, finished: bool) -> None:
        """Wait until all is in its file, at most half a minute."""
        with self.output():
            self.run.finish()


# {setting: (package, log)}. W&B may refuse to open, so it is first: the others have left nothing by then.
LOGS = {'wandb_log': ('wandb', WandbLog), 'trackio_log': ('trackio', TrackioLog),
        'tensorboard_log': ('tensorboard', TensorboardLog)}


def wanted_logs(config: Config) -> dict[str, type[Log]]:
    """{package: log} that the settings ask for. Raises `UserError` naming a package that is missing."""
    wanted = {package: kind for setting, (package, kind) in LOGS.items() if getattr(config, setting)}
    for package in wanted:
        if importlib.util.find_spec(package) is None:
            raise UserError(f'{package}_log=True needs the package {package}: pip install {package}')
    return wanted


class Logs:
    """All logs of the seeds that this process trains. say: prints a line about a log that failed."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config, self.say, self.kinds = config, say, wanted_logs(config)
        self.logs: dict[tuple[str, SeedFolder], Log] | None = None

    def open(self, folder: RunFolder) -> None:
        """Open the logs of all seeds, once, and add the evaluations that they lack. In a resumed run this
        includes the logs of finished seeds. Raises `UserError` if a log cannot be opened."""
        if self.logs is not None or not folder.ranks.writes:
            return
        self.logs = {}
        for package, kind in self.kinds.items():
            for seed in folder.seeds:
                try:
                    self.logs[package, seed] = log = kind(seed, self.config, folder.resuming)
                    self.tell(seed, log, points_of(seed))
                except UserError:
                    raise
                except Exception as error:    # whatever such a package raises
                    raise UserError(f'{package}_log=True: {describe(error)}') from error

    def tell(self, seed: SeedFolder, log: Log, points: dict[int, Point]) -> None:
        """Add those points that a log lacks; with the last point of a finished run also its final scores."""
        every = points_of(seed)
        newest = max([seed.last_evaluated, *every])    # the last may still be on its way to the disk
        for iteration, point in points.items():
            if iteration >= log.first:
                at_end = iteration == newest and seed.is_complete(self.config.max_iters)
                log.add(iteration, point, final_scores(every) if at_end else {})

    def add(self, written: Iterable[tuple[SeedFolder, dict]]) -> None:
        """Add rows to the logs, after they were written to results.csv."""
        points = {seed: read_points(format_results([row])) for seed, row in written}
        for (package, seed), log in list((self.logs or {}).items()):
            self.attempt(package, seed, lambda: self.tell(seed, log, points.get(seed, {})))

    def attempt(self, package: str, seed: SeedFolder, action: Callable[[], None]) -> None:
        """Call `action`, which uses a log. A log that fails is dropped, so that the training continues."""
        try:
            action()
        except Exception as error:    # whatever such a package raises
            self.logs.pop((package, seed), None)
            self.say(f'the {package} log of {seed.path} is dropped, training continues: '
                     f'{describe(error)}')

    def close(self) -> None:
        """Close all logs."""
        for (package, seed), log in list((self.logs or {}).items()):
            self.attempt(package, seed, lambda: log.close(seed.is_complete(self.config.max_iters)))
        self.logs = None


def describe(error: Exception) -> str:
    """An error of another package in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
