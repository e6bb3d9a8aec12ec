"""
Write the three lines above each run in config/: what the paper found, what we found, how long it took.

    python runs/headers.py

Reads data/paper_tables.csv and, below results/, the run folders and every summary.csv. Takes seconds. All
other lines stay as they are, and so do files of runs with other names: their three lines are written by hand.
"""
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt import paper
from tbtt.cli import Parser, run
from tbtt.config import ROOT, Config, load_config
from tbtt.results import find_seeds, read_info
from tbtt.sweep.summary import PAIR, SETTINGS, as_the_paper, read_summaries, seed_row

# task, repeated as by Zipf?, model, twin with weight decay?
NAME = re.compile(r'(math|facts|both)(_skewed)?_(mini_14|mini_28|mini_56|mlt)(_wd)?')
MODELS = {folder: model for model, folder in paper.MODELS.items()}
TOPICS = {'math': 'arithmetic', 'facts': 'facts', 'both': 'both tasks'}
# name in a header: column of data/paper_tables.csv, column of a summary
SCORES = {'addition': ('addition_pct', 'best_add'), 'subtraction': ('subtraction_pct', 'best_sub'),
          'facts': ('facts_pct', 'best_facts')}
TOLD = {'math': ('addition', 'subtraction'), 'facts': ('facts',),
        'both': ('addition', 'subtraction', 'facts')}
HELDOUT = ('math', 'both')    # tasks with held-out questions


def header(name: str) -> list[str]:
    """The three lines above config/train_NAME.py, a name that NAME matches."""
    task, skewed, model, twin = NAME.fullmatch(name).groups()
    model = MODELS[model]
    return [paper_line(task, model, skewed, twin), ours_line(name, task, model), time_line(name)]


def paper_line(task: str, model: str, skewed: str | None, twin: str | None) -> str:
    """Table and row, and the numbers that the paper prints there."""
    row = paper.published()[task, model]
    about = f'# Table {row["table"]}, row {model} ({TOPICS[task]})'
    if skewed:
        return f'{about}, but lines are repeated as by Zipf. The paper: no such run.'
    if twin:
        return f'{about}, with weight decay 0.1 and no dropout. The paper: no numbers in its tables.'
    scores = [f'{score} {row[SCORES[score][0]]}%' for score in TOLD[task]]
    if task in HELDOUT:
        scores.append(f'held-out {row["heldout_correct"]}/{row["heldout_total"]}')
    return f'{about}. The paper: {", ".join(scores)}.'


def ours_line(name: str, task: str, model: str) -> str:
    """Means over our seeds at their best evaluation, which is how the paper chooses."""
    rows = list(our_seeds(name, task, model).values())
    if not rows:
        return '# Ours: not measured yet.'
    scores = [f'{score} {mean(rows, SCORES[score][1]):.1f}%' for score in TOLD[task]]
    if task in HELDOUT:
        scores.append(f'held-out {mean(rows, "best_heldout_correct"):.1f}/{rows[0]["heldout_total"]:.0f}')
    seeds = f'mean of {len(rows)} seeds' if len(rows) > 1 else '1 seed'
    return f'# Ours: {", ".join(scores)} ({seeds}, best evaluation).'


def mean(rows: list[dict], column: str) -> float:
    """Of a column of a summary."""
    return float(np.mean([row[column] for row in rows]))


def our_seeds(name: str, task: str, model: str) -> dict[int, dict]:
    """{seed: row of a summary} of all finished seeds: those of sweeps, over them those in its own folder."""
    config = load_config([ROOT / f'config/train_{name}.py'], {})
    swept = [row for row in summaries()
             if as_the_paper(row, task, model) and row['heldout'] in (PAIR, '') and has_settings(row, config)]
    own = [row for folder in run_folders(name)
           if (row := seed_row(folder))['finished'] and row['diverged'] is None]
    return {int(row['seed']): row for row in (*swept, *own)}


@functools.cache
def summaries() -> list[dict]:
    """The rows of every summary.csv below results/."""
    return read_summaries(sorted((ROOT / 'results').rglob('summary.csv')))


def has_settings(row: dict, config: Config) -> bool:
    """Is a row of a summary of a run with these settings?"""
    return all(row[setting] == getattr(config, setting) for setting in SETTINGS)


def run_folders(name: str) -> Iterator[Path]:
    """The folders of one seed each of the run of that name, wherever they are below results/."""
    for folder in sorted((ROOT / 'results').rglob(name)):
        yield from find_seeds(folder)


def time_line(name: str) -> str:
    """How long the run took in its own folder, where it is not measured together with other runs."""
    infos = [info for folder in run_folders(name) if (info := read_info(folder)).get('finished')]
    if not infos:
        return '# Time: not measured yet.'
    info = max(infos, key=lambda info: info['seconds'])
    took = f'{info["seconds"] / 60:.0f} min' if info['seconds'] >= 90 else f'{info["seconds"]:.0f} s'
    seeds = f'{len(infos)} seeds together' if len(infos) > 1 else '1 seed'
    hardware = info['hardware'].replace(', 1 threads', ', 1 thread')
    return f'# Time: {took} ({seeds}; {hardware}; the step {info["step"]}).'


def with_header(name: str, text: str) -> str:
    """The text of a config file with its first comment lines, those above all settings, replaced."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith('#'):
        lines.pop(0)
    return ''.join(f'{line}\n' for line in header(name)) + ''.join(lines)


def main() -> None:
    """Rewrite the headers, and name the files that changed."""
    Parser(__doc__).parse_args()
    for path in sorted((ROOT / 'config').glob('train_*.py')):
        name, text = path.stem.removeprefix('train_'), path.read_text()
        if NAME.fullmatch(name) and (new := with_header(name, text)) != text:
            path.write_text(new)
            print(path.relative_to(ROOT))


if __name__ == '__main__':
    run(main)
