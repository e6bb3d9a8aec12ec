"""The paper's twelve runs (arXiv 2506.09099): what they are called, how large they are, and what the paper found."""
import csv
from pathlib import Path

from tbtt.cli import UserError

ITERS = 30_000                                                  # iterations of every run
TASKS = {'math': 'Arithmetic', 'facts': 'Facts', 'both': 'Arithmetic and facts'}
MODELS = {'n14': 'mini_14', 'n28': 'mini_28', 'n56': 'mini_56', 'MLT': 'mlt'}
NUM_PARAMS = {'math': (1456, 5264, 19936, 10628352), 'facts': (1932, 6216, 21840, 10641408),
              'both': (2142, 6636, 22680, 10647168)}           # in the order of MODELS, position embeddings not counted


def add_options(parser):
    """The options of a script that reads the twelve runs."""
    parser.add_argument('--wd', action='store_true', help='the twins with weight decay 0.1 and no dropout')
    parser.add_argument('--root_dir', default='.', type=existing_folder, help='where the run folders are (default: .)')


def existing_folder(text):
    """argparse type of a folder that is there."""
    if not Path(text).is_dir():
        raise UserError(f'no folder {text}: name the one that holds math_mini_14 and the other runs')
    return Path(text)


def run_name(task, model, wd=False):
    """The folder of a run: math_mini_14, or math_mini_14_wd for its twin with weight decay."""
    return f'{task}_{MODELS[model]}' + '_wd' * wd


def train_command(name):
    """What to type to make the run of this name."""
    return f'python train_with_eval.py config/train_{name}.py'


def num_params(name):
    """Parameters of the paper's model in the run folder `name`, either twin; None for a folder of another name."""
    sizes = {run_name(task, model): size for task in TASKS for model, size in zip(MODELS, NUM_PARAMS[task])}
    return sizes.get(name.removesuffix('_wd'))


def published():
    """{(task, model): row of data/paper_tables.csv} of Tables 2, 3 and 4, every number as the paper prints it."""
    with open(Path(__file__).parents[1] / 'data' / 'paper_tables.csv', encoding='utf-8', newline='') as file:
        rows = {(row['task'], row['model']): row for row in csv.DictReader(file)}
    return {(task, model): rows[task, model.lower()] for task in TASKS for model in MODELS}
