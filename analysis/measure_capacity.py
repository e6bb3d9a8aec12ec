"""Measure how many bits a model can memorise: train on more and more random answers and random strings.

    python analysis/measure_capacity.py config/sweep_bits_table.py config/sweep_bits_strings.py
    python analysis/measure_capacity.py config/sweep_bits_table.py --n_embd=14,28 --sweeps_dir=sweeps
    python analysis/measure_capacity.py config/sweep_bits_table.py --train=False    (what is there already)

Trains the sweeps with sweep.py, which skips finished seeds and resumes the others, and passes --key=value on
to it. Then asks every finished seed for the probability of each answer, and writes into --output_dir:

    bits.csv           one row per seed: the bits that its data offer, and how many of them it has memorised
    bits_plateau.csv   one row per width: the most bits that it memorises of any offer, and the same per
                       parameter; means over seeds with half a 95% interval (Student's t). `bends` is 1 if at
                       least a fifth of the largest offer is not memorised; if it is 0, larger tables may
                       show more
    bits_asked.csv     the bits that the paper's tasks ask for

Memorised bits are the sum over answers of max(0, log2 p - log2 q): p is the model's probability of the right
answer, q the share of that answer among all answers. Measuring takes seconds; training a seed takes as
long as in any sweep. analysis/plot_bits.py draws the files.
"""
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, join_values, run, true_or_false    # first: it names missing packages

import numpy as np

from tbtt.atomic import write_file
from tbtt.bits import bits_of_the_papers_tasks, memorised_bits, offered_bits, questions_of
from tbtt.config import ROOT
from tbtt.dataset import Dataset
from tbtt.evaluate import AnswerWindows
from tbtt.inference import load_model
from tbtt.results import find_seeds, read_info
from tbtt.rows import format_rows
from tbtt.layout import LATEST
from tbtt.stats import mean_interval
from tbtt.sweep.plan import Sweep

ROOM = 0.8    # the curve bends if at most this share of the largest offer is memorised


def train(path: str, overrides: dict[str, str], sweeps_dir: str) -> None:
    """Train a sweep to its end. Raises `UserError` if it fails."""
    options = [f'--{name}={value}' for name, value in overrides.items()]
    command = [sys.executable, str(ROOT / 'sweep.py'), path, f'--sweeps_dir={sweeps_dir}', *options]
    if subprocess.run(command).returncode:
        raise UserError(f'{path}: the sweep did not finish; call this again to continue, or measure with '
                        '--train=False')


def measure_seed(folder: Path, dataset: Dataset) -> dict:
    """The row of one finished seed. folder: of its checkpoint. Raises `UserError` if it was not trained on
    `dataset`."""
    trained = load_model(folder / LATEST, 'cpu')
    if trained.digest != dataset.digest:
        raise UserError(f'{folder} was trained on other data than {dataset.folder} holds: prepare them as '
                        'they were')
    questions = questions_of(dataset)
    windows = AnswerWindows(questions, trained.codec, trained.config.block_size, trained.device)
    log2_p = windows.log_answers(trained.forward, 2**20)[0] / np.log(2)
    return {'n_embd': trained.config.n_embd, 'num_params': trained.num_params, 'seed': int(trained.seeds[0]),
            'iter': trained.iteration, 'answers': len(questions.answers),
            'bits_offered': offered_bits(questions),
            'bits_memorised': float(memorised_bits(log2_p, questions.bits))}


def measure(sweep: Sweep) -> list[dict]:
    """A row for each seed of a sweep that is finished and did not diverge."""
    rows, seeds = [], range(sweep.seed, sweep.seed + sweep.num_seeds)
    for each in sweep.runs:
        config = each.config()
        for folder in find_seeds(sweep.folder / each.name):
            info = read_info(folder)
            if info.get('finished') and info.get('diverged') is None and info.get('seed') in seeds:
                row = measure_seed(folder, Dataset(config.dataset, config.block_size))
                rows.append({'sweep': sweep.folder.name, 'run': each.name, **row})
    return rows


def plateaus(rows: list[dict]) -> list[dict]:
    """A row for each width of each sweep: the most bits that its seeds memorise of any offer."""
    found = []
    for sweep, width in sorted({(row['sweep'], row['n_embd']) for row in rows}):
        ours = [row for row in rows if (row['sweep'], row['n_embd']) == (sweep, width)]
        seeds = sorted({row['seed'] for row in ours})
        most = [max(row['bits_memorised'] for row in ours if row['seed'] == seed) for seed in seeds]
        largest = max(row['bits_offered'] for row in ours)
        left = [row['bits_memorised'] for row in ours if row['bits_offered'] == largest]
        size = max(row['num_params'] for row in ours)    # a small table may lack a digit: a smaller model
        mean, half = mean_interval(most)
        found.append({'sweep': sweep, 'n_embd': width, 'num_params': size, 'seeds': len(seeds),
                      'iter': max(row['iter'] for row in ours), 'plateau': mean, 'plateau_half': half,
                      'bits_per_param': mean / size, 'bits_per_param_half': half / size,
                      'largest_offer': largest, 'bends': int(np.mean(left) <= ROOM * largest)})
    return found


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write rows as a CSV file, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, format_rows(rows).encode())
    print(f'wrote {path}')


def main() -> None:
    """Train, measure, write."""
    parser = Parser(__doc__)
    parser.add_argument('sweeps', nargs='+', help='sweep files, such as config/sweep_bits_table.py')
    parser.add_argument('--train', type=true_or_false, default=True, metavar='BOOL',
                        help='train what is not finished (default: True)')
    parser.add_argument('--sweeps_dir', default='sweeps', help='where sweeps are (default: sweeps)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args, rest = parser.parse_known_args(join_values(sys.argv[1:], parser))
    if wrong := [text for text in rest if not text.startswith('--') or '=' not in text]:
        parser.error(f'expected --key=value, got {wrong[0]}')
    overrides = dict(text[2:].split('=', 1) for text in rest)
    rows = []
    # All sweeps are read before the first is trained, so that a typing error is reported at once.
    for path, sweep in [(path, Sweep(path, overrides, args.sweeps_dir)) for path in args.sweeps]:
        if args.train:
            train(path, overrides, args.sweeps_dir)
        rows += measure(sweep)
    if not rows:
        raise UserError(f'no finished seed of {", ".join(args.sweeps)} in {args.sweeps_dir}: train without '
                        '--train=False')
    write_rows(args.output_dir / 'bits.csv', rows)
    write_rows(args.output_dir / 'bits_plateau.csv', plateaus(rows))
    write_rows(args.output_dir / 'bits_asked.csv', [{'what': what, 'bits': bits}
                                                    for what, bits in bits_of_the_papers_tasks().items()])


if __name__ == '__main__':
    run(main)
