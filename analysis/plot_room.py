"""Draw which sizes have room for a table without a rule, and which keep the rule where there is one.

    python analysis/plot_room.py results/*/summary.csv
    python analysis/plot_room.py sweeps/*/summary.csv --output_dir=figures --format=svg

Reads summary.csv of sweeps and writes room.png into --output_dir: a panel for the paper's windows and one for
windows that hold a single line (--windows=line). Each needs arithmetic with right answers and with answers
that are dealt out at random (--answers=shuffled), such as config/sweep_arithmetic.py and
config/sweep_control_answers.py, or config/sweep_control_line.py and config/sweep_control_answers_line.py. A
panel without runs is left out. Takes seconds.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plot_capacity import (Rows, answered_axis, means_of, name_sizes, room_of, score_axes, scores_by_size,
                           seeds_text, side_by_side)

from tbtt.figures import add_format, legend_once, look, marker, save
from tbtt.results import NUM_SAMPLES
from tbtt.sweep.controls import SHUFFLED, WITHIN_LINES, of_width
from tbtt.sweep.summary import read_summaries

PANELS = {"The paper's windows": {}, 'One line per window': WITHIN_LINES}
LABELS = {'seen': 'a table without a rule, recalled', 'heldout': 'held-out questions, where there is a rule'}


def runs_of(rows: Rows, control: dict[str, str]) -> dict[str, Rows]:
    """{group: rows} of the table without a rule (`seen`) and of arithmetic with its rule (`heldout`), in runs
    that differ from the paper's in `control`."""
    return {'seen': of_width(rows, None, SHUFFLED | control), 'heldout': of_width(rows, None, control)}


def draw_panel(axes: Axes, groups: dict[str, Rows]) -> None:
    """Scores at the last evaluation against parameters: each seed, and means with Student's intervals."""
    both = [row for rows in groups.values() for row in rows]
    score_axes(axes)
    name_sizes(axes, both)
    for (group, rows), side in zip(groups.items(), (-1, 1)):
        style = look(group) | {'label': f'{LABELS[group]}: mean at the last evaluation, 95% interval'}
        found = scores_by_size(rows, f'last_{group}')
        for size, scores in found:
            axes.scatter(size * side_by_side(scores, side, room_of(both)), scores, s=14, alpha=0.5,
                         color=style['color'], marker=marker(group), linewidth=0, zorder=3)
        axes.errorbar(*means_of(found), capsize=3, elinewidth=1, markersize=6, marker=marker(group), **style)


def draw_room(rows: Rows) -> Figure:
    """A panel for each kind of windows. Raises `UserError` if no kind has both sorts of runs."""
    panels = {title: groups for title, control in PANELS.items()
              if all((groups := runs_of(rows, control)).values())}
    if not panels:
        raise UserError("no seeds of arithmetic with the paper's settings, some with right answers and some "
                        'with shuffled ones: train config/sweep_arithmetic.py and '
                        'config/sweep_control_answers.py')
    figure = Figure(figsize=(0.8 + 4.6 * len(panels), 4.8), layout='constrained')
    for i, (axes, (title, groups)) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False).flat,
                                                    panels.items())):
        seeds = seeds_text(groups['heldout']), seeds_text(groups['seen'])
        axes.set_title(f'{title}\nrule: {seeds[0]}; table: {seeds[1]}', fontsize=11, pad=18)
        draw_panel(axes, groups)
        axes.set_ylabel('' if i else 'Right answers (%)')
        if i == len(panels) - 1:
            answered_axis(axes, int(groups['heldout'][0]['heldout_total']) // NUM_SAMPLES)
    legend_once(figure, ncols=1, fontsize=9, title='a faint dot is a seed')
    return figure


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('summary', nargs='+', type=Path, help='summary.csv of a sweep')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    output = args.output_dir / f'room.{args.format}'
    save(draw_room(read_summaries(args.summary)), output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
