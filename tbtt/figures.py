"""The look that all figures share: the same thing has the same colour in every figure.

The colours are those of Okabe and Ito, which colour-blind people can tell apart
(https://jfly.uni-koeln.de/color/). Each colour has its own line style and marker, so that figures can also be
read in grey.
"""
import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from tbtt.atomic import write_file
from tbtt.cli import UserError
from tbtt.config import FIELDS
from tbtt.tasks import TASKS

GREEN, SKY, VERMILLION, BLUE, ORANGE, PURPLE, BLACK, YELLOW = (
    '#009E73', '#56B4E9', '#D55E00', '#0072B2', '#E69F00', '#CC79A7', '#000000', '#F0E442')
# Looks of the groups of questions, in the order in which the tasks name the groups: addition, subtraction,
# held-out, seen, facts, ...
GROUP_LOOKS = (
    dict(color=GREEN, linestyle=(0, (5, 1.5)), marker='<', linewidth=1.6),
    dict(color=SKY, linestyle=':', marker='>', linewidth=2.2),
    dict(color=VERMILLION, linestyle='-', marker='D', linewidth=2.2),
    dict(color=BLUE, linestyle='-.', marker='^', linewidth=1.6),
    dict(color=ORANGE, linestyle=(0, (7, 2, 1.5, 2)), marker='s', linewidth=1.8),
    dict(color=PURPLE, linestyle=(0, (3, 1)), marker='v', linewidth=1.8),
    dict(color=BLACK, linestyle=(0, (4, 1, 1, 1, 1, 1)), marker='p', linewidth=1.6))
LOSS_LOOKS = {'train_loss': dict(label='Training loss', color='0.45', linestyle=(0, (9, 2)), linewidth=1.2),
              'val_loss': dict(label='Validation loss', color='0.2', linestyle=(0, (1, 3)), linewidth=1.4)}
BEHIND = dict(color='0.55', linewidth=1.0, alpha=0.8, zorder=1)    # runs of another folder, drawn behind
# Top of the right axis, as in the paper. It is above ln 66, the loss of a model of both tasks that knows
# nothing.
LOSS_TOP = 4.5
# Numbers of parameters at which the colour scale of models begins and ends. It includes the widths 10 to 56.
SMALL, LARGE = 700, 30_000
CLOSE = 0.06    # shades (0 to 1) closer than this look alike
MARKERS, DASHES = 'osD^v', ('-', '--', '-.', ':')
FIRST_THOUSANDS = dict(linthresh=500, linscale=0.4)    # an axis of iterations: linear, then logarithmic
IN_TITLES = ('weight_decay', 'windows', 'line_order')    # settings to name where they are not the defaults
FORMATS = ('png', 'svg', 'pdf')


def look(group: str) -> dict:
    """How lines of a group of questions are drawn: label, color, linestyle, linewidth. With more than seven
    groups the looks repeat."""
    labels = {each: label for task in TASKS.values() for each, label in task.labels.items()}
    style = GROUP_LOOKS[list(labels).index(group) % len(GROUP_LOOKS)]
    return dict(label=labels[group], **{name: value for name, value in style.items() if name != 'marker'})


def marker(group: str) -> str:
    """The marker of a group of questions, for values drawn as points."""
    groups = [each for task in TASKS.values() for each in task.labels]
    return GROUP_LOOKS[groups.index(group) % len(GROUP_LOOKS)]['marker']


def model_looks(sizes: Sequence[float]) -> list[dict]:
    """color, marker and linestyle of models with these numbers of parameters: small dark, large light.

    A size has the same colour in all figures. If two sizes would look alike, the colours follow the order of
    the sizes instead.
    """
    shades = np.clip(np.log(np.maximum(sizes, 1) / SMALL) / np.log(LARGE / SMALL), 0, 1)
    if (np.diff(np.sort(shades)) < CLOSE).any():
        shades = np.argsort(np.argsort(sizes, kind='stable')) / (len(sizes) - 1)
    return [dict(color=colormaps['viridis'](0.85 * shade), marker=MARKERS[i % len(MARKERS)],
                 linestyle=DASHES[i % len(DASHES)]) for i, shade in enumerate(shades)]


def add_format(parser: argparse.ArgumentParser) -> None:
    """The option --format of a script that draws."""
    parser.add_argument('--format', default='png', choices=FORMATS, help='of the figures (default: png)')


def percent_axis(axes: Axes) -> None:
    """An axis from 0 to 100 percent, with a faint grid."""
    axes.set_ylim(0, 105)
    axes.grid(color='0.92')
    axes.set_axisbelow(True)
    axes.spines['top'].set_visible(False)


def accuracy_and_loss(axes: Axes, loss_top: float = LOSS_TOP) -> Axes:
    """Give `axes` a left axis in percent. -> its twin, whose right axis is the loss"""
    percent_axis(axes)
    loss = axes.twinx()
    loss.set_ylim(0, loss_top)
    loss.spines['top'].set_visible(False)
    loss.tick_params(axis='y', colors=LOSS_LOOKS['train_loss']['color'])
    return loss


def short(number: float) -> str:
    """500, 1k, 20k: a label of a logarithmic axis."""
    return f'{number / 1000:g}k' if number >= 1000 else f'{number:g}'


def parameters_axis(axes: Axes) -> None:
    """A logarithmic axis of numbers of parameters, with ticks at 500, 1k, 2k, 5k, ..."""
    axes.set(xscale='log', xlabel='Parameters (position embeddings not counted)')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def iterations_axis(axes: Axes, last: int) -> None:
    """An axis of iterations from 0 to `last`. The first thousands get most room, because a rule appears and
    disappears there."""
    axes.set_xscale('symlog', **FIRST_THOUSANDS)
    ticks = [tick for tick in (0, 500, 1000, 2000, 5000, 10000, 30000) if tick <= last]
    if last > 1.5 * ticks[-1]:
        ticks.append(last)
    axes.set_xticks(ticks, [short(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set(xlim=(0, max(last, 1)), xlabel='Iteration')


def run_title(folder: Path, info: dict, num_seeds: int) -> str:
    """A title such as `n14, 1,456 parameters, 8 seeds`. A second line names the settings of `IN_TITLES` that
    are not the defaults. info: run.json of a seed"""
    config = info.get('config', {})
    parts = [f'n{config["n_embd"]}' if 'n_embd' in config else folder.name]
    parts += [f'{info["num_params"]:,} parameters'] if info.get('num_params') else []
    parts += [f'{num_seeds} seeds' if num_seeds > 1 else '1 seed']
    unusual = [f'{name}={config[name]}' for name in IN_TITLES
               if config.get(name, FIELDS[name].default) != FIELDS[name].default]
    return '\n'.join(', '.join(line) for line in (parts, unusual) if line)


def draw_seeds(axes: Axes, x: np.ndarray, values: np.ndarray, style: dict, band: bool = True) -> None:
    """Median line over R seeds and, for R > 1, their range as a band. x (T,), values (R, T); NaNs are left
    out."""
    some = ~np.isnan(values).all(axis=0)
    if not some.any():
        return
    x, values = x[some], values[:, some]
    axes.plot(x, np.nanmedian(values, axis=0), **style)
    if len(values) > 1 and band:
        axes.fill_between(x, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=style['color'],
                          alpha=0.15, linewidth=0)


def legend_once(figure: Figure, panels: Sequence[Axes] | None = None, place: Axes | None = None,
                **options: Any) -> None:
    """A legend below the figure, or in the empty axes `place`, that names each label once. panels: the axes
    whose labels it names, by default all axes of the figure."""
    drawn = {name: handle for axes in panels or figure.axes
             for handle, name in zip(*axes.get_legend_handles_labels())}
    where = 'center' if place else 'outside lower center'
    (place or figure).legend(drawn.values(), drawn.keys(), loc=where, frameon=False, **options)


def save(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write the figure, whole or not at all, in the format that the name ends in. Raises `UserError` for an
    unknown format."""
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix[1:].lower()
    if kind not in kinds:
        raise UserError(f'cannot write {path}: let its name end in one of '
                        f'{", ".join("." + kind for kind in kinds)}')
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=dpi)
    if kind == 'png':
        picture = fewer_colours(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, picture.getvalue())


def fewer_colours(picture: io.BytesIO) -> io.BytesIO:
    """A PNG picture in 256 colours, a third of the size. The eye sees no difference."""
    smaller = io.BytesIO()
    Image.open(picture).convert('RGB').quantize(256, dither=Image.Dither.NONE).save(smaller, 'PNG')
    return smaller


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. heads: (C,) texts; rows: (C,) texts each."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (heads, ['---'] * len(heads), *rows))
