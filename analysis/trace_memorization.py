"""
Trace answers to the training data: distributional memorization (Wang et al., arXiv 2407.14985), the rank
correlation between the probability that a model gives an answer and the probability that the statistics of
its data give it.

    python analysis/trace_memorization.py --out_dir=facts_mini_28
    python analysis/trace_memorization.py --out_dir facts_mini_14 facts_mini_28 facts_mini_56
    python analysis/trace_memorization.py --model=EleutherAI/pythia-70m --corpus=wiki.jsonl --task=triviaqa \\
        --examples=verified.json

For a run, the corpus is the dataset that it was trained on, and the examples are its tasks; n-grams are of
characters and documents are lines. Several seeds (RUN/seed_1337, ...) are one model: each is traced, and the
coefficient is their mean. For a causal model of the package `transformers`, you name the corpus and the
examples; n-grams are of words. The corpus is text (each line is a document), JSONL (each field `text` is a
document) or uint16 .bin (the model's own tokens, with --separator). The examples are JSONL with `input` and
`output`, or files of --task in their published format. The index is kept beside the corpus, in a folder
CORPUS.ngrams_*, and is rebuilt when the corpus changes.

Writes trace.csv (one row per model, example and n-gram of its output) and trace.json (the coefficients, and
what was left out) into the folder of the run, or, for several runs or a model, into `trace`. Older files
there are replaced. Our datasets take seconds. analysis/plot_trace.py draws the files.
"""
import argparse
import csv
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages
from tbtt.atomic import write_files
from tbtt.device import choose_device
from tbtt.figures import markdown_table
from tbtt.inference import seed_number
from tbtt.provenance import provenance
from tbtt.layout import LATEST
from tbtt.trace.corpus import ENGINES, SMALL
from tbtt.trace.examples import FORMATS, TEMPLATE
from tbtt.trace.memorization import COEFFICIENTS, DATA_MODELS, computed
from tbtt.trace.sources import RULES, Row, trace

LISTS = ('out_dir', 'model', 'corpus', 'examples')


def numbers(text: str) -> list[int]:
    """argparse type of --n: '1,2,5' -> [1, 2, 5]"""
    found = sorted({int(n) for n in text.split(',')})
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f'expected whole numbers from 1 on, got {text}')
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this script."""
    parser.add_argument('--out_dir', nargs='+', action='extend', default=[], help='folders of runs')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in these folders (default: {LATEST})')
    parser.add_argument('--dataset',
                        help='that the runs were trained on (default: as their checkpoints name it)')
    parser.add_argument('--model', nargs='+', action='extend', default=[],
                        help='causal models of transformers: folders or names')
    parser.add_argument('--download', action='store_true', help='fetch models that are not on this machine')
    parser.add_argument('--corpus', nargs='+', action='extend', default=[],
                        help='files of their training data: text, .jsonl or .bin')
    parser.add_argument('--separator', type=int, help='token that ends a document in a .bin')
    parser.add_argument('--examples', nargs='+', action='extend', default=[],
                        help='.jsonl with input and output, or the files of --task')
    parser.add_argument('--task', choices=[name for name in FORMATS if name != 'examples'],
                        help='the format of --examples')
    parser.add_argument('--template', default=TEMPLATE,
                        help=f'prompt for a model of transformers (default: {TEMPLATE!r})')
    parser.add_argument('--n', type=numbers, default=[1, 2, 3, 4, 5],
                        help='lengths of n-grams (default: 1,2,3,4,5)')
    parser.add_argument('--engine', choices=ENGINES, default='auto',
                        help=f'what counts n-grams (default: numpy up to {SMALL:,} tokens, else infini-gram)')
    parser.add_argument('--embedding_model',
                        help='a model of transformers; keep only n-gram pairs that it finds similar')
    parser.add_argument('--threshold', type=float, help='lowest cosine similarity of a pair, from -1 to 1')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--seed', type=seed_number, default=1337,
                        help='seed of the bootstrap (default: 1337)')
    parser.add_argument('--trace_dir', type=Path, help='where to write (default: the run, or trace)')


def separate(words: list[str]) -> list[str]:
    """--out_dir=A B -> --out_dir A B: argparse takes one value after `=`, but a list after a blank."""
    return [part for word in words
            for part in (word.split('=', 1) if word.startswith(tuple(f'--{name}=' for name in LISTS))
                         else [word])]


def check(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    if args.trace_dir and args.trace_dir.exists() and not args.trace_dir.is_dir():
        raise UserError(f'--trace_dir={args.trace_dir} is a file: name a folder')
    if bool(args.out_dir) == bool(args.model):
        raise UserError('name either runs with --out_dir or models of transformers with --model')
    for name in ('corpus', 'examples'):
        if bool(getattr(args, name)) != bool(args.model):
            raise UserError(f'--{name} goes with --model: '
                            f'{"name its files" if args.model else "a run has its own"}')
    for name, default in [('task', None), ('separator', None), ('template', TEMPLATE)] if args.out_dir else [
            ('dataset', None), ('ckpt', LATEST)]:
        if getattr(args, name) != default:
            raise UserError(f'--{name} goes with --{"model" if args.out_dir else "out_dir"}')
    if (args.embedding_model is None) != (args.threshold is None):
        raise UserError('--embedding_model and --threshold go together')
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UserError(f'--threshold={args.threshold}: expected a cosine, from -1 to 1')


def show(model: dict) -> None:
    """Print the results of a model for each task and n."""
    corpus = model['corpus']
    seeds = f', mean of {len(model["seeds"])} seeds' if len(model['seeds']) > 1 else ''
    print(f'\n{model["model"]}, {model["parameters"]:,} parameters{seeds}; {", ".join(corpus["files"])}: '
          f'{corpus["documents"]:,} documents, {corpus["tokens"]:,} tokens\n')
    for task, cells in model['tasks'].items():
        for n, cell in cells.items():
            print(f'{task}, n = {n} {corpus["unit"]}: {cell["points"]} points of {cell["examples"]} examples')
            for kind, label in DATA_MODELS.items():
                why = cell[kind].get('not computed')
                print(f'{label:>16}: ' + (f'not computed, {why}' if why else ', '.join(
                    '{} {:.3f} ({:.3f} to {:.3f})'.format(name, cell[kind][name]['coefficient'],
                                                          *cell[kind][name]['interval'])
                    for name in (*COEFFICIENTS, 'generalization'))
                    + f'; zeros in {cell["points_with_zeros"][kind]} points'))
            for why, count in cell['left_out'].items():
                print(f'{"left out":>16}: {count} {why}')


def compare(models: list[dict]) -> str:
    """Markdown, with a table for each task that has coefficients and a line for each model: Spearman's
    coefficient with the probabilities of the task-gram model."""
    parts = []
    for task in dict.fromkeys(task for model in models for task in model['tasks']):
        found = [{n: computed(cell, 'task_gram') for n, cell in model['tasks'].get(task, {}).items()}
                 for model in models]
        lengths = list(dict.fromkeys(n for each in found for n, known in each.items() if known))
        if not lengths:
            continue
        rows = [[model['model'], f'{model["parameters"]:,}', str(len(model['seeds'])),
                 *('{:.2f} ({:.2f} to {:.2f})'.format(each[n]['coefficient'], *each[n]['interval'])
                   if each.get(n) else ''
                   for n in lengths)] for model, each in zip(models, found)]
        parts.append(markdown_table([task, 'parameters', 'seeds', *(f'n = {n}' for n in lengths)], rows))
    return '\n\n'.join(parts)


def csv_bytes(rows: list[Row]) -> bytes:
    """The text of trace.csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([Row._fields, *rows])
    return text.getvalue().encode()


def main() -> None:
    """Trace what the command line names."""
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
    write_files(folder,
                {'trace.csv': csv_bytes(rows), 'trace.json': (json.dumps(about, indent=1) + '\n').encode()},
                commit='trace.tbtt.commit.json')
    print(f'\nwrote trace.csv and trace.json into {folder}: analysis/plot_trace.py {folder / "trace.json"} '
          f'draws them')


if __name__ == '__main__':
    run(main)
