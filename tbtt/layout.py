"""The names of files and folders of a run: each seed has a folder such as `seed_1337` in the run's folder,
and a single seed uses the run's folder itself. Only this module knows how the folders of seeds are named. It
loads neither torch nor NumPy."""
import re
from pathlib import Path

LATEST, RESULTS, ABOUT, LOCK = 'ckpt.pt', 'results.csv', 'run.json', '.lock'
ANSWERS = 'answers.npz'
KEPT = re.compile(r'ckpt_(0|[1-9]\d*)\.pt', re.ASCII)    # ckpt_1000.pt: of iteration 1000, kept for later


def kept_checkpoint(iteration: int) -> str:
    """The file name of the checkpoint that is kept at an iteration."""
    return f'ckpt_{iteration}.pt'


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of single iterations that are kept in a seed's folder, {iteration: path}, in order."""
    found = {int(match[1]): path for path in folder.glob('ckpt_*.pt') if (match := KEPT.fullmatch(path.name))}
    return dict(sorted(found.items()))


def folder_of_seed(run: Path, seed: int) -> Path:
    """The folder of a seed in a run of several seeds."""
    return run / f'seed_{seed}'


def seed_folders(run: Path) -> list[Path]:
    """The folders of seeds below a run's folder, in order of the seeds."""
    found = [path for path in run.glob('seed_*') if re.fullmatch(r'seed_\d+', path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))
