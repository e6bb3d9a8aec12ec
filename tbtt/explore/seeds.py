"""Read what the folders of runs and the tables of sweeps hold about each seed, as far as it exists."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tbtt import paper
from tbtt.answers import Answers, TaskAnswers, read_answers
from tbtt.cli import UserError
from tbtt.layout import ANSWERS, RESULTS
from tbtt.results import Results, find_seeds, read_info, read_results
from tbtt.sweep.summary import read_summaries, seed_row
from tbtt.tasks import TASKS

SUMMARY = 'summary.csv'


@dataclass
class CompactAnswers:
    """What a seed answers to the P prompts of a task at E evaluations, in little memory: a page has hundreds
    of seeds.

    level: (E, P) uint8, 255 times the probability of the right answer; 0 where it was not finite. texts: the
    different wrong answers, from index 1 on. said: (E, P) int32, 0 for the right answer, else the index of a
    text.
    """
    prompts: list[str]
    answers: list[str]
    heldout: list[bool]
    level: np.ndarray
    texts: list[str]
    said: np.ndarray


@dataclass
class Seed:
    """One seed of a run.

    folder: of the seed. home: the run's folder, which all seeds of a run share. row: scores and settings, as
    in a summary.csv. results: None without results.csv. iters, answers: from answers.npz, (E,) and one entry
    per task; both empty without that file. info: from run.json, {} without that file.
    """
    folder: Path
    home: Path
    row: dict
    results: Results | None
    iters: np.ndarray
    answers: dict[str, CompactAnswers]
    info: dict


def read_seeds(paths: Iterable[Path]) -> list[Seed]:
    """The seeds of runs and sweeps. paths: folders of runs, folders of sweeps, or summary.csv files.

    A sweep may have several tasks. Runs that are named one by one must be asked the same questions. Raises
    `UserError` if they are not, if a path is none of these, and if a file is damaged.
    """
    found, alone = {}, []
    for path in paths:
        table = path / SUMMARY if path.is_dir() else path
        seeds = seeds_of_sweep(table) if table.is_file() else seeds_of_run(path)
        alone += [] if table.is_file() else [seeds]
        found |= {seed.folder.resolve(): seed for seed in seeds}
    check_same(alone)
    return list(found.values())


def seeds_of_sweep(table: Path) -> list[Seed]:
    """The seeds in the table that are finished."""
    rows = read_summaries([table])
    if not rows:
        raise UserError(f'{table}: no seed is finished: let the sweep go on')
    return [read_seed(row['path'], table.parent / row['run'], row) for row in rows]


def seeds_of_run(folder: Path) -> list[Seed]:
    """The seeds of one run's folder."""
    folders = find_seeds(folder)
    if not folders:
        raise UserError(f'{folder}: no results.csv here or in seed_*, and no summary.csv: train the run '
                        f'first, or name another folder')
    seeds = [read_seed(each, home_of(each), seed_row(each)) for each in folders]
    for seed in seeds:
        seed.row['tasks'] = '+'.join(asked(seed.results))
        seed.row['num_params'] = seed.row['num_params'] or paper.num_params(seed.home.resolve().name)
    return seeds


def home_of(folder: Path) -> Path:
    """The folder of the run, from that of a seed."""
    folder = folder.resolve()
    return folder.parent if folder.name.startswith('seed_') else folder


def read_seed(folder: Path, home: Path, row: dict) -> Seed:
    """Read the `Seed` in a folder."""
    results, path = folder / RESULTS, folder / ANSWERS
    answers = read_answers(path) if path.exists() else Answers(np.empty(0, int), {})
    return Seed(folder, home, row, read_results(results) if results.exists() else None, answers.iters,
                {name: compact(task) for name, task in answers.tasks.items()}, read_info(folder))


def compact(task: TaskAnswers) -> CompactAnswers:
    """The same answers; probabilities are rounded to the 256 shades that a page shows."""
    wrong = ~task.right
    texts, which = np.unique(task.said[wrong], return_inverse=True)
    said = np.zeros(task.said.shape, np.int32)
    said[wrong] = which + 1
    level = np.rint(255 * np.nan_to_num(task.probability)).astype(np.uint8)
    return CompactAnswers(task.prompts, task.answers, task.heldout.tolist(), level, ['', *texts.tolist()],
                          said)


def asked(results: Results) -> list[str]:
    """The tasks for which a run has scores."""
    return [name for name in TASKS if not np.isnan(results[f'{name}_acc']).all()]


def check_same(runs: Sequence[Sequence[Seed]]) -> None:
    """Raise `UserError` if runs on one page are asked different questions. runs: the seeds of each"""
    first = {}
    for seed in (seed for seeds in runs for seed in seeds):
        for what, said in said_of(seed).items():
            before, same = first.setdefault(what, (seed, said))
            if said != same:
                raise UserError(f'{before.folder} and {seed.folder} have different {what}: make a page for '
                                f'each')


def said_of(seed: Seed) -> dict[str, object]:
    """What runs on one page must have in common, as far as it is known."""
    said = {'tasks': seed.row['tasks']}
    if seed.answers:
        said['questions'] = {name: task.prompts for name, task in seed.answers.items()}
    return said


def short_names(folders: Iterable[Path]) -> dict[Path, str]:
    """The shortest ends of paths that differ between folders: n14 and n28, or a/n14 and b/n14."""
    parts = {folder: folder.resolve().parts for folder in folders}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {folder: '/'.join(each[-length:]) for folder, each in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            break
    return names
