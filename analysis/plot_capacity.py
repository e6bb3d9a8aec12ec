"""Draw what a sweep over widths found: which sizes learn the rule, which recall the facts, and how surely.

    python analysis/plot_capacity.py sweeps/capacity/summary.csv
    python analysis/plot_capacity.py sweeps/capacity/summary.csv more/summary.csv --weight_decay=0.1 --format=svg

Reads summary.csv of one or several sweeps (finished seeds only) and writes capacity.png, the scores against parameters,
capacity_training.png, the probability of the right answer over training (where the seeds' results.csv are still beside the
summary), and where other pairs than (5,7) were held out capacity_heldout.png, a column a set of pairs, into --output_dir.
Takes seconds.
"""
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt import paper
from tbtt.cli import Parser, UserError, run
from tbtt.figures import save
from tbtt.results import read_results, stack_seeds, wilson_interval
from tbtt.sweep.summary import PAIR, RECIPE, TASKS, read_summaries

NEAR = 4    # times larger or smaller
PANELS = {tasks: name for name, tasks in TASKS.items()}    # tasks of a summary -> name in tbtt.paper
# Every line differs from its neighbours in marker and dashes too, for a printer without colours.
SHARES = {'best': dict(color='tab:purple', marker='s', linestyle=':', label='seeds at 40/40 held-out, best evaluation'),
          'last': dict(color='black', marker='o', linestyle='-', label='seeds at 40/40 held-out, last evaluation')}
MEANS = {'last_heldout': dict(color='tab:purple', marker='D', linestyle='--',
                             label='held-out answers, mean at the last evaluation'),
         'last_seen': dict(color='tab:green', marker='^', linestyle='-.', label='seen answers, mean at the last evaluation'),
         'last_facts': dict(color='tab:orange', marker='v', linestyle=(0, (7, 2)),
                           label='facts recalled, mean at the last evaluation')}
PAPER = {'heldout': dict(marker='D', color='tab:purple', label='paper, best evaluation: held-out'),
         'facts_pct': dict(marker='v', color='tab:orange', label='paper, best evaluation: facts')}


def by_size(rows):
    """-> list of (parameters, rows of that size), smallest first"""
    sizes = sorted({row['num_params'] for row in rows})
    return [(size, [row for row in rows if row['num_params'] == size]) for size in sizes]


def draw_shares(axes, sizes):
    """The share of seeds that answer every held-out question, with Wilson's intervals."""
    for number, (when, look) in enumerate(SHARES.items()):
        x, counts, totals = [], [], []
        for size, rows in sizes:
            rows = [row for row in rows if row['heldout_total']]
            if rows:
                x.append(size * (1.02 if number else 0.98))    # side by side
                counts.append(sum(row[f'{when}_heldout_correct'] == row['heldout_total'] for row in rows))
                totals.append(len(rows))
        if x:
            share = np.array(counts) / totals
            ends = np.array([wilson_interval(count, total) for count, total in zip(counts, totals)]).T
            axes.errorbar(x, 100 * share, 100 * np.abs(ends - share), capsize=3, linewidth=1.4, markersize=5, **look)


def draw_means(axes, sizes):
    """Mean scores over the seeds, and each seed as a faint dot."""
    for name, look in MEANS.items():
        points = [(size, value) for size, rows in sizes for row in rows
                  if (value := row.get(name)) is not None]
        if points:
            x, y = np.array(points).T
            axes.scatter(x, y, s=16, color=look['color'], marker=look['marker'], alpha=0.5, linewidth=0, zorder=3)
            levels = np.unique(x)
            axes.plot(levels, [y[x == level].mean() for level in levels], linewidth=1.4, markersize=5, **look)


def draw_paper(axes, task, sizes):
    """The paper's models of about the sizes that were trained, with its own values: the MLT alone would take half the axis."""
    numbers = paper.published()
    for model, size in zip(paper.MODELS, paper.NUM_PARAMS[task]):
        if not min(sizes) / NEAR <= size <= max(sizes) * NEAR:
            continue
        axes.axvline(size, color='0.8', linewidth=0.8, zorder=0)
        axes.annotate(model, (size, 1.0), xycoords=('data', 'axes fraction'), xytext=(0, 2), textcoords='offset points',
                      ha='center', fontsize=8, color='0.3')
        row = numbers[task, model]
        if row['heldout_total']:
            heldout = 100 * float(row['heldout_correct']) / float(row['heldout_total'])
            axes.plot(size, heldout, linestyle='', markersize=11, markerfacecolor='none', zorder=1, **PAPER['heldout'])
        if row['facts_pct']:
            axes.plot(size, float(row['facts_pct']), linestyle='', markersize=11, markerfacecolor='none', zorder=1,
                      **PAPER['facts_pct'])


def draw_capacity(rows):
    """A panel a task, scores against parameters."""
    tasks = [tasks for tasks in PANELS if any(row['tasks'] == tasks for row in rows)]
    figure = Figure(figsize=(5.2 * len(tasks) + 0.6, 5.2), layout='constrained')
    handles = {}
    for axes, tasks in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks):
        found = [row for row in rows if row['tasks'] == tasks]
        axes.set(xscale='log', ylim=(-4, 106), xlabel='parameters (position embeddings not counted)')
        axes.grid(color='0.93')
        axes.set_axisbelow(True)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
        axes.set_title(f'{paper.TASKS[PANELS[tasks]]}: {seeds_text(by_size(found))}', fontsize=10, pad=16)
        draw_paper(axes, PANELS[tasks], [row['num_params'] for row in found])
        draw_means(axes, by_size(found))
        draw_shares(axes, by_size(found))
        handles |= dict(zip(reversed((labels := axes.get_legend_handles_labels())[1]), reversed(labels[0])))
    figure.axes[0].set_ylabel('percent')
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=3, frameon=False, fontsize=8)
    return figure


def seeds_text(groups):
    """6 seeds each, or 3 to 6 of them."""
    numbers = sorted({len(members) for _, members in groups})
    text = f'{numbers[0]}' if len(numbers) == 1 else f'{numbers[0]} to {numbers[-1]}'
    return f'{text} seed{"s" * (numbers[-1] > 1)} each'


def training_curves(rows):
    """{(tasks, width): results of its seeds, stacked} for the widths whose results.csv are there"""
    curves = {}
    for tasks, width in sorted({(row['tasks'], row['n_embd']) for row in rows}):
        folders = [row['path'] for row in rows if (row['tasks'], row['n_embd']) == (tasks, width)]
        found = [read_results(folder / 'results.csv') for folder in folders if (folder / 'results.csv').exists()]
        if found:
            curves[tasks, width] = stack_seeds(found)
    return curves


def draw_training(curves):
    """Probability of the right answer over training: a row a task, seen against held-out, a line a width."""
    columns = {'math': ('seen_prob', 'heldout_prob'), 'facts': ('facts_prob',),
               'math+facts': ('seen_prob', 'heldout_prob', 'facts_prob')}
    titles = {'seen_prob': 'seen arithmetic', 'heldout_prob': 'held-out arithmetic', 'facts_prob': 'facts'}
    tasks = [tasks for tasks in PANELS if any(key[0] == tasks for key in curves)]
    count = max(len(columns[task]) for task in tasks)
    figure = Figure(figsize=(5.0 * count + 1.6, 3.6 * len(tasks)), layout='constrained')
    widths = sorted({width for _, width in curves})
    looks = {width: dict(color=str(0.72 * (1 - i / max(1, len(widths) - 1))), linewidth=1.0 + 0.5 * (i % 2),
                         linestyle=['-', '--', '-.', ':'][i % 4]) for i, width in enumerate(widths)}
    grid = figure.subplots(len(tasks), count, sharex=True, sharey=True, squeeze=False)
    for row, task in zip(grid, tasks):
        for axes in row[len(columns[task]):]:
            axes.set_axis_off()
        for axes, column in zip(row, columns[task]):
            for (tasks_here, width), results in curves.items():
                if tasks_here == task:
                    x, values = results['iter'] / 1000, np.atleast_2d(results[column])
                    axes.plot(x, np.nanmedian(values, axis=0), **looks[width])
                    axes.fill_between(x, np.nanmin(values, axis=0), np.nanmax(values, axis=0), alpha=0.12, linewidth=0,
                                      color=looks[width]['color'])
            axes.set_title(f'{paper.TASKS[PANELS[task]]}: {titles[column]}' if task != 'facts' else paper.TASKS[task],
                           fontsize=10)
            axes.set(ylim=(-0.03, 1.03), xlabel='iteration (thousands)')
            axes.tick_params(labelbottom=True)    # shared axes have numbers only at the bottom, where some panel is missing
            axes.grid(color='0.93')
        row[0].set_ylabel('probability of the right answer')
    handles = [Line2D([], [], label=f'width {width:.0f}', **look) for width, look in looks.items()]
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=8, title='median, range')
    return figure


def draw_heldout(rows):
    """Held-out answers at the end, a column a set of held-out pairs, a marker a width, a faint dot a seed."""
    sets = sorted({row['heldout'] for row in rows}, key=lambda pairs: (pairs.count(';'), pairs))
    widths = sorted({row['n_embd'] for row in rows})
    figure = Figure(figsize=(1.6 + 0.75 * len(sets), 4.6), layout='constrained')
    axes = figure.subplots()
    for i, width in enumerate(widths):
        look = dict(color=str(0.6 * i / max(1, len(widths) - 1)), marker='osD^v'[i % 5])
        shift = 0.3 * (i / max(1, len(widths) - 1) - 0.5)
        labels = [f'width {width:.0f}: mean', f'width {width:.0f}: seeds that answer all']
        for x, pairs in enumerate(sets):
            scores = [row['last_heldout'] for row in rows if (row['heldout'], row['n_embd']) == (pairs, width)]
            if scores:
                axes.scatter([x + shift] * len(scores), scores, s=14, alpha=0.3, linewidth=0, **look)
                full = sum(score == 100 for score in scores)
                low, high = wilson_interval(full, len(scores))
                axes.plot(x + shift, np.mean(scores), markersize=7, linestyle='', **look,
                          label=labels[0])
                axes.errorbar(x + shift + 0.08, 100 * full / len(scores), [[100 * (full / len(scores) - low)],
                              [100 * (high - full / len(scores))]], capsize=3, linewidth=1.2, fmt='_', color=look['color'],
                              label=labels[1])
                labels = [None, None]    # once in the legend
    axes.set_xticks(range(len(sets)), [pairs if pairs.count(';') < 1 else f'{pairs.count(";") + 1} pairs' for pairs in sets],
                    rotation=45, ha='right')
    axes.set(ylim=(-4, 106), ylabel='percent', xlabel='held-out pair',
             title=f'Arithmetic with other pairs held out: {seeds_text(by_pairs(rows))}')
    axes.grid(color='0.93', axis='y')
    figure.legend(loc='outside lower center', ncols=2, frameon=False, fontsize=8)
    return figure


def by_pairs(rows):
    """The same as `by_size` of sets of held-out pairs at each width."""
    keys = sorted({(row['heldout'], row['n_embd']) for row in rows})
    return [(key, [row for row in rows if (row['heldout'], row['n_embd']) == key]) for key in keys]


def chosen(rows, decay):
    """The one-layer models with this weight decay. Raises `UserError` for seeds of one size that were trained differently."""
    fixed = {'n_layer': 1, 'n_head': 1, 'mlp_expansion': 1, 'dropout': 0, 'weight_decay': decay}
    found = [row for row in rows if row['tasks'] in PANELS and all(row[name] == value for name, value in fixed.items())]
    recipes = {}
    for row in found:
        size = row['tasks'], row['n_embd'], row['heldout']
        for name in ('max_iters', 'data', *RECIPE):
            if recipes.setdefault((size, name), row[name]) != row[name]:
                raise UserError(f'runs of {row["tasks"]} at width {row["n_embd"]:g} differ in {name}, {recipes[size, name]} '
                                f'and {row[name]}: their mean would be of nothing; draw each from a summary of its own')
    return found


def main():
    parser = Parser(__doc__)
    parser.add_argument('summary', nargs='+', type=Path, help='summary.csv of a sweep')
    parser.add_argument('--weight_decay', type=float, default=0.0, help='the runs with this one (default: 0.0)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    parser.add_argument('--format', default='png', choices=('png', 'svg', 'pdf'), help='(default: png)')
    args = parser.parse_args()
    rows = chosen(read_summaries(args.summary), args.weight_decay)
    if not rows:
        raise UserError(f'no finished seed of a one-layer model with weight_decay={args.weight_decay:g} in '
                        f'{", ".join(map(str, args.summary))}: train it with sweep.py config/sweep_capacity.py')
    figures = {}
    usual = [row for row in rows if row.get('heldout') in (PAIR, '', None)]
    if usual:
        figures['capacity'] = draw_capacity(usual)
        curves = training_curves(usual)
        if curves:
            figures['capacity_training'] = draw_training(curves)
        else:
            print('no results.csv beside the summary: the figure over training is left out')
    pairs = [row for row in rows if row['tasks'] == 'math' and row['last_heldout'] is not None]
    if len(usual) < len(rows) and pairs:
        figures['capacity_heldout'] = draw_heldout(pairs)
    for name, figure in figures.items():
        output = args.output_dir / f'{name}.{args.format}'
        save(figure, output)
        print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
