"""What the prepare.py scripts share: their options, the files they write, and the check of their counts."""
import argparse
import collections
import math
import pickle
import random
import string
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tbtt.atomic import write_file
from tbtt.cli import Parser, UserError
from tbtt.config import ROOT
from tbtt.dataset import Codec
from tbtt.tasks import MAX_LINES, TASKS, Arithmetic, Task

CHARACTERS = string.ascii_lowercase + string.digits    # of random strings


def pairs(text: str) -> tuple[tuple[int, int], ...]:
    """argparse type of --heldout: '5,7' -> ((5, 7),); '5,7;3,8' -> ((5, 7), (3, 8)); 'none' -> ()"""
    if text == 'none':
        return ()
    try:
        return tuple((int(a), int(b)) for a, b in (pair.split(',') for pair in text.split(';')))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected pairs such as 5,7 or 5,7;3,8, or none, '
                                         f'got {text!r}') from None


def exponent(text: str) -> float:
    """argparse type of --exponent: a finite number, at least 0"""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'expected a finite number, at least 0, got {text!r}')
    return value


def num_lines(text: str) -> int:
    """argparse type of --repeats: '500' -> 500"""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_LINES:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 to {MAX_LINES:,}, got {text!r}')
    return value


def zipf(num: int, exponent: float, total: int) -> list[int]:
    """How often each of `num` ranks occurs among about `total` lines, in proportion to rank**-exponent.

    Each count is total * share, rounded to the nearest whole number (a half to the even one), and at least 1.
    So the counts add up to `total` only approximately.
    """
    weights = [rank**-exponent for rank in range(1, num + 1)]
    whole = sum(weights)
    return [max(1, round(total * weight / whole)) for weight in weights]


def skew(task: Task, exponent: float, total: int, seed: int) -> Task:
    """The task with the repeats of `zipf`, assigned at random to the prompts that are not held out."""
    seen = task.groups().get(task.seen_group, range(len(task.prompts)))
    counts = zipf(len(seen), exponent, total)
    # Each task has its own stream, so that facts have the same frequencies with and without arithmetic.
    random.Random(f'{seed} {task.name}').shuffle(counts)
    repeats = dict(zip(seen, counts))
    return type(task)(**task.describe(), repeats=[repeats.get(i, 0) for i in range(len(task.prompts))])


def deal(task: Arithmetic, seed: int) -> Arithmetic:
    """Arithmetic whose results are dealt to its questions at random: a table without a rule.

    The trained results stay the same, each as often as before; only their questions change. A held-out
    question is dealt one of these results too, and no training line says which.
    """
    seen = task.groups()['seen']
    results = [task.results[i] for i in seen]
    random.Random(f'{seed} results').shuffle(results)
    dealt, draw = dict(zip(seen, results)), random.Random(f'{seed} held-out results')
    return type(task)(**task.describe(), dealt=[
        dealt[i] if i in dealt else draw.choice(results or task.results) for i in range(len(task.prompts))])


def prepare_dataset(name: str, out_dir: str | Path | None = None, **options: object) -> Path:
    """Run data/NAME/prepare.py with its options, such as `heldout='3,8'`. -> the folder with the dataset,
    by default data/NAME, as a value for the setting `dataset` of a training.

    Raises `UserError` with the line that the script would print.
    """
    script = ROOT / 'data' / name / 'prepare.py'
    if not script.is_file():
        known = sorted(path.parent.name for path in (ROOT / 'data').glob('*/prepare.py'))
        raise UserError(f'no dataset {name}: expected one of {", ".join(known)}')
    folder = Path(out_dir or script.parent)
    words = [f'--{option}={value}' for option, value in options.items()]
    done = subprocess.run([sys.executable, script, f'--out_dir={folder}', *words], capture_output=True,
                          text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix('error: '))
    return folder


def prepare(script: str, doc: str, kinds: Sequence[str], skewed: bool = False) -> None:
    """Prepare the dataset of `script` from its command line, with the tasks in `kinds` ('math', 'facts').

    skewed: lines repeat, as often as `zipf` says.
    """
    parser = Parser(doc)
    if 'math' in kinds:
        parser.add_argument('--heldout', type=pairs, default=((5, 7),), metavar='A,B[;A,B...]',
                            help='pairs of operands that are never trained on, or none (default: 5,7)')
        parser.add_argument('--answers', choices=('right', 'shuffled'), default='right',
                            help='shuffled: deal the results out to the questions at random, once; these '
                                 'then count as right (default: right)')
        parser.add_argument('--max_operand', type=int, default=9,
                            help='largest operand, up to 99 (default: 9)')
    if skewed:
        parser.add_argument('--exponent', type=exponent, default=1.0,
                            help='rank r is repeated in proportion to r**-EXPONENT; 0 repeats all alike '
                                 '(default: 1.0)')
        parser.add_argument('--repeats', type=num_lines, default=500,
                            help='about how many lines of facts; each fact has at least one (default: 500)')
        if 'math' in kinds:
            parser.add_argument('--math_repeats', type=num_lines, default=1000,
                                help='about how many lines of arithmetic; each expression that is not '
                                     'held out has at least one (default: 1000)')
    if len(kinds) > 1:
        parser.add_argument('--order', choices=('blocks', 'mixed'), default='mixed' if skewed else 'blocks',
                            help='blocks: all arithmetic, then all facts, each in the order that it has '
                                 'alone; mixed: all lines shuffled together (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=1337,
                        help='seed of the order of lines and of all random draws (default: 1337)')
    add_out_dir(parser, script)
    args = parser.parse_args()
    tasks = [Arithmetic(args.max_operand, args.heldout) if kind == 'math' else TASKS[kind]()
             for kind in kinds]
    if 'math' in kinds and args.answers == 'shuffled':
        tasks = [deal(task, args.seed) if task.name == 'math' else task for task in tasks]
    if skewed:
        totals = {task.name: args.repeats if task.name == 'facts' else args.math_repeats for task in tasks}
        tasks = [skew(task, args.exponent, totals[task.name], args.seed) for task in tasks]
    write_dataset(args.out_dir, tasks, args.seed, getattr(args, 'order', 'blocks'))


def add_out_dir(parser: Parser, script: str) -> None:
    """The option --out_dir, by default the folder of the script."""
    parser.add_argument('--out_dir', default=Path(script).resolve().parent,
                        help='(default: beside the script)')


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from low to high."""
    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'expected a whole number from {low:,} to {high:,}, '
                                             f'got {text!r}')
        return int(text)
    return convert


def prepare_strings(script: str, doc: str) -> None:
    """Prepare random strings from the command line of `script`."""
    parser = Parser(doc)
    parser.add_argument('--num', type=whole_number(2, MAX_LINES), default=128, help='strings (default: 128)')
    parser.add_argument('--length', type=whole_number(2, 1000), default=16,
                        help='characters of each (default: 16)')
    parser.add_argument('--alphabet', type=whole_number(2, len(CHARACTERS)), default=16,
                        help='different characters, each as likely as any other (default: 16)')
    parser.add_argument('--seed', type=int, default=1337, help='of the strings (default: 1337)')
    add_out_dir(parser, script)
    args = parser.parse_args()
    alphabet = CHARACTERS[:args.alphabet]
    if 2 * args.num > len(alphabet)**args.length:
        raise UserError(f'--num={args.num}: of the {len(alphabet)**args.length} strings of {args.length} '
                        f'characters out of {len(alphabet)} at most half can be drawn: choose a larger '
                        '--length or --alphabet')
    lines, generator = {}, random.Random(args.seed)    # a dict keeps the order in which they were drawn
    while len(lines) < args.num:
        lines[''.join(generator.choices(alphabet, k=args.length)) + '\n'] = None
    write_lines(args.out_dir, list(lines), alphabet + '\n')


def check_counts(task: Task, lines: list[str]) -> None:
    """Count the lines of a task in a second way, as a whole and those of each prompt.

    Raises `AssertionError` with the numbers if they differ.
    """
    task.check(lines)
    lengths = sorted({len(prompt) for prompt in task.prompts}, reverse=True)
    prompts = set(task.prompts)
    counts = collections.Counter(next((line[:n] for n in lengths if line[:n] in prompts), line)
                                 for line in lines)
    once = [int(not task.is_heldout(i)) for i in range(len(task.prompts))]
    wanted = collections.Counter(dict(zip(task.prompts, task.repeats or once)))
    wrong = {prompt: (counts[prompt], wanted[prompt]) for prompt in counts | wanted
             if counts[prompt] != wanted[prompt]}
    assert not wrong, f'lines of {task.name} (counted, expected): {wrong}'


def shuffled(lines: list[str], seed: int) -> list[str]:
    """A copy of the lines in an order drawn from the seed."""
    lines = list(lines)
    random.Random(seed).shuffle(lines)
    return lines


def write_dataset(folder: str | Path, tasks: list[Task], seed: int, order: str = 'blocks') -> None:
    """Shuffle the lines once, each task's separately or (order='mixed') all together, and write them.

    Prints the counts.
    """
    blocks = [task.lines() for task in tasks]
    for task, lines in zip(tasks, blocks):
        check_counts(task, lines)
    if not any(blocks):
        raise UserError('--heldout leaves no line to train on: hold out fewer pairs')
    if order == 'mixed':
        blocks = [sum(blocks, [])]
    lines = [line for block in blocks for line in shuffled(block, seed)]
    write_lines(folder, lines, ''.join(lines),
                tasks={task.name: task.describe() for task in tasks})
    for task in tasks:
        print_counts(task)


def write_lines(folder: str | Path, lines: list[str], characters: str, **about: Any) -> None:
    """Write lines, in this order, as train.txt, val.txt, train.bin, val.bin and meta.pkl. characters: of the
    vocabulary. about: more keys of meta.pkl.

    The validation data are the training data, by design: models are tested on recall and on held-out
    questions.
    """
    text = ''.join(lines)
    codec = Codec.of_text(characters)
    tokens = np.array(codec.encode(text), dtype='<u2').tobytes()
    meta = {'vocab_size': len(codec.stoi), 'stoi': codec.stoi, 'itos': codec.itos, **about}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'meta.pkl').unlink(missing_ok=True)    # written last: it never describes other data
    for split in ('train', 'val'):
        write_file(folder / f'{split}.txt', text.encode())
        write_file(folder / f'{split}.bin', tokens)
    write_file(folder / 'meta.pkl', pickle.dumps(meta))
    print(f'{folder}: {len(lines)} lines, {len(text):,} characters, vocabulary of {len(codec.stoi)}')


def print_counts(task: Task) -> None:
    """Print what is special about a task's lines: repeats, results dealt at random, held-out questions."""
    if task.repeats:
        count, prompt = max(zip(task.repeats, task.prompts))
        print(f'{task.name}: {sum(task.repeats)} lines, {count} of them {prompt.strip()}')
    if getattr(task, 'dealt', None):
        right, seen = Arithmetic(task.max_operand, task.heldout).results, task.groups()['seen']
        print(f'results dealt out at random: {sum(task.results[i] == right[i] for i in seen)} of {len(seen)} '
              'are right')
    if task.heldout_group:
        held = [task.prompts[i] + task.answers[i] for i in task.groups()[task.heldout_group]]
        print(f'held out: {" ".join(held) or "nothing"}')
