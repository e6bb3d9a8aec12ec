"""Draw how well runs answer what was frequent in training and what was rare.

    python analysis/plot_frequency.py facts_skewed_mini_14 facts_skewed_mini_28 facts_skewed_mini_56

Asks the checkpoints of runs on data with frequencies (data/facts_skewed, data/both_skewed; folders of several seeds too)
every question of training ten times, as eval_capitals.py does, prints how much is recalled of what was how frequent, and
writes frequency.csv (a row a run, seed and question) and frequency.png (percent recalled against occurrences, a line a run)
into --output_dir. Takes seconds.
"""
import csv
import io
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it says what is missing

import numpy as np
from matplotlib.figure import Figure

from tbtt import figures
from tbtt.evaluate import NUM_SAMPLES
from tbtt.figures import save
from tbtt.atomic import write_file
from tbtt.paper import TASKS
from tbtt.run_folder import LATEST
from tbtt.inference import find_checkpoints, load_model


class Row(NamedTuple):
    """What one seed of a run says to one question of its training."""
    run: str
    parameters: int
    seed: int
    task: str
    question: str
    occurrences: int    # in the training data
    recalled: float     # percent of the samples that are right


def ask(folder, args):
    """Every seed of a run. -> list of `Row`"""
    rows = []
    for place in find_checkpoints(folder, args.ckpt):
        trained = load_model(place / args.ckpt, args.device)
        asked = [name for name, task in trained.tasks.items() if task.repeats is not None]
        if not asked:
            raise UserError(f'{trained.path} was trained on data without frequencies: train on facts_skewed or both_skewed')
        for name in asked:
            task, right, _ = trained.ask(name)
            rows += [Row(str(folder), trained.num_params, int(trained.seeds[0]), name, prompt, times,
                         100 * count / NUM_SAMPLES)
                     for prompt, times, count in zip(task.prompts, task.repeats, right.tolist()) if times]
    return rows


def recall(rows, run, task):
    """-> occurrences of each question of a task, and percent recalled, the mean over the seeds of the run: (Q,) each"""
    found = defaultdict(list)
    for row in rows:
        if (row.run, row.task) == (run, task):
            found[row.question, row.occurrences].append(row.recalled)
    return np.array([times for _, times in found], float), np.array([np.mean(each) for each in found.values()])


def octaves(occurrences, recalled):
    """Questions of about one frequency: 1, 2 to 3, 4 to 7, ... -> {octave: (geometric mean of their occurrences, mean of what
    is recalled, its standard error, number of questions)}"""
    bins = np.floor(np.log2(occurrences)).astype(int)
    found = {}
    for octave in np.unique(bins).tolist():
        x, y = occurrences[bins == octave], recalled[bins == octave]
        error = y.std(ddof=1) / np.sqrt(len(y)) if len(y) > 1 else 0.0
        found[octave] = np.exp(np.log(x).mean()), y.mean(), error, len(y)
    return found


def runs_of(rows, task):
    """-> [(name, parameters, number of seeds)], the smallest model first"""
    names = sorted({(row.parameters, row.run) for row in rows if row.task == task})
    return [(name, parameters, len({row.seed for row in rows if row.run == name})) for parameters, name in names]


def draw_frequency(rows):
    """A panel a task, a line a run: means over an octave of occurrences with their standard error, a faint dot a question."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(5.4 * len(tasks) + 0.4, 5.2), layout='constrained')
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks):
        runs = runs_of(rows, task)
        for i, (name, parameters, seeds) in enumerate(runs):
            look = dict(color=str(0.7 * (1 - i / max(1, len(runs) - 1))), marker='osD^v'[i % 5])
            questions = recall(rows, name, task)
            axes.scatter(*questions, s=12, alpha=0.25, linewidth=0, **look)
            x, mean, error, _ = np.array(list(octaves(*questions).values())).T
            axes.errorbar(x, mean, error, capsize=3, linewidth=1.5, markersize=6, linestyle=['-', '--', '-.', ':'][i % 4],
                          label=f'{name}: {parameters:,} parameters, {seeds} seed{"s" * (seeds > 1)}', **look)
        axes.set(ylim=(-4, 104), xlabel='occurrences in training', title=TASKS[task])
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_formatter('{x:g}')
        axes.grid(color='0.93')
    figure.axes[0].set_ylabel('percent recalled')
    drawn = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(drawn.values(), drawn.keys(), loc='outside lower center', frameon=False)
    return figure


def table(rows):
    """Markdown, a table a task: percent recalled by how often a question occurred, a line a run."""
    parts = []
    for task in dict.fromkeys(row.task for row in rows):
        found = {run: octaves(*recall(rows, run[0], task)) for run in runs_of(rows, task)}
        columns = sorted({octave for each in found.values() for octave in each})
        heads = ['once' if octave == 0 else f'{2**octave} to {2**(octave + 1) - 1} times' for octave in columns]
        lines = []
        for (name, parameters, seeds), each in found.items():
            cells = [f'{each[octave][1]:.0f}%' if octave in each else '' for octave in columns]
            lines.append([name, f'{parameters:,}', str(seeds), *cells])
        parts.append(figures.markdown_table([task, 'parameters', 'seeds', *heads], lines))
    return '\n\n'.join(parts)


def main():
    parser = Parser(__doc__)
    parser.add_argument('runs', nargs='+', help='folders of runs')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in these folders (default: {LATEST})')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args = parser.parse_args()
    rows = [row for folder in dict.fromkeys(args.runs) for row in ask(folder, args)]
    figure = draw_frequency(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([Row._fields, *rows])
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_file(args.output_dir / 'frequency.csv', text.getvalue().encode())
    save(figure, args.output_dir / 'frequency.png')
    print(f'{table(rows)}\n\nwrote frequency.csv and frequency.png into {args.output_dir}')


if __name__ == '__main__':
    run(main)
