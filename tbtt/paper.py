"""The paper's twelve runs (arXiv 2506.09099): what they are called, how they are trained, and what the paper
found."""
import argparse
import csv
import functools
from pathlib import Path
from typing import NamedTuple

from tbtt.cli import UserError
from tbtt.config import ROOT, load_config
from tbtt.tasks import TASKS, Task


class Experiment(NamedTuple):
    """Tasks that are trained together. grid: the name of the figure of its four models."""
    tasks: tuple[str, ...]
    grid: str


# {first word of the runs' names: experiment}
EXPERIMENTS = {'math': Experiment(('math',), 'grid_math'), 'facts': Experiment(('facts',), 'grid_facts'),
               'both': Experiment(('math', 'facts'), 'grid_combined')}
MODELS = {'n14': 'mini_14', 'n28': 'mini_28', 'n56': 'mini_56', 'MLT': 'mlt'}
# Parameters in the order of MODELS, position embeddings not counted.
NUM_PARAMS = {'math': (1456, 5264, 19936, 10628352), 'facts': (1932, 6216, 21840, 10641408),
              'both': (2142, 6636, 22680, 10647168)}
ITERS = 30_000    # iterations of every run
# The settings that make a run: its model, how its weights are kept small, and the rest of its training.
SHAPE = ('n_layer', 'n_head', 'n_embd', 'mlp_expansion')
REGULARISATION = ('dropout', 'weight_decay')
TRAINING = ('block_size', 'bias', 'batch_size', 'gradient_accumulation_steps', 'learning_rate', 'min_lr',
            'warmup_iters',
            'lr_decay_iters', 'decay_lr', 'beta1', 'beta2', 'grad_clip', 'windows', 'line_order')


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a script that reads the twelve runs."""
    parser.add_argument('--wd', action='store_true', help='the runs with weight decay 0.1 and no dropout')
    parser.add_argument('--root_dir', default='.', type=existing_folder,
                        help='where the run folders are (default: .)')
    parser.add_argument('--beside', type=existing_folder, metavar='FOLDER',
                        help='another folder with such runs, to be shown beside these')


def existing_folder(text: str) -> Path:
    """argparse type of a folder that exists."""
    if not Path(text).is_dir():
        raise UserError(f'no folder {text}: name the one that holds math_mini_14 and the other runs')
    return Path(text)


def run_name(experiment: str, model: str, wd: bool = False) -> str:
    """The folder of a run: math_mini_14, or math_mini_14_wd with weight decay."""
    return f'{experiment}_{MODELS[model]}' + ('_wd' if wd else '')


def train_command(name: str) -> str:
    """What to type to make the run of this name."""
    return f'python train_with_eval.py config/train_{name}.py'


def tasks_of(experiment: str) -> list[type[Task]]:
    """The classes of the tasks that are trained together."""
    return [TASKS[name] for name in EXPERIMENTS[experiment].tasks]


def tasks_column(experiment: str) -> str:
    """An experiment as the column `tasks` of summary.csv has it: math, facts, or math+facts."""
    return '+'.join(EXPERIMENTS[experiment].tasks)


def title(tasks: str) -> str:
    """The name of tasks that are trained together, in figures and tables. tasks: math, math+facts, ...; other
    tasks keep their own names"""
    if not set(tasks.split('+')) <= set(TASKS):
        return tasks
    first, *others = (TASKS[name].label for name in tasks.split('+'))
    return ' and '.join([first, *(label.lower() for label in others)])


def num_params(name: str) -> int | None:
    """Parameters of the paper's model in the run folder `name`, with or without `_wd`; None for a folder with
    another name."""
    sizes = {run_name(experiment, model): size for experiment in EXPERIMENTS
             for model, size in zip(MODELS, NUM_PARAMS[experiment])}
    return sizes.get(name.removesuffix('_wd'))


@functools.cache
def recipe(experiment: str, model: str, wd: bool = False) -> dict:
    """How a run is trained, from its config file: {setting: value} of SHAPE, REGULARISATION, TRAINING and
    max_iters."""
    config = load_config([ROOT / 'config' / f'train_{run_name(experiment, model, wd)}.py'], {})
    return {name: getattr(config, name) for name in (*SHAPE, *REGULARISATION, *TRAINING, 'max_iters')}


@functools.cache
def published() -> dict[tuple[str, str], dict[str, str]]:
    """{(experiment, model): row of data/paper_tables.csv} of Tables 2, 3 and 4, every number as the paper
    prints it."""
    with open(ROOT / 'data' / 'paper_tables.csv', encoding='utf-8', newline='') as file:
        rows = {(row['task'], row['model']): row for row in csv.DictReader(file)}
    return {(experiment, model): rows[experiment, model.lower()] for experiment in EXPERIMENTS
            for model in MODELS}


def stopped(last: int, info: dict, iters: int = ITERS) -> str:
    """A note such as `stopped at 3,000, bfloat16, CPU` for a run whose last evaluation is before `iters`,
    otherwise ''. info: its run.json"""
    if last >= iters:
        return ''
    dtype = info.get('dtype') or 'float32'
    on_cpu = (info.get('hardware') or '').endswith('threads')    # as tbtt.provenance names a CPU
    marks = [f'stopped at {last:,}', dtype if dtype != 'float32' else '', 'CPU' if on_cpu else '']
    return ', '.join(filter(None, marks))


def percent_column(score: str) -> str:
    """The column of data/paper_tables.csv that has a score in percent: addition_pct for the group `add`."""
    labels = {group: label for task in TASKS.values() for group, label in task.labels.items()}
    return f'{labels.get(score, score).lower()}_pct'


def published_percent(experiment: str, model: str, score: str) -> float:
    """A score as the paper prints it, in percent; NaN where it prints none. score: a group of questions, or
    combined"""
    return float(published()[experiment, model].get(percent_column(score)) or 'nan')


def published_heldout(experiment: str, model: str) -> tuple[int, int] | None:
    """Right held-out answers in the paper and how many were asked, or None where nothing is held out."""
    row = published()[experiment, model]
    return (int(row['heldout_correct']), int(row['heldout_total'])) if row['heldout_total'] else None
