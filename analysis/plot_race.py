"""Draw the race between rule, table and order: seen answers, held-out answers and the learned order over
training.

    python analysis/plot_race.py math_mini_14 math_mini_28
    python analysis/plot_race.py sweeps/control_line/n_embd=*
    python analysis/plot_race.py math_mini_14 --output_dir=figures --format=svg
    python analysis/plot_race.py results/race.csv

Reads results.csv of run folders (of one seed or of many) and writes race.png with a panel for each run,
fewest parameters first: the median over seeds, and their range as a band. A run without held-out questions,
or without an order to learn, lacks that line. Takes seconds.

Also writes race.csv, the numbers that are drawn, from which the figure can be drawn again without the runs.
Its columns: panel, title, num_params, seeds, line (seen, heldout or order_learned), iter, and the lowest,
median and highest percent over the seeds.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt.atomic import write_file
from tbtt.figures import (PURPLE, add_format, draw_seeds, iterations_axis, legend_once, look, percent_axis,
                          run_title, save)
from tbtt.results import Results, read_info, read_seeds, seeds_in, seen_percent, stack_seeds
from tbtt.rows import Rows, format_rows, read_rows
from tbtt.tasks import TASKS

# {line: how it is drawn}
LOOKS = {group: look(group) for task in TASKS.values()
         for group in (task.seen_group, task.heldout_group) if group}
LOOKS['order_learned'] = dict(label='Order of the lines learned', color=PURPLE, linestyle='--', linewidth=1.6)
RANGE = ('lowest', 'median', 'highest')    # of the percent over the seeds
COLUMNS = ('panel', 'title', 'num_params', 'seeds', 'line', 'iter', *RANGE)    # of race.csv
TEXTS = ('title', 'line')    # those that are not numbers


def percents(results: Results) -> dict[str, np.ndarray]:
    """What the race is between, {line: (R, T) percent}. results: of R seeds, stacked"""
    found = {}
    for task in TASKS.values():
        if task.seen_group:
            found[task.seen_group] = seen_percent(results, task)
        if task.heldout_group:
            found[task.heldout_group] = results[f'{task.heldout_group}_acc']
    return {**found, 'order_learned': 100 * results['order_learned']}


def measure_run(folder: Path) -> Rows:
    """The rows of race.csv for one run, with 0 for its panel. An evaluation at which a line has no number is
    left out. Raises `UserError` if there is nothing to draw."""
    seeds = seeds_in(folder)
    info, results, rows = read_info(seeds[0]), stack_seeds(read_seeds(seeds)), []
    about = {'panel': 0, 'title': run_title(folder, info, len(seeds)).replace('\n', '; '),
             'num_params': info.get('num_params') or 0, 'seeds': len(seeds)}
    for line, values in percents(results).items():
        for iteration, column in zip(results['iter'], values.T):
            column = column[~np.isnan(column)]
            if len(column):
                spread = zip(RANGE, (column.min(), np.median(column), column.max()))
                rows.append({**about, 'line': line, 'iter': int(iteration), **dict(spread)})
    if not rows:
        raise UserError(f'{folder}: has neither questions nor an order of lines to draw')
    return rows


def read_race(path: Path) -> list[Rows]:
    """The runs of a race.csv, one for each panel. Raises `UserError` if it is damaged."""
    rows = read_rows(path, TEXTS, COLUMNS, 'analysis/plot_race.py')
    if not all(np.isfinite(row[name]) for row in rows for name in COLUMNS if name not in TEXTS):
        raise UserError(f'{path}: a number is missing or not finite: write it with analysis/plot_race.py')
    if unknown := {row['line'] for row in rows} - {*LOOKS}:
        raise UserError(f'{path}: unknown line {min(unknown)!r}, expected one of {", ".join(LOOKS)}')
    panels = sorted({row['panel'] for row in rows})
    return [[row for row in rows if row['panel'] == panel] for panel in panels]


def draw_run(axes: Axes, rows: Rows) -> None:
    """The lines of one run."""
    for line in dict.fromkeys(row['line'] for row in rows):
        points = np.array([[row['iter'], *(row[name] for name in RANGE)]
                           for row in rows if row['line'] == line]).T
        # The lowest, median and highest of the seeds have the same median and the same range as all seeds.
        draw_seeds(axes, points[0], points[1:], LOOKS[line])
    percent_axis(axes)
    axes.set_ylim(-4, 105)
    iterations_axis(axes, max(row['iter'] for row in rows))
    axes.spines['right'].set_visible(False)


def draw_race(runs: list[Rows]) -> Figure:
    """A figure with a panel for each run."""
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 0.8 + 2.9 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(runs):]:
        axes.set_axis_off()
    for axes, lines in zip(panels.flat, runs):
        draw_run(axes, lines)
        axes.set_title(lines[0]['title'].replace('; ', '\n'), fontsize=10)
    for row in panels:
        row[0].set_ylabel('Percent')
    several = any(lines[0]['seeds'] > 1 for lines in runs)
    legend_once(figure, ncols=3, title='median and range over the seeds' if several else None)
    return figure


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('folders', nargs='+', type=Path, 
                        help='run folders, such as math_mini_14, or a race.csv')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    runs = [lines for path in args.folders
            for lines in (read_race(path) if path.suffix == '.csv' else [measure_run(path)])]
    runs.sort(key=lambda lines: lines[0]['num_params'])
    figure, table = args.output_dir / f'race.{args.format}', args.output_dir / 'race.csv'
    save(draw_race(runs), figure)
    write_file(table, format_rows([{**row, 'panel': panel} for panel, lines in enumerate(runs, 1)
                                   for row in lines]).encode())
    print(f'wrote {figure} and {table}')


if __name__ == '__main__':
    run(main)
