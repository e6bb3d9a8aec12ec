"""What lies where in a run's folder: the files of a seed in `seed_1337` below it, or for a run of one seed in
it. The only room that knows how the folders of seeds are named; it loads neither torch nor NumPy."""
import re
from pathlib import Path

LATEST, RESULTS, ABOUT, LOCK = 'ckpt.pt', 'results.csv', 'run.json', '.lock'


def folder_of_seed(run: Path, seed: int) -> Path:
    """Where a seed lies in a run of several."""
    return run / f'seed_{seed}'


def seed_folders(run: Path) -> list[Path]:
    """The folders of seeds below a run's folder, in order."""
    found = [path for path in run.glob('seed_*') if re.fullmatch(r'seed_\d+', path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))
