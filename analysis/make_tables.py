"""Print Tables 2, 3 and 4 of the paper as Markdown, with our runs below the paper's.

    python analysis/make_tables.py
    python analysis/make_tables.py --wd                    (the runs with weight decay: math_mini_14_wd, ...)
    python analysis/make_tables.py --beside=older          (and below ours the runs in another folder)

Reads results.csv and run.json in the paper's twelve run folders (math_mini_14, ..., both_mlt) under
--root_dir and writes only to standard output, in about a second. Missing values are blank.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np

from tbtt import paper
from tbtt.figures import markdown_table
from tbtt.results import (Results, answered_text, best_row, find_seeds, group_label, last_row, read_info,
                          read_results)
from tbtt.stats import mean_interval, wilson_interval

NOTES = """\
*Best evaluation* is the paper's protocol: the first evaluation with the highest score over all tasks of the
run, chosen by looking at that score. *Last iteration* is not chosen. Several seeds: mean ± half a 95%
interval (Student's t). The 40 held-out answers are four questions, each asked ten times. In brackets: how
many questions are answered (at least six right of ten); for several seeds, how many seeds answer all four,
with Wilson's 95% interval."""
EVALUATIONS = {'best evaluation': lambda results: best_row(results, 'combined'), 'last iteration': last_row}


def score_names(experiment: str) -> list[str]:
    """The columns of an experiment's table: groups of questions, and `combined` if it has several tasks."""
    tasks = paper.tasks_of(experiment)
    scored = [group for task in tasks for group in task.scored]
    return [*scored, *(['combined'] if len(tasks) > 1 else []),
            *(task.heldout_group for task in tasks if task.heldout_group)]


def heldout_names(experiment: str) -> set[str]:
    """The columns that are given as counts, not in percent."""
    return {task.heldout_group for task in paper.tasks_of(experiment) if task.heldout_group}


def read_run(folder: Path) -> tuple[list[Results], int]:
    """-> the results of a run's seeds, and how many of these are unfinished"""
    seeds, unfinished = [], 0
    for seed in find_seeds(folder):
        results = read_results(seed / 'results.csv')
        if np.isnan(results['combined_acc']).all():
            raise UserError(f'{seed}/results.csv has no scores: prepare the data and train this run again')
        seeds.append(results)
        unfinished += results['iter'][-1] < paper.ITERS or not read_info(seed).get('finished', True)
    return seeds, unfinished


def score_cell(values: np.ndarray) -> str:
    """One seed: the score; several: mean ± half width of the 95% interval; blank where it does not apply."""
    mean, half = mean_interval(values)
    if np.isnan(mean):
        return ''
    return f'{mean:.1f}' if len(values) == 1 else f'{mean:.1f} ± {half:.1f}'


def heldout_cell(correct: np.ndarray, total: np.ndarray, answered: np.ndarray) -> str:
    """One seed: 23/40 (2 of 4); several: how many answer every question, and the mean; blank where nothing is
    held out."""
    if np.isnan(total).any():
        return ''
    texts = [answered_text(*each) for each in zip(correct, total, answered)]
    if len(total) == 1:
        return f'{correct[0]:.0f}/{total[0]:.0f}' + (f' ({texts[0]})' if texts[0] else '')
    questions = texts[0].split()[-1] if texts[0] else ''
    every = f'{questions} of {questions}' if questions else f'{total[0]:.0f}/{total[0]:.0f}'
    count = sum(text == every if text else right == asked
                for text, right, asked in zip(texts, correct, total))
    low, high = wilson_interval(count, len(total))
    return (f'{count} of {len(total)} seeds at {every} ({100 * low:.0f} to {100 * high:.0f}%), '
            f'mean {score_cell(correct)} of {total[0]:.0f}')


def iteration_cell(iters: np.ndarray) -> str:
    """The iteration, or for several seeds the range of their iterations."""
    return ' to '.join(f'{at:,.0f}' for at in sorted({min(iters), max(iters)}))


def paper_cells(experiment: str, model: str) -> list[str]:
    """The paper's row, every number as it is printed there."""
    row, heldout = paper.published()[experiment, model], paper.published_heldout(experiment, model)
    text = f'{heldout[0]}/{heldout[1]} ({answered_text(*heldout)})' if heldout else ''
    return ['paper', '', '', *(text if name in heldout_names(experiment) else row[paper.percent_column(name)]
                               for name in score_names(experiment))]


def our_cells(source: str, evaluation: str, folder: Path, experiment: str) -> list[str]:
    """The row of a run at one of EVALUATIONS; if the run has no seed, blank after the label. source: `ours`,
    or the name of the other folder"""
    seeds, unfinished = read_run(folder)
    if not seeds:
        return [f'{source}, {evaluation}'] + [''] * (2 + len(score_names(experiment)))
    rows = [(results, EVALUATIONS[evaluation](results)) for results in seeds]

    def pick(column: str) -> np.ndarray:
        return np.array([results[column][row] for results, row in rows])

    mark = ''
    if unfinished:
        why = f'{unfinished} of {len(seeds)} seeds unfinished'
        if len(seeds) == 1:
            early = paper.stopped(int(seeds[0]['iter'][-1]), read_info(find_seeds(folder)[0]))
            why = early or 'unfinished'
        mark = f' ({why})'
    scores = [heldout_cell(*(pick(f'{name}_{what}') for what in ('correct', 'total', 'answered')))
              if name in heldout_names(experiment) else score_cell(pick(f'{name}_acc'))
              for name in score_names(experiment)]
    return [f'{source}, {evaluation}{mark}', f'{len(seeds)}', iteration_cell(pick('iter')), *scores]


def make_table(experiment: str, root: Path, wd: bool = False, beside: Path | None = None) -> str:
    """One table as Markdown. Each model has the paper's row, two from its run below the folder `root`, and
    two more from `beside`."""
    heads = ['model', 'parameters', 'source', 'seeds', 'iteration']
    heads += [group_label(name).lower() if name in heldout_names(experiment)
              else paper.percent_column(name).replace('_pct', ' %') for name in score_names(experiment)]
    sources = {'ours': root} | ({beside.resolve().name: beside} if beside else {})
    rows = []
    for model, size in zip(paper.MODELS, paper.NUM_PARAMS[experiment]):
        rows.append([model, f'{size:,}', *paper_cells(experiment, model)])
        rows += [['', '',
                  *our_cells(source, evaluation, folder / paper.run_name(experiment, model, wd), experiment)]
                 for source, folder in sources.items() for evaluation in EVALUATIONS]
    number, title = paper.published()[experiment, 'n14']['table'], paper.title(paper.tasks_column(experiment))
    decay = ' (ours with weight decay 0.1 and no dropout)' if wd else ''
    return f'### Table {number}: {title}{decay}\n\n{markdown_table(heads, rows)}'


def main() -> None:
    """Print the three tables."""
    parser = Parser(__doc__)
    paper.add_options(parser)
    args = parser.parse_args()
    tables = [make_table(experiment, args.root_dir, args.wd, args.beside) for experiment in paper.EXPERIMENTS]
    print('\n\n'.join([*tables, NOTES]))


if __name__ == '__main__':
    run(main)
