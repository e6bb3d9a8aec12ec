"""Draw how well runs answer what was frequent in training and what was rare.

    python analysis/plot_frequency.py frequency.csv
    python analysis/plot_frequency.py results/facts_skewed/frequency.csv --beside=older --format=svg

Reads frequency.csv, which analysis/eval_frequency.py writes, and writes frequency.png (percent recalled
against occurrences, a line for each run) beside it or into --output_dir. Takes a second.
"""
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt import paper
from tbtt.figures import BEHIND, add_format, legend_once, model_looks, percent_axis, save
from tbtt.frequency import Recall, octaves, read_frequency, recall_of, runs_of


def draw_frequency(rows: Sequence[Recall], beside: Sequence[Recall] = (), name: str = '') -> Figure:
    """A panel for each task and a line for each run: means over octaves of occurrences with their standard
    error; a faint dot is a question. beside: rows of another folder, called `name`, drawn behind in grey"""
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(4.4 * len(tasks) + 0.6, 4.8), layout='constrained')
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks):
        for asked in runs_of(beside, task):
            found = octaves(*recall_of(beside, asked.name, task)).values()
            axes.plot([each.occurrences for each in found], [each.recalled for each in found],
                      **BEHIND, label=f'{name}, beside')
        draw_task(axes, rows, task)
        percent_axis(axes)
        axes.set(ylim=(-4, 105), xlabel='Occurrences in training', title=paper.title(task))
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_formatter('{x:g}')
        axes.spines['right'].set_visible(False)
    figure.axes[0].set_ylabel('Recalled (%)')
    legend_once(figure, title='means with their standard error; a faint dot is a question')
    return figure


def draw_task(axes: Axes, rows: Sequence[Recall], task: str) -> None:
    """The runs that were asked a task, from the smallest model (dark) to the largest (light)."""
    runs = runs_of(rows, task)
    for asked, style in zip(runs, model_looks([each.parameters for each in runs])):
        questions = recall_of(rows, asked.name, task)
        axes.scatter(*questions, s=14, alpha=0.3, linewidth=0, color=style['color'], marker=style['marker'])
        x, mean, error, _ = np.array(list(octaves(*questions).values())).T
        seeds = f'{asked.seeds} seed{"" if asked.seeds == 1 else "s"}'
        axes.errorbar(x, mean, error, capsize=3, linewidth=1.5, markersize=6,
                      label=f'{asked.name}: {asked.parameters:,} parameters, {seeds}', **style)


def main() -> None:
    """Draw the table that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('table', type=Path, help='frequency.csv of eval_frequency.py')
    parser.add_argument('--beside', type=Path, metavar='FOLDER',
                        help='another folder with a frequency.csv, in grey behind')
    parser.add_argument('--output_dir', type=Path, help='where to write (default: beside the table)')
    add_format(parser)
    args = parser.parse_args()
    beside = read_frequency(args.beside / 'frequency.csv') if args.beside else []
    name = args.beside.resolve().name if args.beside else ''
    figure = draw_frequency(read_frequency(args.table), beside, name)
    output = (args.output_dir or args.table.parent) / f'frequency.{args.format}'
    save(figure, output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
