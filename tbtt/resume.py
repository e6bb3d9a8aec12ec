"""Resuming a run: the settings that it was made with, and what is missing if another program made it."""
import contextlib
from pathlib import Path
from typing import Any

from tbtt import nanogpt
from tbtt.checkpoint import read_checkpoint
from tbtt.cli import InvalidSetting
from tbtt.config import FIELDS, Config, set_value
from tbtt.layout import LATEST, RESULTS, seed_folders
from tbtt.results import read_info

# Settings that belong to the machine or to what is wanted now, not to the run.
NOT_OF_A_RUN = {'out_dir', 'init_from', 'overwrite', 'eval_only', 'device', 'dtype', 'compile',
                'keep_answers', 'num_seeds'}


def settings_of_run(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder, {name: value} under our names; {} if there is none. Raises
    `UserError` if its files are damaged."""
    for place in (folder, *seed_folders(folder)[:1]):
        if recorded := read_info(place).get('config'):
            return recorded if place == folder else {**recorded, 'seed': None}
    if (folder / LATEST).is_file():    # of nanoGPT or the paper's code, which write no run.json
        return nanogpt.recorded_settings(read_checkpoint(folder / LATEST))
    return {}


def with_settings_of_run(config: Config, how_long: bool) -> Config:
    """The settings to resume with: those that were given, and all others as in the run in `out_dir`,
    max_iters only if `how_long`."""
    recorded, keep = settings_of_run(Path(config.out_dir)), config.given | NOT_OF_A_RUN
    for name in sorted(FIELDS.keys() & recorded.keys() - keep - (set() if how_long else {'max_iters'})):
        with contextlib.suppress(InvalidSetting):    # reading the run reports a damaged file
            set_value(config, name, recorded[name])
    return config.check()


def describe_loss(checkpoint: dict[str, Any], path: Path) -> str:
    """One line on what is lost when a checkpoint of another program is resumed; '' for our own."""
    if 'meta' in checkpoint:
        return ''
    results = '' if (path.parent / RESULTS).exists() else f'; it has no results, so {RESULTS} begins here'
    return (f"{path} is nanoGPT's or of the paper's code: weights, optimizer, best validation loss and "
            f'iteration {checkpoint["iter_num"]:,} are kept; its random stream is not, so batches and '
            f'dropout follow our seed from here on{results}')
