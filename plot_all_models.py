"""Draw the paper's grids: each task's four models side by side, accuracy and training loss over the iterations.

    python plot_all_models.py
    python plot_all_models.py --wd                (the twins with weight decay: math_mini_14_wd, ...)

Reads results.csv in the paper's twelve run folders (math_mini_14, ..., both_mlt) under --root_dir and writes
grid_math.png, grid_facts.png and grid_combined.png (with --wd: grid_math_wd.png, ...) into --output_dir, in about five
seconds. A run that is missing leaves a panel that says which command makes it. Of many seeds a line is the median and
a band the range.
"""
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tbtt import paper
from tbtt.cli import Parser, run
from tbtt.figures import LOOK, accuracy_and_loss, draw_seeds, save
from tbtt.results import find_seeds, read_info, read_results, stack_seeds

GRIDS = {'math': 'grid_math', 'facts': 'grid_facts', 'both': 'grid_combined'}
LINES = {'math': ('add_acc', 'sub_acc'), 'facts': ('facts_acc',), 'both': ('add_acc', 'sub_acc', 'facts_acc')}


def draw_panel(axes, loss, found, task):
    """One model's run, whose seeds are in the folders `found`, over thousands of iterations."""
    results = stack_seeds([read_results(seed / 'results.csv') for seed in found])
    thousands = results['iter'] / 1000
    draw_seeds(loss, thousands, results['train_loss'], LOOK['train_loss'])
    for column in LINES[task]:
        draw_seeds(axes, thousands, results[column], LOOK[column])
    axes.set_xlim(0, max(thousands[-1], axes.get_xlim()[1]))


def draw_missing(axes, name):
    """Say in an empty panel how its run is made."""
    axes.text(0.5, 0.5, f'no results yet: make them with\n{paper.train_command(name)}', transform=axes.transAxes,
              ha='center', va='center', fontsize=8, color='0.35')


def panel_title(model, task, found):
    """n14 (1,456 parameters), and the number of seeds if there are several."""
    size = found and read_info(found[0]).get('num_params') or paper.num_params(paper.run_name(task, model))
    return f'{model} ({size:,} parameters)' + f', {len(found)} seeds' * (len(found) > 1)


def legend_below(figure, task, with_band):
    """One legend for the whole figure, complete even where runs are missing."""
    handles = [Line2D([], [], **LOOK[column]) for column in (*LINES[task], 'train_loss')]
    handles += [Patch(color='0.82', label='Range over seeds')] * with_band
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False)


def draw_grid(task, root, wd=False):
    """Figure of 2 x 2 panels, one a model of the paper, from the runs of `task` below the folder `root`."""
    figure = Figure(figsize=(9.5, 6.4), layout='constrained')
    figure.suptitle(paper.TASKS[task] + ', weight decay 0.1 and no dropout' * wd)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    panels[0, 0].set_xlim(0, paper.ITERS / 1000)
    with_band = False
    for axes, model in zip(panels.flat, paper.MODELS):
        name = paper.run_name(task, model, wd)
        found = find_seeds(root / name)
        with_band |= len(found) > 1
        loss = accuracy_and_loss(axes)
        axes.set_title(panel_title(model, task, found), fontsize=10)
        if found:
            draw_panel(axes, loss, found, task)
        else:
            draw_missing(axes, name)
        label_outer(axes, loss)
    legend_below(figure, task, with_band)
    return figure


def label_outer(axes, loss):
    """Name the axes at the edges of the grid only."""
    place = axes.get_subplotspec()
    if place.is_first_col():
        axes.set_ylabel('Accuracy (%)')
    if place.is_last_row():
        axes.set_xlabel('Iteration (thousands)')
    if place.is_last_col():
        loss.set_ylabel('Training loss', color=LOOK['train_loss']['color'])
    else:
        loss.tick_params(labelright=False)


def main():
    parser = Parser(__doc__)
    paper.add_options(parser)
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args = parser.parse_args()
    # All are drawn before the first is written: a damaged run changes nothing on disk.
    grids = {task: draw_grid(task, args.root_dir, args.wd) for task in GRIDS}
    names = [paper.run_name(task, model, args.wd) for task in GRIDS for model in paper.MODELS]
    found = [name for name in names if find_seeds(args.root_dir / name)]
    print(f'found {len(found)} of {len(names)} runs in {args.root_dir.resolve()}')
    for task, figure in grids.items():
        output = args.output_dir / f'{GRIDS[task]}{"_wd" * args.wd}.png'
        save(figure, output, dpi=300)
        print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
