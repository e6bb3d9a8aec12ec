"""What a sweep trains: a sweep file's axes, the runs that they span, and the jobs that the runs are cut into."""
import argparse
import itertools
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from tbtt.cli import InvalidSetting, UserError, unknown_name
from tbtt.config import FIELDS, ROOT, Config, find_file, load_config, names_in, set_value

OWN = {'out_dir', 'dataset', 'init_from', 'overwrite', 'seed', 'num_seeds', 'eval_only'}    # set by the sweep, no axis
ON_CPU = 8     # seeds in one job where nothing else is said: more at once are no faster on a CPU


@dataclass(frozen=True)
class Run:
    """One combination of the axes, for all seeds. base: a config file. axes: {name: value}, of settings and data options,
    `base` first where there are several. settings: what is said on top of the base. data: options of its prepare.py."""
    name: str
    base: str
    axes: dict
    settings: dict
    data: dict

    def config(self):
        """-> Config, checked"""
        return load_config([self.base], self.settings)


@dataclass(frozen=True)
class Job:
    """Seeds of a run that are trained together."""
    run: Run
    folder: Path      # of the run
    seeds: tuple
    whole: bool       # are these all seeds of the run?

    def __str__(self):
        return self.run.name if self.whole else f'{self.run.name}, seeds {self.seeds[0]} to {self.seeds[-1]}'


class Sweep:
    """A sweep file and what the command line says over it. path: the file; overrides: {name: text} of `--name=text`.

    A sweep file sets `base` (a config file, or {label: config file}), `axes` ({setting: values}), `data` ({option of
    prepare.py: values}) and any setting that all runs share. Raises `UserError` where it cannot be.
    """

    def __init__(self, path, overrides=None, root='sweeps'):
        self.path = find_file(path)
        names = names_in(self.path, {})
        base = names.pop('base', None)
        self.bases = base if isinstance(base, dict) else {'': base}
        self.axes, self.data = names.pop('axes', {}), names.pop('data', {})
        self.settings = names
        self.check_file()
        for name, text in (overrides or {}).items():
            self.override(name, text)
        self.check_values()
        config = Config()
        self.seed, self.num_seeds = (self.settings.get(name, getattr(config, name)) for name in ('seed', 'num_seeds'))
        if self.seed + self.num_seeds - 1 > (highest := FIELDS['seed'].metadata['high']):
            raise UserError(f'seed={self.seed} and num_seeds={self.num_seeds}: expected no seed above {highest}')
        self.folder = (Path(root) / self.path.stem.removeprefix('sweep_')).resolve()
        self.runs = self.expand()
        self.check_names()

    def check_file(self):
        """What the names of the file are, before the command line changes their values."""
        if not all(isinstance(text, str) for item in self.bases.items() for text in item) or not self.bases:
            raise UserError(f'{self.path}: base: expected a config file, or several as {{label: config file}}')
        for kind in ('axes', 'data'):
            axes = getattr(self, kind)
            if not isinstance(axes, dict) or not all(isinstance(name, str) for name in axes):
                raise UserError(f'{self.path}: {kind}: expected {{name: list of values}}, the names as texts')
        for name in (*self.axes, *self.settings):
            if name not in FIELDS:
                raise InvalidSetting(f'{self.path}: {unknown_name("setting", name, [*FIELDS, "base", "axes", "data"])}')
        for name in (*self.axes, *(set(self.settings) - {'seed', 'num_seeds'})):
            if name in OWN:
                raise InvalidSetting(f'{self.path}: {name} is chosen by the sweep itself')

    def check_values(self):
        """The values, wherever they were said, become those of their settings: 0 and 0.0 are one weight decay."""
        for kind in ('axes', 'data'):
            axes = getattr(self, kind)
            for name, values in axes.items():
                if not isinstance(values, (list, tuple)) or not values:
                    raise UserError(f'{self.path}: {kind}: {name}: expected {{name: list of values}}, none of them empty')
                axes[name] = [self.convert(name, value) if kind == 'axes' else value for value in values]
                if None in values:
                    raise UserError(f'{self.path}: {kind}: {name}: None is no value: leave it out, or say which is meant')
                if len({str(value) for value in axes[name]}) < len(values):
                    raise UserError(f'{self.path}: {kind}: {name} has a value twice')
        self.settings = {name: self.convert(name, value) for name, value in self.settings.items()}

    def convert(self, name, value):
        """A setting's value as a run would have it."""
        config = Config()
        try:
            set_value(config, name, value)
        except InvalidSetting as error:
            raise InvalidSetting(f'{self.path}: {error}') from error
        return getattr(config, name)

    def check_names(self):
        """Raise `UserError` unless every run has a folder of its own, and none that would be hidden or elsewhere."""
        names = [run.name for run in self.runs]
        for name in (self.folder.name, *names):
            if name.startswith('.') or name in ('data', 'summary.csv') and name in names:
                raise UserError(f'{self.path}: no run can be named {name}: choose another label, or another name of the file')
        for name in names:
            if names.count(name) > 1:
                raise UserError(f'{self.path}: two runs would be named {name}: choose labels and values that differ')

    def override(self, name, text):
        """`--name=text`: of an axis the values, separated by commas (of a data option by blanks); else a setting."""
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
            raise UserError(unknown_name('option', f'--{name}', [f'--{known}' for known in (*FIELDS, *self.data, 'base')]))

    def expand(self):
        """-> list of Run, the product of the axes in the order of the file"""
        axes = {**{f'axes {name}': values for name, values in self.axes.items()},
                **{f'data {name}': values for name, values in self.data.items()}}
        runs = []
        for label, base in self.bases.items():
            for values in itertools.product(*axes.values()):
                chosen = dict(zip(axes, values))
                settings = {**self.settings, **{n[5:]: v for n, v in chosen.items() if n.startswith('axes ')}}
                data = {n[5:]: str(v) for n, v in chosen.items() if n.startswith('data ')}
                named = {n[5:]: v for n, v in chosen.items()}
                parts = [label] * bool(label) + [f'{name}={value}' for name, value in named.items()]
                name = in_a_path('_'.join(parts)) or Path(base).stem
                run = Run(name, base, {**({'base': label} if label else {}), **named}, settings, data)
                dataset = self.dataset_folder(run)
                run = replace(run, settings={**settings, 'dataset': str(dataset) if dataset else run.config().dataset})
                run.config()    # raises where the settings cannot be
                runs.append(run)
        return runs

    def dataset_folder(self, run):
        """Where the data of a run are prepared, or None for a dataset that has no prepare.py among ours."""
        dataset = run.config().dataset
        if not (ROOT / 'data' / dataset / 'prepare.py').is_file():
            if run.data:
                raise UserError(f'{self.path}: the dataset {dataset} has no prepare.py below data/, so it has no options')
            return None
        options = ''.join(f'_{name}={value}' for name, value in run.data.items())
        return self.folder / 'data' / in_a_path(f'{dataset}{options}')

    def prepare(self, run):
        """Prepare the data of a run, where that has not been done."""
        folder = Path(run.settings['dataset'])
        if folder.parent != self.folder / 'data':
            return
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / '.lock'):    # other processes may want the same
            if (folder / 'meta.pkl').exists():
                return
            script = ROOT / 'data' / load_config([run.base], {}).dataset / 'prepare.py'
            options = [f'--{name}={value}' for name, value in run.data.items()]
            done = subprocess.run([sys.executable, str(script), f'--out_dir={folder}', *options], capture_output=True,
                                  text=True)
            if done.returncode:
                raise UserError(f'preparing {folder.name}: {done.stderr.strip().removeprefix("error: ")}')

    def jobs(self, replicas, part=(0, 1)):
        """-> list of Job: the seeds of every run that are the i-th of n parts', part = (i, n), at most `replicas` together

        What a part has does not depend on `replicas`, which differs between machines: all parts together are the sweep.
        """
        i, n = part
        R, S = len(self.runs), self.num_seeds
        order = [run for first in range(min(n, R)) for run in self.runs[first::n]]    # runs of all sizes to every part
        begin, end = i * R * S // n, (i + 1) * R * S // n    # as equal as can be, and each run in few parts
        jobs = []
        for k, run in enumerate(order):
            seeds = range(self.seed + max(0, begin - k * S), self.seed + min(S, end - k * S))
            jobs += [Job(run, self.folder / run.name, tuple(seeds[j:j + replicas]), len(seeds[j:j + replicas]) == S)
                     for j in range(0, len(seeds), replicas)]
        return jobs


def in_a_path(text):
    """A name that neither a folder nor a shell stumbles over."""
    return text.replace(';', '+').replace('/', ':').replace(' ', '_')


def parse(name, text):
    """The value of a setting as its field's type would read it."""
    kind = FIELDS[name].type
    try:
        if kind is bool:
            return {'True': True, 'False': False}[text]
        return kind(text)
    except (KeyError, ValueError):
        raise InvalidSetting(f'--{name}={text}: expected {kind.__name__}') from None


def shard(text):
    """argparse type of --shard: '3/64' -> (3, 64)"""
    try:
        i, n = (int(part) for part in text.split('/'))
        if 0 <= i < n:
            return i, n
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'expected i/N with i from 0 to N-1, such as 0/64, got {text!r}')
