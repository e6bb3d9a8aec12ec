"""Print Tables 2, 3 and 4 of the paper as Markdown, with our runs below the paper's.

    python analysis/make_tables.py
    python analysis/make_tables.py --wd                    (the twins with weight decay: math_mini_14_wd, ...)
    python analysis/make_tables.py --claims sweeps/capacity/summary.csv      (a verdict on each of the paper's claims)

Reads results.csv and run.json in the paper's twelve run folders (math_mini_14, ..., both_mlt) under --root_dir and
writes to standard output only, in less than a second. What is missing is blank.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt import figures, paper
from tbtt.cli import Parser, UserError, run
from tbtt.results import best_row, find_seeds, last_row, mean_interval, read_info, read_results, wilson_interval

NOTES = """\
*Best evaluation* is the paper's protocol: the first evaluation with the highest score over all tasks of the run,
chosen by looking at that score. *Last iteration* is not chosen. Several seeds: mean ± half a 95% interval (Student's
t); seeds with all held-out questions right: with Wilson's 95% interval in brackets."""
# column: (heading, name in data/paper_tables.csv)
SCORES = {'add_acc': ('addition %', 'addition_pct'), 'sub_acc': ('subtraction %', 'subtraction_pct'),
          'facts_acc': ('facts %', 'facts_pct'), 'combined_acc': ('combined %', 'combined_pct')}
TABLES = {'math': ('add_acc', 'sub_acc', 'heldout'), 'facts': ('facts_acc',),
          'both': ('add_acc', 'sub_acc', 'facts_acc', 'combined_acc', 'heldout')}
PROTOCOLS = {'best evaluation': lambda results: best_row(results, 'combined'), 'last iteration': last_row}


def read_run(folder):
    """A run's seeds: list of results, and how many of these are unfinished."""
    seeds, unfinished = [], 0
    for seed in find_seeds(folder):
        results = read_results(seed / 'results.csv')
        if np.isnan(results['combined_acc']).all():
            raise UserError(f'{seed}/results.csv has no scores: prepare the data and train this run anew')
        seeds.append(results)
        unfinished += results['iter'][-1] < paper.ITERS or not read_info(seed).get('finished', True)
    return seeds, unfinished


def score_cell(values):
    """One seed: the score; several: mean ± half width of the 95% interval; blank where it does not apply."""
    mean, half = mean_interval(values)
    if np.isnan(mean):
        return ''
    return f'{mean:.1f}' if len(values) == 1 else f'{mean:.1f} ± {half:.1f}'


def heldout_cell(correct, total):
    """One seed: 23/40; several: how many have all right, and the mean; blank where nothing is held out."""
    if np.isnan(total).any():
        return ''
    if len(total) == 1:
        return f'{correct[0]:.0f}/{total[0]:.0f}'
    full, count = int((correct == total).sum()), len(total)
    low, high = wilson_interval(full, count)
    return (f'{full} of {count} seeds at {total[0]:.0f}/{total[0]:.0f} ({100 * low:.0f} to {100 * high:.0f}%), '
            f'mean {score_cell(correct)}')


def iteration_cell(iters):
    """The iteration, or the range of those of several seeds."""
    return ' to '.join(f'{at:,.0f}' for at in sorted({min(iters), max(iters)}))


def paper_cells(row, columns):
    """The paper's row, every number as it is printed there."""
    heldout = f'{row["heldout_correct"]}/{row["heldout_total"]}' if row['heldout_total'] else ''
    return ['paper', '', '', *(heldout if column == 'heldout' else row[SCORES[column][1]] for column in columns)]


def our_cells(protocol, seeds, unfinished, columns):
    """Our row under one of PROTOCOLS; blank behind its label where there is no seed."""
    if not seeds:
        return [f'ours, {protocol}'] + [''] * (2 + len(columns))
    at = [(results, PROTOCOLS[protocol](results)) for results in seeds]

    def pick(column):
        return np.array([results[column][row] for results, row in at])

    mark = f' ({unfinished} of {len(seeds)} seeds unfinished)' if len(seeds) > 1 else ' (unfinished)'
    cells = [f'ours, {protocol}{mark * bool(unfinished)}', f'{len(seeds)}', iteration_cell(pick('iter'))]
    return cells + [heldout_cell(pick('heldout_correct'), pick('heldout_total')) if column == 'heldout'
                    else score_cell(pick(column)) for column in columns]


def make_table(task, root, wd=False):
    """The Markdown of one table: three rows a model, from the runs below the folder `root`."""
    columns, numbers = TABLES[task], paper.published()
    table = numbers[task, 'n14']['table']
    heads = ['model', 'parameters', 'source', 'seeds', 'iteration']
    heads += ['held-out' if column == 'heldout' else SCORES[column][0] for column in columns]
    rows = []
    for model, size in zip(paper.MODELS, paper.NUM_PARAMS[task]):
        seeds, unfinished = read_run(root / paper.run_name(task, model, wd))
        rows.append([model, f'{size:,}', *paper_cells(numbers[task, model], columns)])
        rows += [['', '', *our_cells(protocol, seeds, unfinished, columns)] for protocol in PROTOCOLS]
    heading = f'### Table {table}: {paper.TASKS[task]}' + ' (ours with weight decay 0.1 and no dropout)' * wd
    return f'{heading}\n\n{figures.markdown_table(heads, rows)}'


def main():
    parser = Parser(__doc__)
    paper.add_options(parser)
    parser.add_argument('--claims', nargs='+', type=Path, metavar='SUMMARY', help='judge the claims by these summary.csv')
    args = parser.parse_args()
    if args.claims:
        from tbtt.sweep import claims    # needs scipy, which the tables do not
        from tbtt.sweep.summary import read_summaries
        print(claims.report(claims.judge(read_summaries(args.claims))))
        return
    print('\n\n'.join([*(make_table(task, args.root_dir, args.wd) for task in TABLES), NOTES]))


if __name__ == '__main__':
    run(main)
