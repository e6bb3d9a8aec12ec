"""Draw one run: accuracies on the left, losses on the right, over the iterations of training.

    python plot_results.py --model_folder math_mini_14
    python plot_results.py --model_folder math_mini_14 --beside older/math_mini_14 --format=svg

Reads results.csv in the folder (ours or the paper's; no checkpoint is needed) and writes plot_<operation>.png
beside it, in about a second. A black dot marks an evaluation with addition and subtraction both at 100%, a
vertical line the best checkpoint over all tasks. For a folder of many seeds (seed_1337, seed_1338, ...) a
line is the median, a band the range, and a black dot the percentage of seeds with both at 100%. --beside
draws another run behind it, in grey.
"""
from pathlib import Path

from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt import paper
from tbtt.figures import (BEHIND, LOSS_LOOKS, LOSS_TOP, accuracy_and_loss, add_format, draw_seeds,
                          legend_once, look, save)
from tbtt.results import (Results, answered_text, best_row, group_label, read_info, read_seeds, scores,
                          seeds_in, stack_seeds)
from tbtt.tasks import TASKS


def operations() -> dict[str, list[str]]:
    """What can be drawn, name -> tasks: one task, `both` for all tasks of the run, or the losses alone."""
    return {'both': list(TASKS), **{name: [name] for name in TASKS}, 'losses': []}


def choose_operation(results: Results, wanted: str | None, folder: Path) -> tuple[str, list[str]]:
    """-> the operation to draw, and its tasks: `wanted`, or by default all tasks that have scores. Raises
    `UserError` if the results lack the scores for `wanted`."""
    asked = [task for task in TASKS if not np.isnan(results[f'{task}_acc']).all()]
    possible = {name: [task for task in tasks if task in asked] for name, tasks in operations().items()}
    least = {'losses': 0, 'both': 2}    # tasks with scores that it needs
    fits = [name for name, tasks in possible.items() if len(tasks) >= least.get(name, 1)]
    if wanted and wanted not in fits:
        raise UserError(f'{folder} has no scores for --operation={wanted}: choose from {", ".join(fits)}')
    chosen = wanted or fits[0]
    return chosen, possible[chosen]


def title(folder: Path, seeds: list[Path]) -> str:
    """The run's name, its number of parameters if known, and the number of seeds if there are several."""
    home = folder.parent if folder.name.startswith('seed_') else folder
    name = folder.relative_to(home.parent).as_posix()
    size = read_info(seeds[0]).get('num_params') or paper.num_params(home.name)
    if size:
        name += f', {size:,} parameters'
    return name if len(seeds) == 1 else f'{name}, median and range of {len(seeds)} seeds'


def heldout_label(group: str, results: Results) -> str:
    """`Held-out: 3 of 4 (30/40) at the end`: the questions answered, and in brackets the answers, as the
    paper counts them. For several seeds only the number of questions."""
    correct, total, answered = (results[f'{group}_{what}'][:, -1]
                                for what in ('correct', 'total', 'answered'))
    text = answered_text(correct[0], total[0], answered[0])
    if not text:
        return group_label(group)
    if len(total) > 1:
        return f'{group_label(group)} ({text.split()[-1]} questions)'
    return f'{group_label(group)}: {text} ({correct[0]:.0f}/{total[0]:.0f}) at the end'


def draw_perfect(axes: Axes, results: Results, groups: tuple[str, ...]) -> None:
    """Black dots: the percentage of seeds with all operations at 100%, wherever it is above 0."""
    share = 100 * np.all([results[f'{group}_acc'] == 100 for group in groups], axis=0).mean(axis=0)
    if share.any():
        names = ' and '.join([group_label(groups[0]), *(group_label(group).lower() for group in groups[1:])])
        several = len(results['train_loss']) > 1
        label = f'Seeds with {names.lower()} at 100%' if several else f'{names} at 100%'
        axes.plot(results['iter'][share > 0], share[share > 0], 'o', color='black', markersize=3, label=label,
                  zorder=4, clip_on=False)


def draw_best(axes: Axes, seeds: list[Results]) -> None:
    """A vertical line at the iteration of the best combined score (several seeds: the median of their
    iterations)."""
    at = float(np.median([seed['iter'][best_row(seed, 'combined')] for seed in seeds]))
    label = 'Best combined' if len(seeds) == 1 else 'Best combined, median'
    axes.axvline(at, color='0.25', linewidth=1, linestyle=(0, (4, 4)), label=f'{label}: {at:,.0f}')


def draw_tasks(axes: Axes, results: Results, tasks: list[str]) -> None:
    """The accuracies of tasks; held-out questions are drawn last, so that they lie on top."""
    for name in tasks:
        for group in TASKS[name].counted():
            style = look(group)
            if group == TASKS[name].heldout_group:
                style['label'] = heldout_label(group, results)
            draw_seeds(axes, results['iter'], results[f'{group}_acc'], style)


def draw_beside(axes: Axes, loss: Axes, folder: Path, tasks: list[str]) -> None:
    """Another run's medians in grey, each with the dashes of its group or loss."""
    results = stack_seeds(read_seeds(seeds_in(folder)))
    label = f'{folder.name}, beside'
    for name in tasks:
        for group in TASKS[name].counted():
            draw_seeds(axes, results['iter'], results[f'{group}_acc'],
                       BEHIND | dict(linestyle=look(group)['linestyle'], label=label), band=False)
    draw_seeds(loss, results['iter'], results['train_loss'],
               BEHIND | dict(linestyle=LOSS_LOOKS['train_loss']['linestyle'], label=label), band=False)


def draw_run(folder: str | Path, operation: str | None = None,
             beside: str | Path | None = None) -> tuple[Figure, str]:
    """-> a figure of the run in `folder`, and which of `operations` it shows (default: all tasks of the run)

    Raises `UserError` if the folder has no results, or no scores of that operation.
    """
    folder = Path(folder).resolve()
    found = seeds_in(folder)
    seeds = read_seeds(found)
    results = stack_seeds(seeds)
    operation, tasks = choose_operation(results, operation, folder)
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(title=title(folder, found), xlabel='Iteration', ylabel='Accuracy (%)')
    highest = max([LOSS_TOP, *results['train_loss'][np.isfinite(results['train_loss'])] * 1.05])
    loss = accuracy_and_loss(axes, highest)
    loss.set_ylabel('Loss (nats a character)', color=LOSS_LOOKS['train_loss']['color'])
    if beside:
        draw_beside(axes, loss, Path(beside).resolve(), tasks)
    for column, style in LOSS_LOOKS.items():
        draw_seeds(loss, results['iter'], results[column], style)
    draw_tasks(axes, results, tasks)
    for name in tasks:
        if len(TASKS[name].scored) > 1:
            draw_perfect(axes, results, scores()[name])
    if tasks:
        draw_best(axes, seeds)
    axes.set_xlim(0, max(results['iter'][-1], 1))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    legend_once(figure, ncols=3)
    return figure, operation


def main() -> None:
    """Draw the run that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('--model_folder', required=True, help='folder of a run, of one seed or of many')
    parser.add_argument('--operation', choices=operations(),
                        help='what to draw (default: all that the run was asked)')
    parser.add_argument('--beside', metavar='FOLDER', help='another run, drawn in grey behind')
    parser.add_argument('--output', help='file to write (default: plot_<operation>.png in the model folder)')
    add_format(parser)
    args = parser.parse_args()
    figure, operation = draw_run(args.model_folder, args.operation, args.beside)
    output = args.output or Path(args.model_folder) / f'plot_{operation}.{args.format}'
    save(figure, output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
