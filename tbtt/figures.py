"""The look that all plots share. Every colour has a line style of its own, so that a plot survives a grey printer."""
import io
from pathlib import Path

import numpy as np

from tbtt.cli import UserError
from tbtt.atomic import write_file

LOOK = {
    'add_acc': dict(label='Addition', color='tab:green', linestyle='-', linewidth=1.8),
    'sub_acc': dict(label='Subtraction', color='tab:blue', linestyle=':', linewidth=2.2),
    'heldout_acc': dict(label='Held-out', color='tab:purple', linestyle='-.', linewidth=1.5),
    'facts_acc': dict(label='Facts', color='tab:orange', linestyle='--', linewidth=1.8),
    'train_loss': dict(label='Training loss', color='tab:brown', linestyle=(0, (9, 2)), linewidth=1.2),
    'val_loss': dict(label='Validation loss', color='0.35', linestyle=(0, (1, 3)), linewidth=1.4),
}
LOSS_TOP = 4.5          # above ln 66, the loss of a model of both tasks that knows nothing: the paper's right axis


def accuracy_and_loss(axes, loss_top=LOSS_TOP):
    """Give `axes` a left axis in percent and return its twin, whose right axis is the loss."""
    axes.set_ylim(0, 105)
    axes.grid(color='0.92')
    axes.set_axisbelow(True)
    axes.spines['top'].set_visible(False)
    loss = axes.twinx()
    loss.set_ylim(0, loss_top)
    loss.spines['top'].set_visible(False)
    loss.tick_params(axis='y', colors=LOOK['train_loss']['color'])
    return loss


def draw_seeds(axes, x, values, look):
    """Median line over R seeds and, for R > 1, their range as a band. x (T,), values (R, T); NaNs are left out."""
    some = ~np.isnan(values).all(axis=0)
    if not some.any():
        return
    x, values = x[some], values[:, some]
    axes.plot(x, np.nanmedian(values, axis=0), **look)
    if len(values) > 1:
        axes.fill_between(x, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=look['color'], alpha=0.15,
                          linewidth=0)


def save(figure, path, dpi=150):
    """Write the figure, whole or not at all, in the format that the name ends in. UserError for an unknown one."""
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix[1:].lower()
    if kind not in kinds:
        raise UserError(f'cannot write {path}: let its name end in one of {", ".join("." + kind for kind in kinds)}')
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, picture.getvalue())


def markdown_table(heads, rows):
    """Markdown of texts: heads (C,), rows of (C,) each."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (heads, ['---'] * len(heads), *rows))
