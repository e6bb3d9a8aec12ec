"""What the datasets' prepare.py scripts share: their options, the files they write, and the check of their counts."""
import argparse
import pickle
import random
from pathlib import Path

import numpy as np

from tbtt.command import Parser, UserError
from tbtt.dataset import Codec
from tbtt.files import write_file
from tbtt.tasks import Arithmetic, Capitals


def pairs(text):
    """argparse type of --heldout: '5,7' -> ((5, 7),); '5,7;3,8' -> ((5, 7), (3, 8)); 'none' -> ()"""
    if text == 'none':
        return ()
    try:
        return tuple((int(a), int(b)) for a, b in (pair.split(',') for pair in text.split(';')))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected pairs such as 5,7 or 5,7;3,8, or none, got {text!r}') from None


def prepare(script, doc, kinds):
    """Prepare the dataset of `script` with the tasks named in `kinds` ('math', 'facts'), by its command line."""
    parser = Parser(doc)
    if 'math' in kinds:
        parser.add_argument('--heldout', type=pairs, default=((5, 7),), metavar='A,B[;A,B...]',
                            help='pairs of operands that are never trained on, or none (default: 5,7)')
        parser.add_argument('--max_operand', type=int, default=9, help='largest operand, up to 99 (default: 9)')
    parser.add_argument('--seed', type=int, default=1337, help='of the order of lines (default: 1337)')
    parser.add_argument('--out_dir', default=Path(script).resolve().parent, help='(default: beside the script)')
    args = parser.parse_args()
    tasks = []
    if 'math' in kinds:
        tasks.append(Arithmetic(args.max_operand, args.heldout))
    if 'facts' in kinds:
        tasks.append(Capitals())
    write_dataset(args.out_dir, tasks, args.seed)


def check_counts(task, lines):
    """Count the lines of a task in a second way, and look for held-out expressions among them."""
    if task.name == 'facts':
        expected = len(set(task.facts))
    else:
        heldout = {frozenset(pair) for pair in task.heldout}
        expected = 2 * (task.max_operand + 1) ** 2 - sum(2 * len(pair) for pair in heldout)
        leaked = [line for line in lines for a, b in task.heldout
                  for x, y in ((a, b), (b, a)) if line.startswith((f'<{x}+{y}=', f'<{x}-{y}='))]
        assert not leaked, f'held-out expressions among the lines: {leaked}'
    assert len(set(lines)) == len(lines) == expected, f'{len(lines)} lines of {task.name}, expected {expected}'


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
        if task.name == 'math':
            held = [task.prompts[i] + task.answers[i] for i in task.groups()['heldout']]
            print(f'held out: {" ".join(held) or "nothing"}')
