"""Draw how well runs answer what was frequent in training and what was rare.

    python plot_frequency.py facts_skewed_mini_14 facts_skewed_mini_28 facts_skewed_mini_56

Asks the checkpoints of runs on data with frequencies (data/facts_skewed, data/both_skewed; folders of several seeds too)
every question of training ten times, as eval_capitals.py does, and writes frequency.csv (a row a run, seed and question) and
frequency.png (percent recalled against occurrences, a line a run) into --output_dir. Takes seconds.
"""
import argparse
import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tbtt.command import Parser, UserError, run
from tbtt.evaluate import NUM_SAMPLES
from tbtt.figures import save
from tbtt.files import write_file
from tbtt.paper import TASKS
from tbtt.run import LATEST
from tbtt.trained import Trained, find_checkpoints

COLUMNS = ('run', 'parameters', 'seed', 'task', 'question', 'occurrences', 'recalled')


def ask(folder, args):
    """Every seed of a run. -> rows of COLUMNS; `recalled` is percent of the samples that are right"""
    folder = Path(folder)
    rows = []
    for place in find_checkpoints(folder, args.ckpt):
        trained = Trained(argparse.Namespace(out_dir=place, ckpt=args.ckpt, device=args.device, seed=None))
        asked = [name for name, task in trained.tasks.items() if task.repeats is not None]
        if not asked:
            raise UserError(f'{trained.path} was trained on data without frequencies: train on facts_skewed or both_skewed')
        for name in asked:
            task, right, _ = trained.ask(name)
            rows += [(folder.name, trained.num_params, int(trained.seeds[0]), name, prompt, times, 100 * count / NUM_SAMPLES)
                     for prompt, times, count in zip(task.prompts, task.repeats, right.tolist()) if times]
    return rows


def octaves(occurrences, recalled):
    """Means over questions of about one frequency: 1, 2 to 3, 4 to 7, ... -> their geometric mean, mean, standard error"""
    bins = np.floor(np.log2(occurrences)).astype(int)
    found = []
    for each in np.unique(bins):
        x, y = occurrences[bins == each], recalled[bins == each]
        found.append((np.exp(np.log(x).mean()), y.mean(), y.std(ddof=1) / np.sqrt(len(y)) if len(y) > 1 else 0.0))
    return np.array(found).T


def draw_frequency(rows):
    """A panel a task, a line a run: means over an octave of occurrences with their standard error, a faint dot a question."""
    tasks = list(dict.fromkeys(row[3] for row in rows))
    runs = sorted({(row[1], row[0]) for row in rows})
    figure = Figure(figsize=(5.4 * len(tasks) + 0.4, 4.6), layout='constrained')
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks):
        for i, (parameters, name) in enumerate(runs):
            some = [row for row in rows if (row[0], row[3]) == (name, task)]
            if not some:
                continue
            look = dict(color=str(0.7 * (1 - i / max(1, len(runs) - 1))), marker='osD^v'[i % 5])
            questions = sorted({(row[4], row[5]) for row in some})
            x = np.array([times for _, times in questions], float)
            y = np.array([np.mean([row[6] for row in some if row[4] == question]) for question, _ in questions])
            axes.scatter(x, y, s=12, alpha=0.25, linewidth=0, **look)
            middle, mean, error = octaves(x, y)
            seeds = len({row[2] for row in some})
            axes.errorbar(middle, mean, error, capsize=3, linewidth=1.5, markersize=6, linestyle=['-', '--', '-.', ':'][i % 4],
                          label=f'{name}: {parameters:,} parameters, {seeds} seed{"s" * (seeds > 1)}', **look)
        axes.set(ylim=(-4, 104), xlabel='occurrences in training', title=TASKS[task])
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_formatter('{x:g}')
        axes.grid(color='0.93')
        axes.legend(fontsize=8, frameon=False, loc='upper left', bbox_to_anchor=(0, 0.97))
    figure.axes[0].set_ylabel('percent recalled')
    return figure


def main():
    parser = Parser(__doc__)
    parser.add_argument('runs', nargs='+', help='folders of runs')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in these folders (default: {LATEST})')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args = parser.parse_args()
    rows = [row for folder in args.runs for row in ask(folder, args)]
    figure = draw_frequency(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([COLUMNS, *rows])
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_file(args.output_dir / 'frequency.csv', text.getvalue().encode())
    save(figure, args.output_dir / 'frequency.png')
    print(f'wrote frequency.csv and frequency.png into {args.output_dir}')


if __name__ == '__main__':
    run(main)
