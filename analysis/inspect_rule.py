"""Look inside models of arithmetic: what they compute, in one table and one figure. Rule or lookup?

    python analysis/inspect_rule.py math_mini_14 math_mini_28
    python analysis/inspect_rule.py math_mini_28 --kept=True     (over training, from --keep_checkpoints=1000)
    python analysis/inspect_rule.py math_mini_14 --ckpt=ckpt_best_math.pt,ckpt.pt --output_dir=inside

Takes run folders, each of one seed or of many (RUN/seed_1337, ...). Writes into --output_dir

    inspect.csv      one row per checkpoint: scores, and each number that docs/inspect.md explains
    inspect.json     all of it, by layer, head, stage, part and question
    inspect.png      one column per run: digits, attention, what can be read, logit lens, ablation
    inspect_numbers.png   for several checkpoints: these numbers against iteration, or against width

and prints the numbers that tell most. analysis/plot_inspect.py draws the figures, and needs no model to draw
them again. A model trained on shuffled answers (data/as_math/prepare.py --answers=shuffled) is the control:
it can only look up. A checkpoint of an n-model takes about a second.
"""
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run, true_or_false    # first: it names missing packages

from plot_inspect import OPERATIONS, R2, draw, shown
from tbtt.atomic import write_files
from tbtt.device import choose_device
from tbtt.figures import add_format, markdown_table
from tbtt.inference import load_model
from tbtt.interpret import ROLES, measure
from tbtt.layout import LATEST, kept_checkpoints, seed_folders
from tbtt.provenance import provenance
from tbtt.rows import format_rows


def find(folder: Path, names: list[str], kept: bool) -> list[Path]:
    """The checkpoints with these names in the folders of all seeds of a run; with `kept`, those of single
    iterations come before them. Raises `UserError` if `kept` finds none."""
    found = []
    for seed in seed_folders(folder) or [folder]:
        earlier = list(kept_checkpoints(seed).values())
        if kept and not earlier:
            raise UserError(f'{seed}: no checkpoints of single iterations: train with '
                            '--keep_checkpoints=1000')
        found += (earlier if kept else []) + [seed / name for name in names]
    return found


def look_inside(folders: list[Path], names: list[str], kept: bool, dataset: str | None) -> list[dict]:
    """`measure` of every checkpoint, with the name of its run. Each iteration of a seed is measured once."""
    found = {}
    for folder in folders:
        for path in find(folder, names, kept):
            trained = load_model(path, 'cpu', dataset=dataset)
            key = str(folder), int(trained.seeds[0]), trained.iteration
            if key not in found:
                found[key] = {'run': str(folder), **measure(trained)}
                print(f'{path}: iteration {trained.iteration:,}, {found[key]["verdict"]}', file=sys.stderr)
    return list(found.values())


def row_of(one: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a checkpoint as a row of inspect.csv. Attention is the mean over all heads; R² is that
    of the stage at which the results are read."""
    row = {name: one[name] for name in ('run', 'checkpoint', 'seed', 'iteration', 'n_embd', 'num_params',
                                        'answers', 'verdict')}
    row |= {f'{group}_{what}': value for group, score in one['score'].items()
            for what, value in score.items()}
    row |= {f'digits_{what}': one['digits'][what] for what in ('share', 'evenness', 'turn')}
    row |= {f'attention_to_{role}': mean([head['to'][role] for head in one['attention']]) for role in ROLES}
    row |= {f'{operation}_r2_{what}': value
            for operation, shares in one['readout']['r2'][one['readout']['stage']].items()
            for what, value in shares.items()}
    row |= {f'{operation}_heldout_error': mean([abs(read - result) for result, read, trained in
                                                zip(asked['result'], asked['read'], asked['trained'])
                                                if not trained])
            for operation, asked in one['readout']['read'].items()}
    row |= {f'symmetry_{group}': value for group, value in one['symmetry'].items()}
    row |= {f'context_{what}_{group}': value for group in one['score']
            for what, value in one['context'][group].items()}
    for kind in ('lens', 'without'):
        row |= {f'{kind}_{where}_{group}_{what}': value for where, score in one[kind].items()
                for group, values in score.items() for what, value in values.items()}
    return {name.replace(' ', '_'): value for name, value in row.items()}


def mean(values: list[float]) -> float | None:
    """The mean of the values, None if there are none."""
    return sum(values) / len(values) if values else None


def finite(value: Any) -> Any:
    """A copy of plain containers, with None for numbers that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the numbers that tell most, one line per checkpoint."""
    heads = {'right': 'seen_right', 'held-out': 'heldout_right', 'evenness': 'digits_evenness',
             **{f'{name}: {label}': f'{operation}_r2_{kind}' for operation, name in OPERATIONS.items()
                for kind, label in R2.items() if kind != 'results_shuffled'},
             'p(a+b) = p(b+a), held-out': 'symmetry_heldout',
             'right after a line': 'context_right_seen', 'held-out after a line': 'context_right_heldout'}
    lines = [[row['run'], str(row['seed']), f'{row["iteration"]:,}', row['answers'], row['verdict'],
              *('' if row.get(name) is None else f'{row[name]:.2f}' for name in heads.values())]
             for row in rows]
    return markdown_table(['run', 'seed', 'iteration', 'answers', 'says', *heads], lines)


def heldout_lines(one: dict[str, Any]) -> list[str]:
    """A line for each held-out question: what its result reads as, and what the model answers."""
    lines = []
    for asked in one['readout']['read'].values():
        for prompt, result, read, trained in zip(*(asked[name]
                                                   for name in ('prompt', 'result', 'read', 'trained'))):
            if not trained:
                said = ', '.join(f'{answer or "nothing"} ({count})'
                                 for answer, count in one['context']['said'][prompt].items())
                lines.append(f'{prompt}{result}>  reads {read:.1f}  says '
                             f'{one["context"]["alone"][prompt] or "nothing"}  '
                             f'after {one["context"]["lines"]} other lines {said}')
    return lines


def main() -> None:
    """Measure, write, draw."""
    parser = Parser(__doc__)
    parser.add_argument('folders', nargs='+', type=Path, help='run folders, such as math_mini_14')
    parser.add_argument('--ckpt', default=LATEST, type=lambda text: text.split(','), metavar='NAMES',
                        help=f'checkpoints in each folder, with commas between them (default: {LATEST})')
    parser.add_argument('--kept', type=true_or_false, default=False, metavar='BOOL',
                        help='also those of single iterations, of --keep_checkpoints (default: False)')
    parser.add_argument('--dataset', help='whose meta.pkl has the characters and the tasks of a checkpoint '
                                          "of nanoGPT's (default: as its config names it)")
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    add_format(parser)
    args = parser.parse_args()
    found = finite(look_inside(args.folders, args.ckpt, args.kept, args.dataset))
    rows = [row_of(one) for one in found]
    print(table(rows))
    for one in shown(found):
        print(f'\n{one["checkpoint"]}, iteration {one["iteration"]:,}:', *heldout_lines(one), sep='\n    ')
    about = {**provenance(choose_device('cpu')), 'checkpoints': found}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_files(args.output_dir, {'inspect.csv': format_rows(rows).encode(),
                                  'inspect.json': (json.dumps(about, indent=1) + '\n').encode()},
                commit='inspect.tbtt.commit.json')
    print('\nwrote', ', '.join(map(str, [args.output_dir / 'inspect.csv', args.output_dir / 'inspect.json',
                                         *draw(args.output_dir, args.output_dir, args.format)])))


if __name__ == '__main__':
    run(main)
