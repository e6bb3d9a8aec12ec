"""What the datasets' prepare.py scripts share: their options, the files they write, and the check of their counts."""
import argparse
import collections
import math
import pickle
import random
from pathlib import Path

import numpy as np

from tbtt.cli import Parser, UserError
from tbtt.dataset import Codec
from tbtt.atomic import write_file
from tbtt.tasks import MAX_LINES, TASKS, Arithmetic, Task


def pairs(text):
    """argparse type of --heldout: '5,7' -> ((5, 7),); '5,7;3,8' -> ((5, 7), (3, 8)); 'none' -> ()"""
    if text == 'none':
        return ()
    try:
        return tuple((int(a), int(b)) for a, b in (pair.split(',') for pair in text.split(';')))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected pairs such as 5,7 or 5,7;3,8, or none, got {text!r}') from None


def exponent(text):
    """argparse type of --exponent: a finite number, at least 0"""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'expected a finite number, at least 0, got {text!r}')
    return value


def num_lines(text):
    """argparse type of --repeats: '500' -> 500"""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_LINES:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 to {MAX_LINES:,}, got {text!r}')
    return value


def zipf(num, exponent, total):
    """How often each of `num` ranks occurs among about `total` lines: the shares are proportional to rank**-exponent.

    Each count is total * share, rounded to the nearest whole number (a half to the even one), and at least 1: the counts
    add up to `total` only nearly.
    """
    weights = [rank**-exponent for rank in range(1, num + 1)]
    whole = sum(weights)
    return [max(1, round(total * weight / whole)) for weight in weights]


def skew(task, exponent, total, seed):
    """The task with repeats: those of `zipf`, its ranks dealt at random to the prompts that are not held out."""
    seen = task.groups().get('seen', range(len(task.prompts)))
    counts = zipf(len(seen), exponent, total)
    # A stream of its own for each task: the facts have the same frequencies with arithmetic beside them and without.
    random.Random(f'{seed} {task.name}').shuffle(counts)
    repeats = dict(zip(seen, counts))
    return type(task)(**task.describe(), repeats=[repeats.get(i, 0) for i in range(len(task.prompts))])


def prepare(script, doc, kinds, skewed=False):
    """Prepare the dataset of `script` with the tasks named in `kinds` ('math', 'facts'), by its command line.

    skewed: lines repeat, as often as `zipf` says.
    """
    parser = Parser(doc)
    if 'math' in kinds:
        parser.add_argument('--heldout', type=pairs, default=((5, 7),), metavar='A,B[;A,B...]',
                            help='pairs of operands that are never trained on, or none (default: 5,7)')
        parser.add_argument('--max_operand', type=int, default=9, help='largest operand, up to 99 (default: 9)')
    if skewed:
        parser.add_argument('--exponent', type=exponent, default=1.0, help='rank r is repeated in proportion to r**-EXPONENT; '
                            '0 repeats all alike (default: 1.0)')
        parser.add_argument('--repeats', type=num_lines, default=500, help='lines of facts, about: each fact has at least one '
                            '(default: 500)')
        if 'math' in kinds:
            parser.add_argument('--math_repeats', type=num_lines, default=1000, help='lines of arithmetic, about: each '
                                'expression that is not held out has at least one (default: 1000)')
    parser.add_argument('--seed', type=int, default=1337, help='of the order of lines'
                        + ', and of what is frequent' * skewed + ' (default: 1337)')
    parser.add_argument('--out_dir', default=Path(script).resolve().parent, help='(default: beside the script)')
    args = parser.parse_args()
    tasks = [Arithmetic(args.max_operand, args.heldout) if kind == 'math' else TASKS[kind]() for kind in kinds]
    if skewed:
        totals = {task.name: args.repeats if task.name == 'facts' else args.math_repeats for task in tasks}
        tasks = [skew(task, args.exponent, totals[task.name], args.seed) for task in tasks]
    write_dataset(args.out_dir, tasks, args.seed)


def check_counts(task: Task, lines: list[str]) -> None:
    """Count the lines of a task in a second way: those that it knows how to count, and the lines of each prompt.

    Raises `AssertionError` with the numbers where they differ.
    """
    task.check(lines)
    lengths = sorted({len(prompt) for prompt in task.prompts}, reverse=True)
    prompts = set(task.prompts)
    counts = collections.Counter(next((line[:n] for n in lengths if line[:n] in prompts), line) for line in lines)
    once = [int(not task.is_heldout(i)) for i in range(len(task.prompts))]
    wanted = collections.Counter(dict(zip(task.prompts, task.repeats or once)))
    wrong = {prompt: (counts[prompt], wanted[prompt]) for prompt in counts | wanted if counts[prompt] != wanted[prompt]}
    assert not wrong, f'lines of {task.name} (counted, expected): {wrong}'


def write_dataset(folder, tasks, seed):
    """Shuffle the tasks' lines once and write train.txt, val.txt, train.bin, val.bin and meta.pkl into `folder`.

    Validation data are the training data, by design: the question is what is recalled and what is held out.
    Prints the counts.
    """
    lines = []
    for task in tasks:
        check_counts(task, task.lines())
        lines += task.lines()
    if not lines:
        raise UserError('--heldout leaves no line to train on: hold out fewer pairs')
    random.Random(seed).shuffle(lines)
    text = ''.join(lines)
    codec = Codec.of_text(text)
    tokens = np.array(codec.encode(text), dtype='<u2').tobytes()
    meta = {'vocab_size': len(codec.stoi), 'stoi': codec.stoi, 'itos': codec.itos,
            'tasks': {task.name: task.describe() for task in tasks}}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val'):
        write_file(folder / f'{split}.txt', text.encode())
        write_file(folder / f'{split}.bin', tokens)
    write_file(folder / 'meta.pkl', pickle.dumps(meta))
    print(f'{folder}: {len(lines)} lines, {len(text):,} characters, vocabulary of {len(codec.stoi)}')
    for task in tasks:
        if task.repeats:
            count, prompt = max(zip(task.repeats, task.prompts))
            print(f'{task.name}: {sum(task.repeats)} lines, {count} of them {prompt.strip()}')
        if task.heldout_group:
            held = [task.prompts[i] + task.answers[i] for i in task.groups()[task.heldout_group]]
            print(f'held out: {" ".join(held) or "nothing"}')
