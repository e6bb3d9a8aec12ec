"""Draw the paper's grids: each task's four models side by side, accuracy and training loss over the
iterations.

    python plot_all_models.py
    python plot_all_models.py --wd                (the runs with weight decay: math_mini_14_wd, ...)
    python plot_all_models.py --beside=older      (the runs in another folder in grey behind)

Reads results.csv in the paper's twelve run folders (math_mini_14, ..., both_mlt) under --root_dir and writes
grid_math.png, grid_facts.png and grid_combined.png (with --wd: grid_math_wd.png, ...) into --output_dir, in
about five seconds. The panel of a missing run shows the command that trains it. For many seeds a line is the
median and a band the range. The title of each panel says how many held-out questions are answered at the end.
"""
from pathlib import Path

from tbtt.cli import Parser, run    # first: it names missing packages

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tbtt import paper
from tbtt.figures import BEHIND, LOSS_LOOKS, accuracy_and_loss, add_format, draw_seeds, look, save
from tbtt.results import answered_text, find_seeds, read_info, read_seeds, stack_seeds


def groups_of(experiment: str) -> list[str]:
    """The groups of questions of an experiment; held-out ones last, so that they are drawn on top."""
    return [*(group for task in paper.tasks_of(experiment) for group in task.scored), *heldout_of(experiment)]


def heldout_of(experiment: str) -> list[str]:
    """The groups of an experiment that are never trained on."""
    return [task.heldout_group for task in paper.tasks_of(experiment) if task.heldout_group]


def draw_panel(axes: Axes, loss: Axes, found: list[Path], experiment: str) -> None:
    """Draw the run of one model against thousands of iterations. found: the folders of its seeds"""
    results = stack_seeds(read_seeds(found))
    thousands = results['iter'] / 1000
    draw_seeds(loss, thousands, results['train_loss'], LOSS_LOOKS['train_loss'])
    for group in groups_of(experiment):
        draw_seeds(axes, thousands, results[f'{group}_acc'], look(group))
    axes.set_xlim(0, max(thousands[-1], axes.get_xlim()[1]))


def heldout_text(found: list[Path], experiment: str) -> str:
    """`held-out 3 of 4 (30/40) at the end`: the questions answered, and in brackets the answers, as the paper
    counts them. For several seeds: how many of them answer all questions."""
    texts = []
    for group in heldout_of(experiment):
        counts = [[seed[f'{group}_{what}'][-1] for what in ('correct', 'total', 'answered')]
                  for seed in read_seeds(found)]
        answered = [answered_text(*each) for each in counts]
        if all(answered) and len(answered) == 1:
            texts.append(f'held-out {answered[0]} ({counts[0][0]:.0f}/{counts[0][1]:.0f}) at the end')
        elif all(answered) and answered:
            every = sum(text.split()[0] == text.split()[-1] for text in answered)
            texts.append(f'{every} of {len(answered)} seeds answer all {answered[0].split()[-1]} held-out '
                         f'questions')
    return ', '.join(texts)


def draw_beside(axes: Axes, loss: Axes, found: list[Path], experiment: str) -> None:
    """The same run from another folder: medians in grey, each with the dashes of its group or loss."""
    results = stack_seeds(read_seeds(found))
    for group in groups_of(experiment):
        style = BEHIND | dict(linestyle=look(group)['linestyle'], label='_beside')
        draw_seeds(axes, results['iter'] / 1000, results[f'{group}_acc'], style, band=False)
    style = BEHIND | dict(linestyle=LOSS_LOOKS['train_loss']['linestyle'], label='_beside')
    draw_seeds(loss, results['iter'] / 1000, results['train_loss'], style, band=False)


def draw_missing(axes: Axes, name: str) -> None:
    """Write the command that trains the run into its empty panel."""
    axes.text(0.5, 0.5, f'no results yet: make them with\n{paper.train_command(name)}',
              transform=axes.transAxes, ha='center', va='center', fontsize=8, color='0.35')


def panel_title(model: str, experiment: str, found: list[Path]) -> str:
    """`n14 (1,456 parameters)`, the number of seeds if there are several, where a run was stopped early, and
    in a second line the result on held-out questions."""
    recorded = found and read_info(found[0]).get('num_params')
    size = recorded or paper.num_params(paper.run_name(experiment, model))
    title = f'{model} ({size:,} parameters)' + (f', {len(found)} seeds' if len(found) > 1 else '')
    if len(found) == 1:
        early = paper.stopped(int(read_seeds(found)[0]['iter'][-1]), read_info(found[0]))
        title += f', {early}' if early else ''
    heldout = heldout_text(found, experiment)
    return f'{title}\n{heldout}' if heldout else title


def legend_below(figure: Figure, experiment: str, with_band: bool, beside: Path | None) -> None:
    """One legend for the whole figure, complete even if runs are missing."""
    handles = [Line2D([], [], **look(group)) for group in groups_of(experiment)]
    handles.append(Line2D([], [], **LOSS_LOOKS['train_loss']))
    if with_band:
        handles.append(Patch(color='0.82', label='Range over seeds'))
    if beside:
        handles.append(Line2D([], [], **BEHIND, label=f'the same of {beside.resolve().name}'))
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 5), frameon=False)


def draw_grid(experiment: str, root: Path, wd: bool = False, beside: Path | None = None) -> Figure:
    """A figure of 2 x 2 panels, one for each model of the paper, from the runs of `experiment` below the
    folder `root`."""
    figure = Figure(figsize=(9.5, 7), layout='constrained')
    figure.suptitle(paper.title(paper.tasks_column(experiment))
                    + (', weight decay 0.1 and no dropout' if wd else ''))
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    panels[0, 0].set_xlim(0, paper.ITERS / 1000)
    with_band = False
    for axes, model in zip(panels.flat, paper.MODELS):
        name = paper.run_name(experiment, model, wd)
        found = find_seeds(root / name)
        with_band |= len(found) > 1
        loss = accuracy_and_loss(axes)
        axes.set_title(panel_title(model, experiment, found), fontsize=10)
        if beside and (others := find_seeds(beside / name)):
            draw_beside(axes, loss, others, experiment)
        if found:
            draw_panel(axes, loss, found, experiment)
        else:
            draw_missing(axes, name)
        label_outer(axes, loss)
    legend_below(figure, experiment, with_band, beside)
    return figure


def label_outer(axes: Axes, loss: Axes) -> None:
    """Label only the axes at the edges of the grid."""
    place = axes.get_subplotspec()
    if place.is_first_col():
        axes.set_ylabel('Accuracy (%)')
    if place.is_last_row():
        axes.set_xlabel('Iteration (thousands)')
    if place.is_last_col():
        loss.set_ylabel('Training loss (nats a character)', color=LOSS_LOOKS['train_loss']['color'])
    else:
        loss.tick_params(right=False, labelright=False)
        loss.spines['right'].set_visible(False)
        axes.spines['right'].set_visible(False)


def main() -> None:
    """Draw the three grids."""
    parser = Parser(__doc__)
    paper.add_options(parser)
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    # All are drawn before the first is written: a damaged run changes nothing on disk.
    grids = {name: draw_grid(name, args.root_dir, args.wd, args.beside) for name in paper.EXPERIMENTS}
    names = [paper.run_name(name, model, args.wd) for name in grids for model in paper.MODELS]
    found = [name for name in names if find_seeds(args.root_dir / name)]
    print(f'found {len(found)} of {len(names)} runs in {args.root_dir.resolve()}')
    for name, figure in grids.items():
        output = args.output_dir / f'{paper.EXPERIMENTS[name].grid}{"_wd" if args.wd else ""}.{args.format}'
        save(figure, output, dpi=200)
        print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
