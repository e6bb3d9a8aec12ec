"""Draw one run: accuracies on the left, losses on the right, over the iterations of training.

    python plot_results.py --model_folder math_mini_14

Reads results.csv in the folder (ours or the paper's; no checkpoint is needed) and writes plot_<operation>.png beside
it, in about a second. A red dot marks an evaluation with addition and subtraction both at 100%, a vertical line the
best checkpoint over all tasks. In a folder of many seeds (seed_1337, seed_1338, ...) a line is the median, a band the
range, and a red dot the percentage of the seeds that have both at 100%.
"""
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tbtt import paper
from tbtt.cli import Parser, UserError, run
from tbtt.figures import LOOK, LOSS_TOP, accuracy_and_loss, draw_seeds, save
from tbtt.results import best_row, find_seeds, read_info, read_results, stack_seeds

OPERATIONS = {'math': ('add_acc', 'sub_acc', 'heldout_acc'), 'facts': ('facts_acc',),
              'both': ('add_acc', 'sub_acc', 'heldout_acc', 'facts_acc'), 'losses': ()}


def choose_operation(results, wanted, folder):
    """`wanted`, or what the results have scores of; UserError where they have none of what is wanted."""
    has = {task for task in ('math', 'facts') if not np.isnan(results[f'{task}_acc']).all()}
    needs = {'math': {'math'}, 'facts': {'facts'}, 'both': {'math', 'facts'}, 'losses': set()}
    fits = [operation for operation in ('both', 'math', 'facts', 'losses') if needs[operation] <= has]
    if wanted and wanted not in fits:
        raise UserError(f'{folder} has no scores for --operation={wanted}: choose from {", ".join(fits)}')
    return wanted or fits[0]


def title(folder, seeds):
    """The run's name, its parameter count where it is known, and how many seeds there are."""
    home = folder.parent if folder.name.startswith('seed_') else folder
    name = folder.relative_to(home.parent).as_posix()
    size = read_info(seeds[0]).get('num_params') or paper.num_params(home.name)
    if size:
        name += f', {size:,} parameters'
    return name + f', median and range of {len(seeds)} seeds' * (len(seeds) > 1)


def draw_perfect(axes, results):
    """Red dots: the percentage of seeds with addition and subtraction both at 100%, where there is one."""
    share = 100 * ((results['add_acc'] == 100) & (results['sub_acc'] == 100)).mean(axis=0)
    label = 'Add. and sub. at 100%' if len(results['add_acc']) == 1 else 'Seeds with add. and sub. at 100%'
    axes.plot(results['iter'][share > 0], share[share > 0], 'o', color='red', markersize=3.5, label=label, zorder=4,
              clip_on=False)


def draw_best(axes, seeds):
    """A vertical line at the iteration of the best combined score (several seeds: the median of their iterations)."""
    at = float(np.median([seed['iter'][best_row(seed, 'combined')] for seed in seeds]))
    label = 'Best combined' if len(seeds) == 1 else 'Best combined, median'
    axes.axvline(at, color='0.25', linewidth=1, linestyle=(0, (4, 4)), label=f'{label}: {at:,.0f}')


def draw_run(folder, operation=None):
    """Figure of the run in `folder` and which of OPERATIONS it shows (default: all that the run was asked).

    Raises UserError where the folder has no results or no scores of that operation.
    """
    folder = Path(folder).resolve()
    found = find_seeds(folder)
    if not found:
        raise UserError(f'no results.csv in {folder} or in a seed_* folder below it: train it, or name another folder')
    seeds = [read_results(seed / 'results.csv') for seed in found]
    results = stack_seeds(seeds)
    operation = choose_operation(results, operation, folder)
    figure = Figure(figsize=(8, 4.8), layout='constrained')
    axes = figure.add_subplot(title=title(folder, found), xlabel='Iteration', ylabel='Accuracy (%)')
    highest = max([LOSS_TOP, *results['train_loss'][np.isfinite(results['train_loss'])] * 1.05])
    loss = accuracy_and_loss(axes, highest)
    loss.set_ylabel('Loss', color=LOOK['train_loss']['color'])
    for column in ('train_loss', 'val_loss'):
        draw_seeds(loss, results['iter'], results[column], LOOK[column])
    for column in OPERATIONS[operation]:
        draw_seeds(axes, results['iter'], results[column], LOOK[column])
    if operation in ('math', 'both'):
        draw_perfect(axes, results)
    if operation != 'losses':
        draw_best(axes, seeds)
    axes.set_xlim(0, max(results['iter'][-1], 1))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    figure.legend(loc='outside lower center', ncols=4, frameon=False)
    return figure, operation


def main():
    parser = Parser(__doc__)
    parser.add_argument('--model_folder', required=True, help='folder of a run, of one seed or of many')
    parser.add_argument('--operation', choices=OPERATIONS, help='what to draw (default: all that the run was asked)')
    parser.add_argument('--output', help='file to write (default: plot_<operation>.png in the model folder)')
    args = parser.parse_args()
    figure, operation = draw_run(args.model_folder, args.operation)
    output = args.output or Path(args.model_folder) / f'plot_{operation}.png'
    save(figure, output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
