"""Draw the race between rule, table and order: seen answers, held-out answers and the learned order over
training.

    python analysis/plot_race.py math_mini_14 math_mini_28
    python analysis/plot_race.py sweeps/control_line/n_embd=*
    python analysis/plot_race.py math_mini_14 --output_dir=figures --format=svg

Reads results.csv of run folders (of one seed or of many) and writes race.png with a panel for each run,
fewest parameters first: the median over seeds, and their range as a band. A run without held-out questions,
or without an order to learn, lacks that line. Takes seconds.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, run    # first: it names missing packages

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt.figures import (PURPLE, add_format, draw_seeds, iterations_axis, legend_once, look, percent_axis,
                          run_title, save)
from tbtt.results import Results, read_info, read_seeds, seeds_in, seen_percent, stack_seeds
from tbtt.tasks import TASKS

ORDER = dict(label='Order of the lines learned', color=PURPLE, linestyle='--', linewidth=1.6)


def read_run(folder: Path) -> tuple[dict, Results]:
    """-> run.json of the first seed, and the results of all seeds, stacked"""
    seeds = seeds_in(folder)
    return read_info(seeds[0]), stack_seeds(read_seeds(seeds))


def draw_run(axes: Axes, results: Results) -> None:
    """The lines of one run. results: stacked"""
    x = results['iter']
    for task in TASKS.values():
        if task.seen_group:
            draw_seeds(axes, x, seen_percent(results, task), look(task.seen_group))
        if task.heldout_group:
            draw_seeds(axes, x, results[f'{task.heldout_group}_acc'], look(task.heldout_group))
    draw_seeds(axes, x, 100 * results['order_learned'], ORDER)
    percent_axis(axes)
    axes.set_ylim(-4, 105)
    iterations_axis(axes, x[-1])
    axes.spines['right'].set_visible(False)


def draw_race(folders: list[Path]) -> Figure:
    """A figure with a panel for each run."""
    runs = sorted(((folder, *read_run(folder)) for folder in folders),
                  key=lambda run: run[1].get('num_params') or 0)
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 0.8 + 2.9 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(runs):]:
        axes.set_axis_off()
    for axes, (folder, info, results) in zip(panels.flat, runs):
        draw_run(axes, results)
        axes.set_title(run_title(folder, info, len(results['train_loss'])), fontsize=10)
    for row in panels:
        row[0].set_ylabel('Percent')
    several = any(len(results['train_loss']) > 1 for *_, results in runs)
    legend_once(figure, ncols=3, title='median and range over the seeds' if several else None)
    return figure


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('folders', nargs='+', type=Path, help='run folders, such as math_mini_14')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    output = args.output_dir / f'race.{args.format}'
    save(draw_race(args.folders), output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
