"""Draw what a sweep over widths found: which sizes learn the rule, which recall the facts, and how certain
that is.

    python analysis/plot_capacity.py sweeps/capacity/summary.csv
    python analysis/plot_capacity.py sweeps/capacity/summary.csv more/summary.csv --weight_decay=0.1
    python analysis/plot_capacity.py sweeps/capacity/summary.csv --format=svg
    python analysis/plot_capacity.py sweeps/capacity/summary.csv --beside=sweeps/older --only=rule

Reads summary.csv of one or several sweeps (finished seeds only) and writes into --output_dir: rule.png, seen
and held-out arithmetic against parameters; capacity.png, all scores against parameters, and the share of
seeds that answer all held-out questions; capacity_training.png, the probability of the right answer over
training, with a panel for each width (if the seeds' results.csv are still beside the summary); and
capacity_heldout.png, with a column for each set of held-out pairs (if other pairs than (5,7) were held out).
Takes seconds.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tbtt import paper
from tbtt.figures import (BEHIND, add_format, draw_seeds, legend_once, look, marker, model_looks,
                          parameters_axis, percent_axis, save)
from tbtt.results import Results, group_label, read_results, stack_seeds
from tbtt.stats import mean_interval, wilson_interval
from tbtt.sweep.claims import agrees_on_heldout
from tbtt.sweep.summary import PAIR, read_summaries, row_of_paper
from tbtt.tasks import TASKS

NEAR = 4    # the paper's models are drawn up to so many times larger or smaller than ours
FIGURES = ('rule', 'capacity', 'training', 'heldout')
# Dots of one size, in logarithms of size: distance from its line, from each other, and the farthest.
ASIDE, STEP, ROOM = 0.05, 0.022, 0.2
SHARES = {'best': dict(linestyle=':', markerfacecolor='white',
                       label='seeds that answer all held-out questions, best evaluation'),
          'last': dict(linestyle='-', label='seeds that answer all held-out questions, last evaluation')}

Rows = list[dict]    # of summaries, one per seed


def task_names(rows: Rows) -> list[str]:
    """The known tasks that were trained together (math, facts, math+facts, ...), the paper's first."""
    known = {row['tasks'] for row in rows if row['tasks'] and set(row['tasks'].split('+')) <= TASKS.keys()}
    papers = [paper.tasks_column(experiment) for experiment in paper.EXPERIMENTS]
    return [tasks for tasks in papers if tasks in known] + sorted(known - set(papers))


def experiment_of(tasks: str) -> str | None:
    """The paper's experiment with these tasks, if it has one."""
    return next((name for name in paper.EXPERIMENTS if paper.tasks_column(name) == tasks), None)


def probed_groups(tasks: str) -> list[str]:
    """The groups of questions whose scores are drawn: seen, heldout, facts."""
    return [group for name in tasks.split('+') for group in TASKS[name].probed]


def by_size(rows: Rows) -> list[tuple[float, Rows]]:
    """-> (parameters, rows of that size), smallest first"""
    sizes = sorted({row['num_params'] for row in rows})
    return [(size, [row for row in rows if row['num_params'] == size]) for size in sizes]


def scores_by_size(rows: Rows, column: str) -> list[tuple[float, np.ndarray]]:
    """-> (parameters, scores of the seeds that have a score), smallest first"""
    found = [(size, np.array([row[column] for row in some if row.get(column) is not None], float))
             for size, some in by_size(rows)]
    return [(size, scores) for size, scores in found if len(scores)]


def means_of(found: list[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> sizes (N,), mean scores (N,), and (2, N) how far Student's intervals reach below and above the
    means, cut off at 0 and 100 percent. found: from `scores_by_size`"""
    sizes, means, halves = np.array([(size, *mean_interval(scores)) for size, scores in found]).T
    ends = np.clip([means - halves, means + halves], 0, 100)
    return sizes, means, np.nan_to_num(np.abs(ends - means))


def draw_scores(axes: Axes, rows: Rows, group: str, aside: float = 1.0) -> None:
    """Mean score of a group at the last evaluation with Student's interval, and each seed as a faint dot.
    aside: factor on the sizes, so that groups do not hide each other; the dots lie on the same side"""
    found = scores_by_size(rows, f'last_{group}')
    if not found:
        return
    style = look(group) | {'label': f'{group_label(group).lower()}, mean at the last evaluation'}
    for size, scores in found:
        x = size * side_by_side(scores, -1 if aside < 1 else 1, room_of(rows))
        axes.scatter(x, scores, s=14, color=style['color'],
                     marker=marker(group), alpha=0.4, linewidth=0, zorder=3)
    sizes, means, intervals = means_of(found)
    axes.errorbar(sizes * aside, means, intervals, capsize=3, elinewidth=1, markersize=6,
                  marker=marker(group), **style)


def draw_shares(axes: Axes, rows: Rows) -> None:
    """The share of seeds that answer every held-out question, with Wilson's intervals."""
    asked = [(size, held) for size, some in by_size(rows)
             if (held := [row for row in some if row.get('heldout_total')])]
    for (when, style), aside in zip(SHARES.items(), (0.97, 1.03)):
        agree = [agrees_on_heldout(held, when, True) for _, held in asked]
        share = np.array([each.mean() for each in agree])
        ends = np.array([wilson_interval(each.sum(), len(each)) for each in agree]).T
        axes.errorbar([size * aside for size, _ in asked], 100 * share, 100 * np.abs(ends - share), capsize=3,
                      linewidth=1.4, markersize=6, color=look('heldout')['color'], marker=marker('heldout'),
                      **style)


def papers_models(experiment: str, sizes: list[float]) -> list[tuple[str, int]]:
    """-> (model, parameters) of the paper's models of about these sizes. The MLT alone would take half of the
    axis."""
    return [(model, size) for model, size in zip(paper.MODELS, paper.NUM_PARAMS[experiment])
            if min(sizes) / NEAR <= size <= max(sizes) * NEAR]


def published_scores(experiment: str, model: str) -> dict[str, float]:
    """{group: percent} of the paper, for the groups that it prints or that follow from these."""
    found = {group: paper.published_percent(experiment, model, group)
             for task in paper.tasks_of(experiment) for group in task.scored}
    heldout = paper.published_heldout(experiment, model)
    for task in paper.tasks_of(experiment):
        if task.heldout_group and heldout:
            found |= {task.heldout_group: 100 * heldout[0] / heldout[1],
                      task.seen_group: published_seen([found[group] for group in task.scored], heldout)}
    return {group: score for group, score in found.items() if not np.isnan(score)}


def published_seen(scores: list[float], heldout: tuple[int, int]) -> float:
    """Percent right of the seen questions, from the percent of each operation (of 1,000 answers, including
    held-out ones). heldout: right and asked answers"""
    right, asked = heldout
    return 100 * (10 * sum(scores) - right) / (1000 * len(scores) - asked)


def draw_paper(axes: Axes, experiment: str, sizes: list[float], groups: list[str]) -> None:
    """The paper's values for its models, as open markers."""
    for model, size in papers_models(experiment, sizes):
        scores = published_scores(experiment, model)
        for group in groups:
            if group in scores:
                axes.plot(size, scores[group], linestyle='', marker=marker(group), markersize=11,
                          markerfacecolor='none', markeredgewidth=1.4, color=look(group)['color'],
                          zorder=2.5, clip_on=False,
                          label=f'paper, best evaluation: {group_label(group).lower()}')


def name_sizes(axes: Axes, rows: Rows) -> dict[float, str]:
    """A faint line at each size, ours and the paper's, with its name above if there is room. -> {size:
    name}"""
    sizes = {row['num_params']: f'n{row["n_embd"]:.0f}' for row in rows}
    experiment = experiment_of(rows[0]['tasks'])
    papers = {size: model for model, size in papers_models(experiment, list(sizes))} if experiment else {}
    named = []
    for size, name in {**papers, **sizes}.items():
        axes.axvline(size, color='0.85', linewidth=0.8, zorder=0)
        room = np.log(max(papers | sizes) / min(papers | sizes)) / 14
        if all(abs(np.log(size / other)) > room for other in named):
            named.append(size)
            axes.annotate(name, (size, 1.0), xycoords=('data', 'axes fraction'), xytext=(0, 2),
                          textcoords='offset points', ha='center', fontsize=9, color='0.3')
    return papers | sizes


def draw_beside(axes: Axes, rows: Rows, groups: list[str], name: str) -> None:
    """Mean scores of another sweep, in grey behind."""
    for group in groups:
        found = scores_by_size(rows, f'last_{group}')
        if found:
            axes.plot(*zip(*((size, scores.mean()) for size, scores in found)), marker=marker(group),
                      markersize=4,
                      **BEHIND | dict(linestyle=look(group)['linestyle'], label=f'{name}, beside'))


def draw_capacity(rows: Rows, beside: Rows = (), name: str = '') -> Figure:
    """A row for each task: scores against parameters, and, if questions are held out, the share of seeds that
    answer all of them."""
    every = {tasks: [row for row in rows if row['tasks'] == tasks] for tasks in task_names(rows)}
    asked = [any(row.get('heldout_total') for row in found) for found in every.values()]
    columns = 1 + any(asked)
    figure = Figure(figsize=(1 + 4.2 * columns, 1.2 + 3.3 * len(every)), layout='constrained')
    cells = figure.add_gridspec(len(every), columns)
    left = [figure.add_subplot(cells[i, 0], ylabel='Right answers (%)') for i in range(len(every))]
    for axes, (tasks, found) in zip(left, every.items()):
        axes.set_title(f'{paper.title(tasks)}: {seeds_text(found)}{other_data(found)}', fontsize=11, pad=18)
        draw_task(axes, found, [row for row in beside if row['tasks'] == tasks], name)
    for i, found in enumerate(every.values()):
        if asked[i]:
            axes = figure.add_subplot(cells[i, 1], sharex=left[i], ylabel='Seeds (%)')
            axes.set_title('Seeds that answer all held-out questions', fontsize=11, pad=18)
            score_axes(axes)
            name_sizes(axes, found)
            draw_shares(axes, found)
    free = [i for i, some in enumerate(asked) if columns == 2 and not some]
    place = figure.add_subplot(cells[free[0], 1], frame_on=False, xticks=[], yticks=[]) if free else None
    legend_once(figure, place=place, ncols=1 if place else columns, fontsize=9,
                title='a faint dot is a seed, a bar a 95% interval')
    return figure


def draw_task(axes: Axes, rows: Rows, beside: Rows, name: str) -> None:
    """Scores of one task against parameters. name: of the sweep `beside`"""
    groups = probed_groups(rows[0]['tasks'])
    score_axes(axes)
    name_sizes(axes, rows)
    draw_beside(axes, beside, groups, name)
    for i, group in enumerate(groups):
        draw_scores(axes, rows, group, aside=1.03 ** (i - 0.5))
    if experiment := experiment_of(rows[0]['tasks']):
        draw_paper(axes, experiment, [row['num_params'] for row in rows], groups)


def other_data(rows: Rows) -> str:
    """A line for the title if seeds were trained on other data than the paper's, else ''."""
    experiment = experiment_of(rows[0]['tasks'])
    same = experiment and all(row['data'] == row_of_paper(experiment, 'n14')['data'] for row in rows)
    return '' if same else "\n(not the paper's data or order of lines)"


def score_axes(axes: Axes) -> None:
    """Percent against parameters."""
    percent_axis(axes)
    parameters_axis(axes)
    axes.set_ylim(-4, 106)
    axes.spines['right'].set_visible(False)


def draw_rule(rows: Rows, beside: Rows = (), name: str = '') -> Figure:
    """Seen and held-out arithmetic against parameters: dots are seeds, lines their means, open markers the
    paper's values. The right axis counts the held-out questions that are answered."""
    figure = Figure(figsize=(8, 4.8), layout='constrained')
    axes = figure.add_subplot(ylabel='Right answers (%)')
    score_axes(axes)
    sizes = sorted(name_sizes(axes, rows))
    draw_beside(axes, beside, ['seen', 'heldout'], name)
    for group, side in (('seen', -1), ('heldout', 1)):
        style = look(group) | {'label': f'{group_label(group)}: mean of {seeds_text(rows)}, 95% interval'}
        found = scores_by_size(rows, f'last_{group}')
        means = means_of(found)
        axes.plot(*means[:2], zorder=2, **style)
        axes.errorbar(*means, fmt='none', ecolor=style['color'], elinewidth=1, capsize=3)
        x = np.concatenate([size * side_by_side(scores, side, room_of(rows)) for size, scores in found])
        axes.scatter(x, np.concatenate([scores for _, scores in found]), s=22, color=style['color'],
                     marker=marker(group), alpha=0.7, linewidth=0.4, edgecolor='white', zorder=3,
                     label=f'{group_label(group)}: a seed at its last evaluation')
    draw_paper(axes, 'math', [row['num_params'] for row in rows], ['seen', 'heldout'])
    if len(sizes) <= 8:
        axes.set_xticks(sizes, [f'{size:,.0f}' for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    questions = [row['heldout_questions'] for row in rows if row.get('heldout_questions')]
    if questions:
        answered_axis(axes, int(max(questions)))
    legend_once(figure, ncols=2, fontsize=9)
    return figure


def room_of(rows: Rows) -> float:
    """How far the dots of one size may reach, in logarithms, without covering the next size."""
    sizes = sorted({row['num_params'] for row in rows})
    return min([ROOM, *(0.4 * np.diff(np.log(sizes)))])


def side_by_side(scores: np.ndarray, side: int, room: float = ROOM) -> np.ndarray:
    """Factors on a size that put seeds with about the same score in a row, to the left (side -1) or the right
    (1) of the size: the length of a row shows how many they are. scores: (R,) percent -> (R,)"""
    places = np.zeros(len(scores))
    for level in set(levels := (np.round(scores / 2)).tolist()):
        row = np.flatnonzero(np.array(levels) == level)
        places[row] = np.arange(len(row)) * min(STEP, room / len(row))
    return np.exp(side * (min(ASIDE, room / 2) + places))


def answered_axis(axes: Axes, questions: int) -> None:
    """A right axis that counts answered held-out questions. questions: how many there are"""
    right = axes.twinx()
    right.set(ylim=axes.get_ylim(), ylabel=f'Held-out questions answered, of {questions}')
    right.set_yticks([100 * k / questions for k in range(questions + 1)],
                     [str(k) for k in range(questions + 1)])
    right.tick_params(colors=look('heldout')['color'])
    right.yaxis.label.set_color(look('heldout')['color'])
    right.spines['top'].set_visible(False)


def seeds_text(rows: Rows) -> str:
    """`6 seeds per size`, or `3 to 6 seeds per size`."""
    return count_text([len(some) for _, some in by_size(rows)], 'size')


def count_text(numbers: list[int], of: str) -> str:
    """`6 seeds per size`, or `3 to 6 seeds per size`."""
    low, high = min(numbers), max(numbers)
    text = f'{low}' if low == high else f'{low} to {high}'
    return f'{text} seed{"" if high == 1 else "s"} per {of}'


def training_curves(rows: Rows) -> dict[tuple[str, float], tuple[float, Results]]:
    """{(tasks, width): (parameters, stacked results of its seeds)} for the widths whose results.csv exist"""
    curves = {}
    for tasks in task_names(rows):
        for size, some in by_size([row for row in rows if row['tasks'] == tasks]):
            found = [read_results(path) for row in some if (path := row['path'] / 'results.csv').exists()]
            if found:
                curves[tasks, some[0]['n_embd']] = size, stack_seeds(found)
    return curves


def draw_training(curves: dict[tuple[str, float], tuple[float, Results]]) -> Figure:
    """Probability of the right answer over training: a panel for each task and width, a line for each group
    of questions."""
    columns = min(3 if len(curves) <= 12 else 6, len(curves))    # no label too small, no figure too long
    lines = -(-len(curves) // columns)
    panel = 9.6 / max(2, columns)
    figure = Figure(figsize=(0.6 + panel * columns, 1 + (0.7 * panel + 0.4) * lines), layout='constrained')
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in list(grid.flat)[len(curves):]:
        axes.set_visible(False)
    for i, (axes, ((tasks, width), (size, results))) in enumerate(zip(grid.flat, curves.items())):
        for group in probed_groups(tasks):
            draw_seeds(axes, results['iter'] / 1000, np.atleast_2d(results[f'{group}_prob']), look(group))
        seeds = len(results['train_loss'])
        axes.set_title(f'{paper.title(tasks)}, n{width:.0f}\n{size:,.0f} parameters, {seeds} '
                       f'seed{"" if seeds == 1 else "s"}', fontsize=10 if columns <= 3 else 7.5)
        axes.set(ylim=(-0.03, 1.03))
        axes.grid(color='0.92')
        axes.spines[['top', 'right']].set_visible(False)
        if i >= len(curves) - columns:    # the last panel of its column
            axes.set_xlabel('Iteration (thousands)')
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel('Probability of\nthe right answer')
    legend_once(figure, ncols=4, title='median and range over the seeds')
    return figure


def draw_heldout(rows: Rows) -> Figure:
    """Held-out answers at the end: a column for each set of held-out pairs, a marker for each width, a faint
    dot for each seed."""
    sets = sorted({row['heldout'] for row in rows}, key=lambda pairs: (pairs.count(';'), pairs))
    widths = sorted({row['n_embd'] for row in rows})
    # Wide enough for the legend, however few pairs there are.
    figure = Figure(figsize=(max(5.0, 2.4 + 0.55 * len(sets)), 4.8), layout='constrained')
    axes = figure.subplots()
    sizes = [next(row['num_params'] for row in rows if row['n_embd'] == width) for width in widths]
    for i, (width, style) in enumerate(zip(widths, model_looks(sizes))):
        for x, pairs in enumerate(sets):
            some = [row for row in rows if (row['heldout'], row['n_embd']) == (pairs, width)]
            if some:
                draw_pairs(axes, x + 0.3 * (i / max(1, len(widths) - 1) - 0.5), some, style)
    axes.set_xticks(range(len(sets)),
                    [pairs if pairs.count(';') < 1 else f'{pairs.count(";") + 1} pairs' for pairs in sets],
                    **(dict(rotation=45, ha='right') if len(sets) > 4 else {}))
    axes.set(ylim=(-4, 106), ylabel='Percent', xlabel='Held-out pairs')
    axes.spines[['top', 'right']].set_visible(False)
    each = [sum((row['heldout'], row['n_embd']) == key for row in rows)
            for key in {(row['heldout'], row['n_embd']) for row in rows}]
    axes.set_title(f'Arithmetic with other pairs held out:\n{count_text(each, "pair and width")}',
                   fontsize=11)
    axes.grid(color='0.93', axis='y')
    axes.set_axisbelow(True)
    legend_once(figure, fontsize=9, title='a faint dot is a seed')
    return figure


def draw_pairs(axes: Axes, x: float, rows: Rows, style: dict) -> None:
    """One width and set of pairs: each seed, the mean, and the share of seeds that answer all questions."""
    width, scores = rows[0]['n_embd'], np.array([row['last_heldout'] for row in rows])
    style = {name: style[name] for name in ('color', 'marker')}
    axes.scatter([x] * len(scores), scores, s=14, alpha=0.3, linewidth=0, **style)
    axes.plot(x, scores.mean(), markersize=7, linestyle='', **style,
              label=f'n{width:.0f}: held-out answers, mean')
    agree = agrees_on_heldout(rows, 'last', True)
    share, ends = agree.mean(), wilson_interval(agree.sum(), len(agree))
    axes.errorbar(x + 0.08, 100 * share, [[100 * max(0, share - ends[0])], [100 * max(0, ends[1] - share)]],
                  capsize=3, linewidth=1.2, fmt='_', color=style['color'],
                  label=f'n{width:.0f}: seeds that answer all questions, 95% interval')


def chosen(rows: Rows, decay: float) -> Rows:
    """The one-layer models with this weight decay. Raises `UserError` for seeds of one size that were trained
    differently."""
    fixed = {'n_layer': 1, 'n_head': 1, 'mlp_expansion': 1, 'dropout': 0, 'weight_decay': decay}
    known = task_names(rows)
    found = [row for row in rows if row['tasks'] in known
             and all(row[name] == value for name, value in fixed.items())]
    first = {}    # {tasks, width and held-out pairs: row}
    for row in found:
        other = first.setdefault((row['tasks'], row['n_embd'], row['heldout']), row)
        for name in ('max_iters', 'data', *paper.TRAINING):
            if row[name] != other[name]:
                raise UserError(f'runs of {row["tasks"]} at width {row["n_embd"]:g} differ in {name}, '
                                f'{other[name]} and '
                                f'{row[name]}: a mean over both is meaningless; draw each from a '
                                f'separate summary')
    return found


def usual(rows: Rows) -> Rows:
    """The rows with the paper's pair held out, or without arithmetic, where nothing is held out."""
    return [row for row in rows if row.get('heldout') == PAIR or 'math' not in row['tasks'].split('+')]


def draw_all(rows: Rows, beside: Rows, name: str) -> dict[str, Figure]:
    """{name of the file: figure} of all figures that the rows allow. rows, beside: from `chosen`. name: of
    the sweep `beside`"""
    figures = {}
    arithmetic = [row for row in rows if row['tasks'] == 'math' and row['last_heldout'] is not None]
    if usual(arithmetic):
        figures['rule'] = draw_rule(usual(arithmetic),
                                    [row for row in usual(beside) if row['tasks'] == 'math'], name)
    if usual(rows):
        figures['capacity'] = draw_capacity(usual(rows), usual(beside), name)
        if curves := training_curves(usual(rows)):
            figures['capacity_training'] = draw_training(curves)
        else:
            print('no results.csv beside the summary: the figure over training is left out')
    if len(usual(rows)) < len(rows) and arithmetic:
        figures['capacity_heldout'] = draw_heldout(arithmetic)
    return figures


def main() -> None:
    """Draw the figures of the summaries that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('summary', nargs='+', type=Path, help='summary.csv of a sweep')
    parser.add_argument('--weight_decay', type=float,
                        help='only runs with this value (default: that of all runs, or 0.0 if they differ)')
    parser.add_argument('--only', choices=FIGURES, help='only this figure (default: all)')
    parser.add_argument('--beside', type=Path, metavar='FOLDER',
                        help='folder of another sweep (with its summary.csv), drawn behind in grey')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    rows, decay = read_summaries(args.summary), args.weight_decay
    if decay is None:
        decays = {row['weight_decay'] for row in rows}
        decay = decays.pop() if len(decays) == 1 else 0.0
    rows = chosen(rows, decay)
    if not rows:
        raise UserError(f'no finished seed of a one-layer model with weight_decay={decay:g} in '
                        f'{", ".join(map(str, args.summary))}: train it with sweep.py '
                        f'config/sweep_capacity.py')
    beside = chosen(read_summaries([args.beside / 'summary.csv']), decay) if args.beside else []
    figures = draw_all(rows, beside, args.beside.resolve().name if args.beside else '')
    drawn = {name: figure for name, figure in figures.items()
             if args.only in (None, name.removeprefix('capacity_'))}
    if not drawn:
        raise UserError(f'{", ".join(map(str, args.summary))}: nothing in it to draw'
                        + (f' with --only={args.only}' if args.only else ''))
    for name, figure in drawn.items():
        output = args.output_dir / f'{name}.{args.format}'
        save(figure, output)
        print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
