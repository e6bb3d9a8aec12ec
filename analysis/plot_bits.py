"""Draw how many bits models memorise, against the bits offered and against the number of parameters.

    python analysis/plot_bits.py
    python analysis/plot_bits.py --folder=results/bits --output_dir=results/bits --format=svg

Reads bits.csv, bits_plateau.csv and bits_asked.csv of analysis/measure_capacity.py in --folder and writes
bits.png. Lines for comparison show 3.6 bits per parameter (Morris et al. 2025, arXiv 2505.24832), 2
(Allen-Zhu and Li 2024, arXiv 2404.05405), 2.16 at widths of 10 to 22 (Song and Ye 2026, arXiv 2605.09724),
and the bits that the paper's tasks ask for. Takes seconds.
"""
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbtt.figures import DASHES, MARKERS, add_format, legend_once, model_looks, parameters_axis, save
from tbtt.rows import Rows, read_rows

# Bits per parameter that others have measured.
OTHERS = {'Morris et al. 2025': 3.6, 'Song and Ye 2026': 2.16, 'Allen-Zhu and Li 2024': 2.0}
# The files of analysis/measure_capacity.py, and the columns of each that are drawn.
COLUMNS = {'bits.csv': ('sweep', 'n_embd', 'num_params', 'bits_offered', 'bits_memorised'),
           'bits_plateau.csv': ('sweep', 'n_embd', 'num_params', 'plateau', 'plateau_half', 'bends'),
           'bits_asked.csv': ('what', 'bits')}


def name_of(sweep: str) -> str:
    """bits_table -> table"""
    return sweep.removeprefix('bits_').replace('_', ' ')


def colours_of(rows: Rows) -> dict[float, Any]:
    """{width: colour} of the models: the colour that their size has in all figures."""
    sizes = {row['n_embd']: row['num_params'] for row in rows}
    return {width: style['color'] for width, style in zip(sizes, model_looks(list(sizes.values())))}


def look_of(sweep: str, sweeps: list[str]) -> dict:
    """marker and linestyle of a sweep, one of several."""
    i = sweeps.index(sweep)
    return dict(marker=MARKERS[i % len(MARKERS)], linestyle=DASHES[i % len(DASHES)])


def draw_offers(axes: Axes, rows: Rows, colours: dict[float, Any]) -> None:
    """Memorised against offered bits: a line through the means of each width, and a dot for each seed."""
    sweeps, widths = (sorted({row[name] for row in rows}) for name in ('sweep', 'n_embd'))
    for sweep in sweeps:
        for width in widths:
            style = dict(color=colours[width], **look_of(sweep, sweeps))
            points = np.array([(row['bits_offered'], row['bits_memorised']) for row in rows
                               if (row['sweep'], row['n_embd']) == (sweep, width)])
            if len(points):
                axes.plot(*points.T, **style | dict(linestyle=''), markersize=3, alpha=0.4, markeredgewidth=0)
                offers = np.unique(points[:, 0])
                means = [points[points[:, 0] == offer, 1].mean() for offer in offers]
                axes.plot(offers, means, markersize=4, linewidth=1.4, **style,
                          label=f'{name_of(sweep)}, n{width:.0f}')
    ends = [min(row['bits_offered'] for row in rows), max(row['bits_offered'] for row in rows)]
    axes.plot(ends, ends, color='0.6', linewidth=1, zorder=0)
    axes.annotate('everything', (ends[1], ends[1]), ha='right', va='bottom', fontsize=8, color='0.4')
    axes.set(xscale='log', yscale='log', xlabel='Bits offered', ylabel='Bits memorised, mean over seeds')


def draw_plateaus(axes: Axes, rows: Rows, asked: Rows, colours: dict[float, Any]) -> None:
    """The most bits that a width memorises, against its parameters. Hollow marker: no bend in its curve."""
    sweeps = sorted({row['sweep'] for row in rows})
    sizes = np.array(sorted({row['num_params'] for row in rows}))
    for sweep in sweeps:
        style = look_of(sweep, sweeps)
        ours = [row for row in rows if row['sweep'] == sweep]
        x, y, half = (np.array([row[name] for row in ours])
                      for name in ('num_params', 'plateau', 'plateau_half'))
        axes.errorbar(x, y, np.nan_to_num(half), capsize=3, color='0.25', linewidth=1.4, zorder=3,
                      label=f'{name_of(sweep)}, plateau', **style)
        for a, b, row in zip(x, y, ours):
            color = colours[row['n_embd']]
            axes.plot(a, b, style['marker'], color=color, markersize=7, zorder=4,
                      markerfacecolor=color if row['bends'] else 'white')
    for (name, bits), dashes in zip(OTHERS.items(), DASHES[1:] + DASHES[:1]):
        axes.plot(sizes, bits * sizes, color='0.55', linewidth=1, linestyle=dashes,
                  label=f'{bits:g} bits per parameter, {name}')
    for row in asked:
        axes.axhline(row['bits'], color='0.8', linewidth=0.8, zorder=0)
        axes.annotate(f'{row["what"]}, {row["bits"]:,.0f}', (0.99, row['bits']), ha='right', va='bottom',
                      xycoords=('axes fraction', 'data'), fontsize=7, color='0.35')
    parameters_axis(axes)
    axes.set(yscale='log', ylabel='Bits')


def draw_bits(rows: Rows, plateaus: Rows, asked: Rows) -> Figure:
    """The figure with both panels."""
    figure = Figure(figsize=(9.5, 5.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    colours = colours_of([*rows, *plateaus])
    draw_offers(left, rows, colours)
    draw_plateaus(right, plateaus, asked, colours)
    for axes in (left, right):
        axes.grid(color='0.93')
        axes.set_axisbelow(True)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
    legend_once(figure, ncols=3, fontsize=9)
    return figure


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('--folder', default='.', type=Path, help='where the three files are (default: .)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    rows, plateaus, asked = (read_rows(args.folder / name, {'sweep', 'run', 'what'}, columns,
                                       'analysis/measure_capacity.py') for name, columns in COLUMNS.items())
    output = args.output_dir / f'bits.{args.format}'
    save(draw_bits(rows, plateaus, asked), output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
