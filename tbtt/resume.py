"""Going on with a run: the settings that it was made with, and what is lost of another program's."""
import contextlib
from pathlib import Path
from typing import Any

from tbtt import nanogpt
from tbtt.checkpoint import read_checkpoint
from tbtt.cli import InvalidSetting
from tbtt.config import FIELDS, Config, set_value
from tbtt.layout import LATEST, RESULTS, seed_folders
from tbtt.results import read_info

# Of the machine and of what is wanted now, not of the run.
NOT_OF_A_RUN = {'out_dir', 'init_from', 'overwrite', 'eval_only', 'device', 'dtype', 'compile',
                'keep_answers', 'num_seeds'}


def settings_of_run(folder: Path) -> dict[str, Any]:
    """What the run in a folder was made with, {name: value} under our names; {} where there is none. Raises
    `UserError` where its files are damaged."""
    for place in (folder, *seed_folders(folder)[:1]):
        if recorded := read_info(place).get('config'):
            return recorded if place == folder else {**recorded, 'seed': None}
    if (folder / LATEST).is_file():    # of nanoGPT or the paper's code, which write no run.json
        return nanogpt.recorded_settings(read_checkpoint(folder / LATEST))
    return {}


def with_settings_of_run(config: Config, how_long: bool) -> Config:
    """The settings to go on with: those that were given, and all others as in the run in `out_dir`, max_iters
    where `how_long`."""
    recorded, keep = settings_of_run(Path(config.out_dir)), config.given | NOT_OF_A_RUN
    for name in sorted(FIELDS.keys() & recorded.keys() - keep - (set() if how_long else {'max_iters'})):
        with contextlib.suppress(InvalidSetting):    # a damaged file is named when the run is read
            set_value(config, name, recorded[name])
    return config.check()


def describe_loss(checkpoint: dict[str, Any], path: Path) -> str:
    """One line on what does not go on of a checkpoint that is not ours; '' for ours."""
    if 'meta' in checkpoint:
        return ''
    results = '' if (path.parent / RESULTS).exists() else f', nor has it results: {RESULTS} begins here'
    return (f"{path} is nanoGPT's or of the paper's code: weights, optimizer, best validation loss and "
            f'iteration {checkpoint["iter_num"]:,} go on; its random stream does not, so that batches and '
            f'dropout from here on are those of our seed{results}')
