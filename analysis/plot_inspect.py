"""Draw what analysis/inspect_rule.py found inside models of arithmetic.

    python analysis/plot_inspect.py inside
    python analysis/plot_inspect.py inside --output_dir=figures --format=svg

Reads inspect.json and inspect.csv of a folder and writes inspect.png, a column for each of the first four
runs (the last checkpoint of its first seed): the digits, where `=` looks, what the results read as, how well
they can be read, the logit lens, and the scores without a part. For several checkpoints it also writes
inspect_numbers.png: the numbers against iteration if a seed has several checkpoints, else against width. A
line is the median over seeds, a band their range. Takes seconds. docs/inspect.md explains each panel.
"""
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tbtt.figures import BLACK, ORANGE, PURPLE, add_format, draw_seeds, legend_once, look, marker, save
from tbtt.rows import Rows, read_rows

MOST_COLUMNS = 4
WRITER = 'analysis/inspect_rule.py'
OPERATIONS = {'add': 'sums', 'sub': 'differences'}
# The kinds of R² of what is read: their names, and their lines.
R2 = {'pair_left_out': 'pair left out', 'operand_left_out': 'operand left out',
      'digits_renamed': 'digits renamed', 'results_shuffled': 'results shuffled'}
R2_LINES = {'pair_left_out': dict(color=BLACK, linestyle='-'),
            'operand_left_out': dict(color=PURPLE, linestyle='--', linewidth=1.8),
            'digits_renamed': dict(color='0.5', linestyle=':', linewidth=2.2),
            'results_shuffled': dict(color='0.7', linestyle='-.')}
DOTS = {'true': 'o', 'shuffled': 'x'}    # markers of seeds, by kind of answers
TEXTS = ('run', 'checkpoint', 'answers', 'verdict')

Checkpoint = dict[str, Any]    # of inspect.json


def read(folder: Path) -> tuple[list[Checkpoint], Rows]:
    """-> the checkpoints of inspect.json, the rows of inspect.csv. Raises `UserError`, naming the file, if
    inspect_rule.py did not write it."""
    path = folder / 'inspect.json'
    try:
        found = json.loads(path.read_text(encoding='utf-8'))['checkpoints']
        found[0]['run'], found[0]['readout']['stage']
    except (OSError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: {type(error).__name__}: {error}: write it with {WRITER}') from error
    return found, read_rows(folder / 'inspect.csv', TEXTS, ('iteration', 'n_embd'), WRITER)


# Panels for one checkpoint.

def draw_digits(axes: Axes, one: Checkpoint) -> None:
    """The embeddings of the digits in their first two principal components, in the order of the digits."""
    digits = one['digits']
    x, y = np.array(digits['plane']).T
    axes.plot(x, y, color='0.8', linewidth=1.5, zorder=1)
    for at, character in zip(zip(x, y), digits['characters']):
        axes.text(*at, character, ha='center', va='center', fontsize=12, weight='bold', color=BLACK)
    axes.margins(0.15)
    axes.set_aspect('equal', adjustable='datalim')
    even = '' if digits['evenness'] is None else f'evenness of the arc {digits["evenness"]:.2f}, '
    axes.set(title=f'{even}{digits["share"]:.0%} of variance', xlabel='First component',
             ylabel='Digits:\nsecond component')


def draw_attention(axes: Axes, one: Checkpoint) -> None:
    """Where `=` looks: a bar for each role, the mean over heads. Several heads also have a dot each."""
    heads = [list(head['to'].values()) for head in one['attention']]
    roles = list(one['attention'][0]['to'])
    axes.bar(roles, 100 * np.mean(heads, 0), color='0.6')
    if len(heads) > 1:
        for i in range(len(roles)):
            axes.plot(np.full(len(heads), i), [100 * head[i] for head in heads], 'o', color=BLACK,
                      markersize=3, alpha=0.5, label='one head')
    axes.set_xticks(range(len(roles)), [role.replace(' ', '\n') for role in roles])
    axes.set(title="where '=' looks", ylabel='Attention (%)', ylim=(0, 100))


def draw_read(axes: Axes, one: Checkpoint) -> None:
    """What each question reads as, against its result."""
    ends = [10**9, -10**9]
    for operation, asked in one['readout']['read'].items():
        result, value, trained = (np.array(asked[name]) for name in ('result', 'read', 'trained'))
        for group, some, size in ((operation, trained, 4), ('heldout', ~trained, 6)):
            axes.plot(result[some], value[some], marker(group), color=look(group)['color'], markersize=size,
                      alpha=0.5 if group == operation else 1, zorder=3 if group == operation else 4)
        ends = [min(ends[0], *result), max(ends[1], *result)]
    axes.plot(ends, ends, color='0.6', linewidth=1, zorder=0)
    axes.set(title=f'read after {one["readout"]["stage"]}', xlabel='Result', ylabel='Reads as')


def draw_r2(axes: Axes, one: Checkpoint) -> None:
    """R² of what is read, and its controls. A value below 0 is drawn as 0: no better than the mean."""
    shares = one['readout']['r2'][one['readout']['stage']]
    for i, (operation, name) in enumerate(OPERATIONS.items()):
        values = [max(0, shares[operation][kind] or 0) for kind in R2]
        axes.bar(np.arange(len(R2)) + 0.4 * (i - 0.5), values, 0.38, color=look(operation)['color'],
                 label=name)
    axes.set_xticks(range(len(R2)), [label.replace(' ', '\n', 1) for label in R2.values()])
    axes.set(title='how well they can be read', ylabel='R² (below 0: 0)', ylim=(0, 1.05))


def draw_lens(axes: Axes, one: Checkpoint) -> None:
    """The probability of the right answer if the output head read the residual stream at each stage."""
    stages = list(one['lens'])
    for group in one['score']:
        axes.plot(range(len(stages)), [100 * one['lens'][stage][group]['probability'] for stage in stages],
                  marker=marker(group), **look(group))
    axes.set_xticks(range(len(stages)), [stage.replace(' ', '\n', 1) for stage in stages])
    axes.set(title='logit lens', ylabel='Probability of\nthe right answer (%)', ylim=(-3, 105))


def draw_without(axes: Axes, one: Checkpoint) -> None:
    """Right answers of the whole model, after another line, and of the model without each part."""
    scores = {'whole': one['score'], 'after\na line': one['context'],
              **{f'without\n{part}': score for part, score in one['without'].items()}}
    groups = list(one['score'])
    for i, group in enumerate(groups):
        axes.bar(np.arange(len(scores)) + 0.4 * (i - (len(groups) - 1) / 2),
                 [100 * score[group]['right'] for score in scores.values()], 0.38,
                 color=look(group)['color'], label=look(group)['label'])
    axes.set_xticks(range(len(scores)), scores)
    symmetric = one['symmetry'].get('heldout')
    axes.set(title='without a part' if symmetric is None else f'held-out p(a+b) = p(b+a) to {symmetric:.2f}',
             ylabel='Right answers (%)', ylim=(0, 105))


PANELS: tuple[Callable[[Axes, Checkpoint], None], ...] = (draw_digits, draw_attention, draw_read, draw_r2,
                                                         draw_lens, draw_without)


def title(one: Checkpoint) -> str:
    """`width 28: lookup`, and in a second line `seed 1337, iteration 30,000`."""
    answers = ', shuffled answers' if one['answers'] == 'shuffled' else ''
    return (f'width {one["n_embd"]}{answers}: {one["verdict"]}\n'
            f'seed {one["seed"]}, iteration {one["iteration"]:,}')


def shown(found: list[Checkpoint]) -> list[Checkpoint]:
    """The last checkpoint of the first seed of each run, for the first MOST_COLUMNS runs."""
    chosen = {}
    for one in found:
        best = chosen.setdefault(one['run'], one)
        if one['seed'] == best['seed'] and one['iteration'] >= best['iteration']:
            chosen[one['run']] = one
    return list(chosen.values())[:MOST_COLUMNS]


def draw_inside(found: list[Checkpoint]) -> Figure:
    """A column of panels for each checkpoint; for a single checkpoint, its panels in three columns."""
    if len(found) == 1:
        figure = Figure(figsize=(10.5, 6.4), layout='constrained')
        columns = [figure.subplots(2, 3).flatten()]
        figure.suptitle(title(found[0]).replace('\n', ', '), fontsize=11)
    else:
        figure = Figure(figsize=(0.6 + 3.5 * len(found), 2.5 * len(PANELS) + 0.8), layout='constrained')
        columns = list(figure.subplots(len(PANELS), len(found)).T)
    for column, one in zip(columns, found):
        for axes, panel in zip(column, PANELS):
            panel(axes, one)
            tidy(axes)
        if len(found) > 1:
            column[0].set_title(f'{title(one)}\n\n{column[0].get_title()}', fontsize=10)
            if one is not found[0]:
                for axes in column:
                    axes.set_ylabel('')
    legend_once(figure, ncols=4, fontsize=9)
    return figure


def tidy(axes: Axes) -> None:
    """The look of every panel."""
    axes.title.set_fontsize(10)
    axes.tick_params(labelsize=8)
    axes.grid(color='0.93')
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)


# Panels for several checkpoints, one for each number.

def numbers() -> list[tuple[str, str, dict[str, dict]]]:
    """-> (title, label of the axis, {column: how it is drawn}) of each panel"""
    def both(template: str) -> dict[str, dict]:
        return {template.format(group): look(group) for group in ('seen', 'heldout')}

    panels = [('right answers', 'Share', both('{}_right')),
              ('right after another line', 'Share', both('context_right_{}')),
              ('p(a+b) = p(b+a)', 'Symmetry', both('symmetry_{}')),
              ('digits', 'Share', {
                  'digits_evenness': dict(color=ORANGE, linestyle='-', label='evenness of the arc'),
                  'digits_share': dict(color=ORANGE, linestyle=':', label='variance in two components')})]
    for operation, name in OPERATIONS.items():
        panels.append((f'{name} read linearly', 'R² (below 0: 0)',
                       {f'{operation}_r2_{kind}': R2_LINES[kind] | {'label': label}
                        for kind, label in R2.items()}))
    return panels


def curves(rows: Rows, x: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column against the column x. -> (T,) sorted values of x; (R, T), a row per seed, NaN if absent"""
    # Runs of different widths share one row for each seed; runs of the same width have separate rows.
    shared = len({(row['seed'], row[x]) for row in rows}) == len(rows)
    owners = [row['seed'] if shared else (row['run'], row['seed']) for row in rows]
    places, seeds = sorted({row[x] for row in rows}), sorted(set(owners))
    values = np.full((len(seeds), len(places)), np.nan)
    for owner, row in zip(owners, rows):
        values[seeds.index(owner), places.index(row[x])] = row.get(column, np.nan)
    return np.array(places), values


def draw_number(axes: Axes, rows: Rows, x: str, columns: dict[str, dict]) -> None:
    """The lines of a panel: median and range over seeds, with values below 0 drawn as 0. Against width each
    seed also has a dot, and shuffled answers have only crosses."""
    for column, style in columns.items():
        for answers, dot in DOTS.items():
            some = [row for row in rows if row['answers'] == answers]
            if not some:
                continue
            places, values = curves(some, x, column)
            values = np.clip(values, 0, None)
            if x == 'iteration' or answers == 'true':
                draw_seeds(axes, places, values, style)
            if x == 'n_embd':
                axes.plot(np.repeat(places[None], len(values), 0).ravel(), values.ravel(), dot,
                          color=style['color'], markersize=5, alpha=0.6)
    axes.set(ylim=(-0.03, 1.05))
    if x == 'n_embd':
        axes.set_xticks(sorted({row[x] for row in rows}))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f'{at:,.0f}'))


def draw_numbers(rows: Rows) -> Figure:
    """A panel for each number: against iteration in a column for each run, or against width for all runs."""
    seeds = {(row['run'], row['seed']) for row in rows}
    x = 'iteration' if len(seeds) < len(rows) else 'n_embd'
    runs = list(dict.fromkeys(row['run'] for row in rows))[:MOST_COLUMNS]
    parts = [[row for row in rows if row['run'] == name] for name in runs] if x == 'iteration' else [rows]
    panels = numbers()
    high, wide = (len(panels), len(parts)) if len(parts) > 1 else (2, 3)
    figure = Figure(figsize=(0.8 + 3.5 * wide, 2.3 * high + 1.2), layout='constrained')
    grid = figure.subplots(high, wide).reshape(len(panels), len(parts))
    for column, some in zip(grid.T, parts):
        for axes, (subject, label, columns) in zip(column, panels):
            draw_number(axes, some, x, columns)
            axes.set(title=subject, ylabel=label if some is parts[0] else '')
            tidy(axes)
        if len(parts) > 1:
            column[0].set_title(f'{heading(some)}\n\n{panels[0][0]}', fontsize=10)
        elif x == 'iteration':
            figure.suptitle(heading(some), fontsize=11)
    for axes in figure.axes[-wide:]:
        axes.set_xlabel('Iteration' if x == 'iteration' else 'Width')
    if x == 'n_embd' and any(row['answers'] == 'shuffled' for row in rows):
        figure.axes[0].plot([], [], DOTS['shuffled'], color=BLACK, label='shuffled answers')
    legend_once(figure, ncols=2 if wide == 2 else 3, fontsize=9)
    return figure


def heading(rows: Rows) -> str:
    """The heading of a column of numbers: `width 28, shuffled answers, 2 seeds`."""
    answers = ', shuffled answers' if rows[0]['answers'] == 'shuffled' else ''
    seeds = len({row['seed'] for row in rows})
    return f'width {rows[0]["n_embd"]:.0f}{answers}, ' + ('1 seed' if seeds == 1 else f'{seeds} seeds')


def draw(folder: Path, output_dir: Path, kind: str) -> list[Path]:
    """Draw the files of a folder. -> the paths written. Raises `UserError` if the files are damaged."""
    found, rows = read(folder)
    try:
        figures = {'inspect': draw_inside(shown(found))}
        if len(rows) > 1:
            figures['inspect_numbers'] = draw_numbers(rows)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{folder}: inspect.json or inspect.csv is damaged ({error!r}): write it with '
                        f'{WRITER}') from error
    paths = [output_dir / f'{name}.{kind}' for name in figures]
    for path, figure in zip(paths, figures.values()):
        save(figure, path)
    return paths


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('folder', type=Path, help='where inspect.json and inspect.csv are')
    parser.add_argument('--output_dir', type=Path, help='where to write (default: that folder)')
    add_format(parser)
    args = parser.parse_args()
    print('wrote', ', '.join(map(str, draw(args.folder, args.output_dir or args.folder, args.format))))


if __name__ == '__main__':
    run(main)
