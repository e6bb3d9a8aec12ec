"""
Trace answers to the training data: distributional memorization (Wang et al., arXiv 2407.14985), the rank correlation
between the probability that a model gives an answer and the probability that the statistics of its data give it.

    python analysis/trace_memorization.py --out_dir=facts_mini_28
    python analysis/trace_memorization.py --out_dir facts_mini_14 facts_mini_28 facts_mini_56
    python analysis/trace_memorization.py --model=EleutherAI/pythia-70m --corpus=wiki.jsonl --task=triviaqa \\
        --examples=verified.json

Of a run, the corpus is the dataset that it was trained on, and its tasks are the examples; n-grams are of characters and
documents are lines. Several seeds (RUN/seed_1337, ...) are one model: each is traced, and the coefficient is their mean.
Of a causal model of the package `transformers`, you name the corpus (text, a line a document; JSONL, a field `text` a
document; uint16 .bin of the model's own tokens with --separator) and the examples (JSONL with `input` and `output`, or one
of --task in the format it is published in); n-grams are of words. Its index lies beside the corpus, in a folder
CORPUS.ngrams_*, and is built anew when the corpus changes.

Writes trace.csv (a row a model, example and n-gram of its output), trace.json (the coefficients, and what was left out) and
trace.png into the folder of the run, or with several, or a model, into `trace`. What was there is replaced. Our datasets
take seconds.
"""
import argparse
import csv
import io
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it says what is missing

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from tbtt import figures
from tbtt.trace.corpus import ENGINES, SMALL
from tbtt.device import choose_device
from tbtt.trace.examples import FORMATS, TEMPLATE
from tbtt.atomic import write_files
from tbtt.trace.memorization import COEFFICIENTS
from tbtt.provenance import provenance
from tbtt.run_folder import LATEST
from tbtt.trace.sources import KINDS, RULES, Row, trace
from tbtt.inference import seed_number

BESIDE = 0.04    # between what the figure draws beside each other: in n, and as a share of the parameters
LISTS = ('out_dir', 'model', 'corpus', 'examples')


def numbers(text):
    """argparse type of --n: '1,2,5' -> [1, 2, 5]"""
    found = sorted({int(n) for n in text.split(',')})
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f'expected whole numbers from 1 on, got {text}')
    return found


def add_options(parser):
    parser.add_argument('--out_dir', nargs='+', action='extend', default=[], help='folders of runs')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in these folders (default: {LATEST})')
    parser.add_argument('--dataset', help='that the runs were trained on (default: as their checkpoints name it)')
    parser.add_argument('--model', nargs='+', action='extend', default=[],
                        help='causal models of transformers: folders or names')
    parser.add_argument('--download', action='store_true', help='fetch models that are not on this machine')
    parser.add_argument('--corpus', nargs='+', action='extend', default=[],
                        help='files of their training data: text, .jsonl or .bin')
    parser.add_argument('--separator', type=int, help='token that ends a document in a .bin')
    parser.add_argument('--examples', nargs='+', action='extend', default=[],
                        help='.jsonl with input and output, or the files of --task')
    parser.add_argument('--task', choices=[name for name in FORMATS if name != 'examples'], help='the format of --examples')
    parser.add_argument('--template', default=TEMPLATE, help=f'what a model of transformers is asked (default: {TEMPLATE!r})')
    parser.add_argument('--n', type=numbers, default=[1, 2, 3, 4, 5], help='lengths of n-grams (default: 1,2,3,4,5)')
    parser.add_argument('--engine', choices=ENGINES, default='auto',
                        help=f'that counts (default: numpy up to {SMALL:,} tokens, then infini-gram)')
    parser.add_argument('--embedding_model', help='of transformers; keep only pairs of n-grams that are similar by it')
    parser.add_argument('--threshold', type=float, help='their cosine similarity, from -1 to 1')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--seed', type=seed_number, default=1337, help='of the bootstrap (default: 1337)')
    parser.add_argument('--trace_dir', type=Path, help='where to write (default: the run, or trace)')


def separate(words):
    """--out_dir=A B -> --out_dir A B: argparse takes one value behind `=`, and a list of them behind a blank."""
    return [part for word in words
            for part in (word.split('=', 1) if word.startswith(tuple(f'--{name}=' for name in LISTS)) else [word])]


def check(args):
    """Raise `UserError` for options that do not go together."""
    if args.trace_dir and args.trace_dir.exists() and not args.trace_dir.is_dir():
        raise UserError(f'--trace_dir={args.trace_dir} is a file: name a folder')
    if bool(args.out_dir) == bool(args.model):
        raise UserError('name either runs with --out_dir or models of transformers with --model')
    for name in ('corpus', 'examples'):
        if bool(getattr(args, name)) != bool(args.model):
            raise UserError(f'--{name} goes with --model: {"name its files" if args.model else "a run has its own"}')
    if (args.embedding_model is None) != (args.threshold is None):
        raise UserError('--embedding_model and --threshold go together')
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UserError(f'--threshold={args.threshold}: expected a cosine, from -1 to 1')


def computed(cell, kind, name='spearman'):
    """That coefficient of a model, task and n, or None where it was not computed."""
    return cell[kind].get(name)


def show(model):
    """Print the table of a model: a line a task and n."""
    corpus = model['corpus']
    seeds = f', mean of {len(model["seeds"])} seeds' * (len(model['seeds']) > 1)
    print(f'\n{model["model"]}, {model["parameters"]:,} parameters{seeds}; {", ".join(corpus["files"])}: '
          f'{corpus["documents"]:,} documents, {corpus["tokens"]:,} tokens\n')
    for task, cells in model['tasks'].items():
        for n, cell in cells.items():
            print(f'{task}, n = {n} {corpus["unit"]}: {cell["points"]} points of {cell["examples"]} examples')
            for kind, label in KINDS.items():
                why = cell[kind].get('not computed')
                print(f'{label:>16}: ' + (f'not computed, {why}' if why else ', '.join(
                    '{} {:.3f} ({:.3f} to {:.3f})'.format(name, cell[kind][name]['coefficient'], *cell[kind][name]['interval'])
                    for name in (*COEFFICIENTS, 'generalization'))
                    + f'; zeros in {cell["points_with_zeros"][kind]} points'))
            for why, count in cell['left_out'].items():
                print(f'{"left out":>16}: {count} {why}')


def compare(models):
    """Markdown, a table a task that has coefficients: Spearman's with the task-gram model's probabilities, a line a model."""
    parts = []
    for task in dict.fromkeys(task for model in models for task in model['tasks']):
        found = [{n: computed(cell, 'task_gram') for n, cell in model['tasks'].get(task, {}).items()} for model in models]
        lengths = list(dict.fromkeys(n for each in found for n, known in each.items() if known))
        if not lengths:
            continue
        rows = [[model['model'], f'{model["parameters"]:,}', str(len(model['seeds'])),
                 *('{:.2f} ({:.2f} to {:.2f})'.format(each[n]['coefficient'], *each[n]['interval']) if each.get(n) else ''
                   for n in lengths)] for model, each in zip(models, found)]
        parts.append(figures.markdown_table([task, 'parameters', 'seeds', *(f'n = {n}' for n in lengths)], rows))
    return '\n\n'.join(parts)


def draw_trace(models, rows):
    """The figure: a row of panels for each task that has a coefficient; the model's against the data's probabilities,
    Spearman's coefficient against n and, of several models, against their parameters."""
    tasks = [task for task in dict.fromkeys(task for model in models for task in model['tasks'])
             if any(computed(cell, kind)
                    for model in models for cell in model['tasks'].get(task, {}).values() for kind in KINDS)]
    several = len(models) > 1
    figure = Figure(figsize=(4.6 * (2 + several), 3.6 * max(1, len(tasks)) + 0.6), layout='constrained')
    if not tasks:
        figure.text(0.5, 0.5, 'too few points for a correlation: trace.json says why', ha='center', va='center')
        return figure
    colours = [colormaps['viridis'](0.85 * i / max(1, len(models) - 1)) for i in range(len(models))]
    grid = figure.subplots(len(tasks), 2 + several, squeeze=False)
    for panels, task in zip(grid, tasks):
        draw_points(panels[0], task, models, rows, colours)
        draw_lengths(panels[1], task, models, colours)
        if several:
            draw_sizes(panels[2], task, models)
    drawn = {label: handle for panels in grid for handle, label in zip(*panels[1].get_legend_handles_labels())}
    figure.legend(drawn.values(), drawn.keys(), loc='outside lower center', ncols=2, frameon=False)
    return figure


def draw_points(axes, task, models, rows, colours):
    """Log-probabilities at the n with the most points (the smallest of several)."""
    sizes = Counter(row.n for row in rows if row.task == task)
    n = max(sorted(sizes), key=sizes.get)
    for model, colour in zip(models, colours):
        points = [(row.task_gram_logp, row.model_logp) for row in rows
                  if (row.model, row.task, row.n) == (model['model'], task, n)]
        axes.plot(*np.array(points).reshape(-1, 2).T, 'o', color=colour, alpha=0.4, markersize=3, label=model['model'])
    axes.set(title=f'{task}, n = {n}', xlabel='Task-gram log-probability', ylabel="Model's log-probability")
    axes.grid(color='0.92')


def draw_lengths(axes, task, models, colours):
    """Spearman's coefficient against n, with intervals; beside each other, so that none hides another."""
    for i, (model, colour) in enumerate(zip(models, colours)):
        aside = BESIDE * (i - (len(models) - 1) / 2)
        for kind, label in KINDS.items():
            cells = [(n + aside, found) for n, cell in model['tasks'].get(task, {}).items() if (found := computed(cell, kind))]
            draw_coefficients(axes, cells, kind, color=colour, label=f'{model["model"]}, {label}')
    unit = models[0]['corpus']['unit']
    axes.set(title=task, xlabel=f'n ({unit})', ylabel="Spearman's coefficient")
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_sizes(axes, task, models):
    """Spearman's coefficient against the number of parameters, a line for each n: the paper's main figure."""
    lengths = sorted({n for model in models for n in model['tasks'].get(task, {})})
    for i, n in enumerate(lengths):
        aside, colour = (1 + BESIDE)**(i - (len(lengths) - 1) / 2), colormaps['plasma'](0.85 * i / max(1, len(lengths) - 1))
        for kind in KINDS:
            cells = sorted(((model['parameters'], computed(model['tasks'][task][n], kind)) for model in models
                            if task in model['tasks'] and computed(model['tasks'][task][n], kind)), key=lambda cell: cell[0])
            draw_coefficients(axes, [(aside * size, found) for size, found in cells], kind, color=colour,
                              label=f'n = {n}' if kind == 'task_gram' else None)
    axes.set(title=task, xlabel='Parameters', xscale='log', ylabel="Spearman's coefficient")
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)
    sizes = sorted({model['parameters'] for model in models})
    axes.set_xticks(sizes, [f'{size:,}' for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)


def draw_coefficients(axes, cells, kind, **look):
    """A line through [(x, coefficient)] with its intervals, solid for the task-gram and dashed for the infinity-gram model."""
    if cells:
        x, found = zip(*cells)
        y = np.array([each['coefficient'] for each in found])
        low, high = np.array([each['interval'] for each in found]).T
        axes.errorbar(x, y, yerr=np.maximum(0, [y - low, high - y]), capsize=2, markersize=4, linewidth=1.4,
                      **({'fmt': 'o-'} if kind == 'task_gram' else {'fmt': 's--'}), **look)
    axes.axhline(0, color='0.6', linewidth=0.8)
    axes.grid(color='0.92')


def csv_bytes(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([Row._fields, *rows])
    return text.getvalue().encode()


def main():
    parser = Parser(__doc__, texts=['--template'])
    add_options(parser)
    args = parser.parse_args(separate(map(parser.expand_home, sys.argv[1:])))
    check(args)
    models, rows = trace(args)
    for model in models:
        show(model)
    if len(models) > 1:
        print(f"\nSpearman's coefficient with the task-gram model:\n\n{compare(models)}")
    folder = args.trace_dir or (Path(args.out_dir[0]) if len(args.out_dir) == 1 else Path('trace'))
    folder.mkdir(parents=True, exist_ok=True)
    about = {**provenance(choose_device(args.device)), 'rules': RULES, 'seed': args.seed, 'models': models,
             'embedding_model': args.embedding_model, 'threshold': args.threshold}
    picture = io.BytesIO()
    draw_trace(models, rows).savefig(picture, format='png', dpi=150)
    write_files(folder, {'trace.csv': csv_bytes(rows), 'trace.json': (json.dumps(about, indent=1) + '\n').encode(),
                         'trace.png': picture.getvalue()})
    print(f'\nwrote trace.csv, trace.json and trace.png into {folder}')


if __name__ == '__main__':
    run(main)
