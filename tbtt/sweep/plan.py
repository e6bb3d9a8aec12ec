"""What a sweep trains: the axes of a sweep file, the runs that combine them, and the jobs of these runs."""
import argparse
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from tbtt.cli import InvalidSetting, UserError, unknown_name
from tbtt.config import FIELDS, ROOT, Config, find_file, load_config, names_in, set_value

# Set by the sweep itself; none of them can be an axis.
OWN = {'out_dir', 'dataset', 'init_from', 'overwrite', 'seed', 'num_seeds', 'eval_only'}
ON_CPU = 8     # default number of seeds in one job: more at once are no faster on a CPU
MOST = 10**5   # most trainings in a sweep: more would never end, and a typing error is reported at once


@dataclass(frozen=True)
class Run:
    """One combination of the axes, for all seeds. base: a config file. axes: {name: value} of settings and
    data options, with `base` first if there are several bases. settings: what is set on top of the base.
    data: options of the dataset's prepare.py. script: the path of that file, or None if the dataset is not
    prepared here. checked: all settings of the run."""
    name: str
    base: str
    axes: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, str]
    script: Path | None
    checked: Config

    def config(self) -> Config:
        """A copy of all settings of the run, checked."""
        return replace(self.checked)


@dataclass(frozen=True)
class Job:
    """Seeds of a run that are trained together."""
    run: Run
    folder: Path      # of the run
    seeds: tuple[int, ...]
    whole: bool       # are these all seeds of the run?

    def __str__(self) -> str:
        return self.run.name if self.whole else f'{self.run.name}, seeds {self.seeds[0]} to {self.seeds[-1]}'


class Sweep:
    """A sweep file, with the changes that the command line makes to it.

    path: the file. overrides: {name: text} of `--name=text`. A sweep file sets `base` (a config file, or
    {label: config file}), `axes` ({setting: values}), `data` ({option of prepare.py: values}) and any setting
    that all runs share. Raises `UserError` if the sweep is not valid.
    """

    def __init__(self, path: str | Path, overrides: Mapping[str, str] | None = None,
                 root: str | Path = 'sweeps') -> None:
        self.path = find_file(path)
        names = names_in(self.path, {})
        base = names.pop('base', None)
        self.bases = base if isinstance(base, dict) else {'': base}
        self.axes, self.data = names.pop('axes', {}), names.pop('data', {})
        self.settings = names
        self.check_file()
        for name, text in (overrides or {}).items():
            self.override(name, text)
        self.settings = {name: self.convert(name, value) for name, value in self.settings.items()}
        config = replace(Config(), **self.settings)
        self.seed, self.num_seeds = config.seed, config.num_seeds
        if self.seed + self.num_seeds - 1 > (highest := FIELDS['seed'].metadata['high']):
            raise UserError(f'seed={self.seed} and num_seeds={self.num_seeds}: '
                            f'expected no seed above {highest}')
        self.check_values()
        self.folder = (Path(root) / self.path.stem.removeprefix('sweep_')).resolve()
        self.runs = self.expand()
        self.check_names()

    def check_file(self) -> None:
        """Check the names in the file, before the command line changes their values."""
        if not all(isinstance(text, str) for item in self.bases.items() for text in item) or not self.bases:
            raise UserError(f'{self.path}: a sweep file has to name its base: a config file, '
                            'or several as {label: config file}')
        for kind in ('axes', 'data'):
            axes = getattr(self, kind)
            if not isinstance(axes, dict) or not all(isinstance(name, str) for name in axes):
                raise UserError(f'{self.path}: {kind}: expected {{name: list of values}}, the names as texts')
        for name in (*self.axes, *self.settings):
            if name not in FIELDS:
                wrong = unknown_name('setting', name, [*FIELDS, 'base', 'axes', 'data'])
                raise InvalidSetting(f'{self.path}: {wrong}')
        for name in (*self.axes, *(set(self.settings) - {'seed', 'num_seeds'})):
            if name in OWN:
                raise InvalidSetting(f'{self.path}: {name} is chosen by the sweep itself')

    def check_values(self) -> None:
        """Check all values, and convert those of axes as their settings would: as a weight decay, 0 and 0.0
        are one value."""
        for kind, name, values in [('axes', *axis) for axis in self.axes.items()] + [
                ('data', *axis) for axis in self.data.items()]:
            if not isinstance(values, (list, tuple, range)):
                raise UserError(f'{self.path}: {kind}: {name}: expected a list of values, such as [1, 2], '
                                f'got {values!r:.60}')
            if not values:
                raise UserError(f'{self.path}: {kind}: {name}: expected at least one value')
        self.check_size()
        self.axes = {name: [self.convert(name, value) for value in values]
                     for name, values in self.axes.items()}
        for kind, name, values in [('axes', *axis) for axis in self.axes.items()] + [
                ('data', *axis) for axis in self.data.items()]:
            if None in values:
                raise UserError(f'{self.path}: {kind}: {name}: None is not a value: remove it, or write the '
                                'value that is meant')
            if len({str(value) for value in values}) < len(values):
                raise UserError(f'{self.path}: {kind}: {name} has a value twice')

    def check_size(self) -> None:
        """Raise `UserError` if a sweep has more than MOST trainings, before any work is spent on them."""
        runs = len(self.bases) * math.prod(map(len, (*self.axes.values(), *self.data.values())))
        if runs * self.num_seeds > MOST:
            raise UserError(f'{self.path}: {runs:,} combinations of the axes with num_seeds={self.num_seeds} '
                            f'are {runs * self.num_seeds:,} trainings: ask for fewer, a sweep has at most '
                            f'{MOST:,}')

    def convert(self, name: str, value: Any) -> Any:
        """The value of a setting as a run would convert it."""
        config = Config()
        try:
            set_value(config, name, value)
        except InvalidSetting as error:
            raise InvalidSetting(f'{self.path}: {error}') from error
        return getattr(config, name)

    def check_names(self) -> None:
        """Raise `UserError` if a folder of a run or of the sweep would be hidden, if two runs would have the
        same folder, or if a run would have a name that the sweep itself uses."""
        names = Counter(run.name for run in self.runs)
        for name in (self.folder.name, *names):
            if name.startswith('.') or name in ('data', 'summary.csv') and name in names:
                raise UserError(f'{self.path}: no run can be named {name}: choose another label, or another '
                                'name of the file')
        (name, count), = names.most_common(1)
        if count > 1:
            raise UserError(f'{self.path}: two runs would be named {name}: choose labels and values that '
                            'differ')

    def override(self, name: str, text: str) -> None:
        """Apply `--name=text`. For an axis, text is its values, separated by commas (for a data option, by
        blanks); else it is the value of a setting."""
        if name == 'base':
            known = self.bases
            self.bases = {label: known[label] for label in text.split(',') if label in known}
            if len(self.bases) < len(text.split(',')):
                raise UserError(f'--base={text}: expected some of {",".join(known)}')
        elif name in self.data:
            self.data[name] = text.split()
        elif name in FIELDS and (name not in OWN or name in ('seed', 'num_seeds')):
            values = [parse(name, value) for value in text.split(',')]
            if name in self.axes:
                self.axes[name] = values
            elif len(values) == 1:
                self.settings[name] = values[0]
            else:
                raise UserError(f'--{name}={text}: {name} is no axis of {self.path}, so it has one value')
        else:
            if name in OWN:
                raise UserError(f'--{name} is chosen by the sweep itself; --sweeps_dir says where it writes')
            options = [f'--{known}' for known in (*sorted(FIELDS.keys() - OWN), *self.data, 'base', 'seed',
                                                  'num_seeds', 'sweeps_dir')]
            raise UserError(unknown_name('option', f'--{name}', options))

    def expand(self) -> list[Run]:
        """The product of the axes in the order of the file."""
        runs = []
        for label, base in self.bases.items():
            base_config = load_config([base], {})    # once: a config file is Python, and may take long
            for values in itertools.product(*self.axes.values(), *self.data.values()):
                axes = dict(zip((*self.axes, *self.data), values))
                parts = [label] if label else []
                name = in_a_path('_'.join([*parts, *(f'{name}={value}' for name, value in axes.items())]))
                settings = {**self.settings, **{name: axes[name] for name in self.axes}}
                data = {name: str(axes[name]) for name in self.data}
                if label:
                    axes = {'base': label, **axes}
                runs.append(self.new_run(name or Path(base).stem, base, base_config, axes, settings, data))
        return runs

    def new_run(self, name: str, base: str, base_config: Config, axes: dict[str, Any],
                settings: dict[str, Any], data: dict[str, str]) -> Run:
        """Raises `UserError` for settings that are not valid, and for options of data that are not prepared
        here."""
        config = replace(base_config)
        for setting, value in settings.items():
            set_value(config, setting, value)
        script = ROOT / 'data' / config.dataset / 'prepare.py'
        if script.is_file():
            options = ''.join(f'_{name}={value}' for name, value in data.items())
            config.dataset = str(self.folder / 'data' / in_a_path(f'{config.dataset}{options}'))
        elif data:
            raise UserError(f'{self.path}: the dataset {config.dataset} has no prepare.py below data/, so it '
                            'has no options')
        else:
            script = None
        return Run(name, base, axes, {**settings, 'dataset': config.dataset}, data, script, config.check())

    def prepare(self, run: Run, folder: Path | None = None) -> Path:
        """Prepare the data of a run, if that has not been done. folder: where, if not in the sweep's folder.
        -> the folder of the data"""
        place = folder or Path(run.config().dataset)
        if run.script is None:
            return place
        place.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place / '.lock'):    # other processes may prepare the same data
            if not (place / 'meta.pkl').exists():
                # Imported here because it loads torch.
                from tbtt.prepare import prepare_dataset
                try:
                    prepare_dataset(run.script.parent.name, place, **run.data)
                except UserError as error:
                    raise UserError(f'preparing {place.name}: {error}') from error
        return place

    def jobs(self, replicas: int, part: tuple[int, int] = (0, 1)) -> list[Job]:
        """The jobs of the i-th of n parts of the sweep, part = (i, n), with at most `replicas` seeds in a job

        The seeds of a part do not depend on `replicas`, which differs between machines: so all parts together
        are the sweep.
        """
        i, n = part
        R, S = len(self.runs), self.num_seeds
        # Take every n-th run in turn, so that each part gets runs of all sizes.
        order = [run for first in range(min(n, R)) for run in self.runs[first::n]]
        begin, end = i * R * S // n, (i + 1) * R * S // n    # almost equal parts, each run in few of them
        jobs = []
        for k, run in enumerate(order):
            seeds = range(self.seed + max(0, begin - k * S), self.seed + min(S, end - k * S))
            groups = [tuple(seeds[j:j + replicas]) for j in range(0, len(seeds), replicas)]
            jobs += [Job(run, self.folder / run.name, group, len(group) == S) for group in groups]
        return jobs


def in_a_path(text: str) -> str:
    """The text with `+`, `:` and `_` in place of `;`, `/` and blanks, which cause trouble in the name of a
    folder or in a shell."""
    return text.replace(';', '+').replace('/', ':').replace(' ', '_')


def parse(name: str, text: str) -> Any:
    """Convert text to the type of the setting. Raises `InvalidSetting` if that fails."""
    kind = FIELDS[name].type
    try:
        if kind is bool:
            return {'True': True, 'False': False}[text]
        return kind(text)
    except (KeyError, ValueError):
        raise InvalidSetting(f'--{name}={text}: expected {kind.__name__}') from None


def shard(text: str) -> tuple[int, int]:
    """argparse type of --shard: '3/64' -> (3, 64)"""
    try:
        i, n = (int(part) for part in text.split('/'))
        if 0 <= i < n:
            return i, n
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'expected i/N with i from 0 to N-1, such as 0/64, got {text!r}')
