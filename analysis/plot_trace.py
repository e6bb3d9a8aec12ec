"""Draw what analysis/trace_memorization.py found: rank correlations between a model's probabilities and its
data's.

    python analysis/plot_trace.py facts_skewed_mini_14/trace.json
    python analysis/plot_trace.py trace/trace.json --beside=older --format=svg

Reads trace.json, and trace.csv if it is in the same folder, and writes trace.png there or into --output_dir.
Each task has a row of panels: the model's log-probabilities against the data's (only with trace.csv),
Spearman's coefficient against the length of the n-grams and, for several models, against their parameters.
Takes a second.
"""
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt import paper
from tbtt.figures import BEHIND, MARKERS, add_format, legend_once, model_looks, save
from tbtt.trace.memorization import DATA_MODELS, computed

ASIDE = 0.04    # between series that are drawn side by side: in n, and as a share of the parameters


class Point(NamedTuple):
    """The drawn columns of a row of trace.csv. Log-probabilities are natural logarithms."""
    model: str
    task: str
    n: int
    task_gram_logp: float
    model_logp: float


def read_trace(path: Path) -> tuple[list[dict], list[Point]]:
    """-> the models of trace.json, with lengths of n-grams as numbers, and the points of the trace.csv beside
    it ([] without one)

    Raises `UserError`, naming the file, if it is not a trace.
    """
    try:
        models = json.loads(path.read_text(encoding='utf-8'))['models']
        for model in models:
            model['tasks'] = {task: {int(n): cell for n, cell in cells.items()}
                              for task, cells in model['tasks'].items()}
            model['model'], model['parameters'], model['corpus']['unit']
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: no trace.json written by trace_memorization.py ({type(error).__name__}: '
                        f'{error})') from error
    table = path.with_name('trace.csv')
    if not table.exists():
        return models, []
    try:
        with open(table, newline='', encoding='utf-8') as file:
            return models, [Point(row['model'], row['task'], int(row['n']), float(row['task_gram_logp']),
                                  float(row['model_logp'])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{table}: no trace.csv written by trace_memorization.py ({type(error).__name__}: '
                        f'{error})') from error


def traced_tasks(models: Sequence[dict]) -> list[str]:
    """The tasks that have a coefficient."""
    return [task for task in dict.fromkeys(task for model in models for task in model['tasks'])
            if any(computed(cell, kind) for model in models for cell in model['tasks'].get(task, {}).values()
                   for kind in DATA_MODELS)]


def draw_trace(models: Sequence[dict], points: Sequence[Point], beside: Sequence[dict] = ()) -> Figure:
    """A row of panels for each task that has a coefficient; if no task has, a figure that says so."""
    tasks = traced_tasks(models)
    before, behind = int(bool(points)), int(len(models) > 1)    # panels on both sides of that of lengths
    columns = before + 1 + behind
    figure = Figure(figsize=(1 + 3.6 * columns, 3.2 * max(1, len(tasks)) + 0.8), layout='constrained')
    if not tasks:
        figure.text(0.5, 0.5, 'too few points for a correlation: trace.json says why', ha='center',
                    va='center')
        return figure
    colours = [each['color'] for each in model_looks([model['parameters'] for model in models])]
    grid = figure.subplots(len(tasks), columns, squeeze=False)
    for panels, task in zip(grid, tasks):
        if points:
            draw_points(panels[0], task, models, points, colours)
        draw_lengths(panels[before], task, models, colours, beside)
        if behind:
            draw_sizes(panels[-1], task, models)
    legend_once(figure, list(grid[:, :columns - behind].flat), ncols=2)
    return figure


def draw_points(axes: Axes, task: str, models: Sequence[dict], points: Sequence[Point],
                colours: Sequence) -> None:
    """Log-probabilities at the n with the most points (the smallest such n); the last model lies below all
    others."""
    sizes = Counter(point.n for point in points if point.task == task)
    n = max(sorted(sizes), key=sizes.get)
    for i, (model, colour) in enumerate(zip(models, colours)):
        some = [(point.task_gram_logp, point.model_logp) for point in points
                if (point.model, point.task, point.n) == (model['model'], task, n)]
        axes.plot(*np.array(some).reshape(-1, 2).T, MARKERS[i % len(MARKERS)], color=colour, alpha=0.4,
                  markersize=3, zorder=3 - 0.1 * i, label=model['model'])
    axes.set(title=f'{paper.title(task)}, n = {n}', xlabel='Task-gram log-probability (nats)',
             ylabel="Model's log-probability (nats)")
    axes.grid(color='0.92')


def draw_lengths(axes: Axes, task: str, models: Sequence[dict], colours: Sequence,
                 beside: Sequence[dict]) -> None:
    """Spearman's coefficient against n, with intervals; models are shifted, so that none hides another."""
    for other in beside:
        cells = sorted((n, found) for n, cell in other['tasks'].get(task, {}).items()
                       if (found := computed(cell, 'task_gram')))
        axes.plot([n for n, _ in cells], [found['coefficient'] for _, found in cells],
                  **BEHIND, label=f'{other["model"]}, beside')
    for i, (model, colour) in enumerate(zip(models, colours)):
        aside = ASIDE * (i - (len(models) - 1) / 2)
        for kind, label in DATA_MODELS.items():
            cells = [(n + aside, found) for n, cell in model['tasks'].get(task, {}).items()
                     if (found := computed(cell, kind))]
            draw_coefficients(axes, cells, kind, color=colour, label=f'{model["model"]}, {label}')
    axes.set(title=paper.title(task), xlabel=f'n ({models[0]["corpus"]["unit"]})',
             ylabel="Spearman's coefficient")
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_sizes(axes: Axes, task: str, models: Sequence[dict]) -> None:
    """Spearman's coefficient against the number of parameters, a line for each n: the main figure of Wang et
    al."""
    lengths = sorted({n for model in models for n in model['tasks'].get(task, {})})
    for i, n in enumerate(lengths):
        aside = (1 + ASIDE)**(i - (len(lengths) - 1) / 2)
        colour = colormaps['plasma'](0.85 * i / max(1, len(lengths) - 1))
        for kind in DATA_MODELS:
            cells = sorted(((model['parameters'], found) for model in models
                            if (found := computed(model['tasks'].get(task, {}).get(n, {}), kind))),
                           key=lambda cell: cell[0])
            draw_coefficients(axes, [(aside * size, found) for size, found in cells], kind, color=colour,
                              label=f'n = {n}' if kind == 'task_gram' else None)
    axes.set(title=paper.title(task), xlabel='Parameters', xscale='log', ylabel="Spearman's coefficient")
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)
    axes.margins(x=0.1)
    sizes = sorted({model['parameters'] for model in models})
    axes.set_xticks(sizes, [f'{size:,}' for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False, ncols=2)


def draw_coefficients(axes: Axes, cells: Sequence[tuple[float, dict]], kind: str, **style: Any) -> None:
    """A line through [(x, coefficient)] with its intervals, solid for the task-gram and dashed for the
    infinity-gram model."""
    if cells:
        x, found = zip(*cells)
        y = np.array([each['coefficient'] for each in found])
        low, high = np.array([each['interval'] for each in found]).T
        axes.errorbar(x, y, yerr=np.maximum(0, [y - low, high - y]), capsize=2, markersize=4, linewidth=1.4,
                      **({'fmt': 'o-'} if kind == 'task_gram' else {'fmt': 's--'}), **style)
    axes.axhline(0, color='0.6', linewidth=0.8)
    axes.grid(color='0.92')


def main() -> None:
    """Draw the trace that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('trace', type=Path, help='trace.json of trace_memorization.py')
    parser.add_argument('--beside', type=Path, metavar='FOLDER',
                        help='another folder with a trace.json, in grey behind')
    parser.add_argument('--output_dir', type=Path, help='where to write (default: beside the trace)')
    add_format(parser)
    args = parser.parse_args()
    beside = read_trace(args.beside / 'trace.json')[0] if args.beside else []
    figure = draw_trace(*read_trace(args.trace), beside)
    output = (args.output_dir or args.trace.parent) / f'trace.{args.format}'
    save(figure, output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
