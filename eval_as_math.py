"""
Score a checkpoint in arithmetic: every sum and difference, ten samples each, in one batch.

    python eval_as_math.py --out_dir=math_mini_14

Prints one table per operation (right answers of ten; held-out pairs in brackets) and the totals, which equal
those of the run's own evaluation at that iteration. A held-out question counts as answered if at least six of
its ten answers are right. --json prints the same for programs. Takes a few seconds.
"""
import json
from pathlib import Path

from tbtt.cli import Parser, run    # first: it names missing packages

import numpy as np

from tbtt.inference import add_options, load_model, totals
from tbtt.results import ENOUGH, NUM_SAMPLES
from tbtt.seed_folder import BEST
from tbtt.tasks import Arithmetic

SHOWN = 6    # wrongly answered expressions that are printed at most, between the tables and the totals


def grid(task: Arithmetic, right: np.ndarray, sign: str) -> str:
    """A table with the first operand down and the second across. right: (P,) right answers of ten to each
    prompt"""
    size = task.max_operand + 1
    cells = {(a, b): f'[{right[i]}]' if task.is_heldout(i) else f'{right[i]} '
             for i, (a, s, b) in enumerate(task.expressions) if s == sign}
    lines = [f'{f"a {sign} b":>7}' + ''.join(f'{b:>4} ' for b in range(size))]
    for a in range(size):
        lines.append(f'{a:>7}' + ''.join(f'{cells[a, b]:>5}' for b in range(size)))
    return '\n'.join(lines)


def answered_questions(task: Arithmetic, right: np.ndarray) -> tuple[int, int]:
    """-> how many held-out questions have at least ENOUGH right answers, and how many there are"""
    heldout = right[task.groups()[task.heldout_group]]
    return int((heldout >= ENOUGH).sum()), len(heldout)


def main() -> None:
    """Score the checkpoint that the command line names."""
    parser = Parser(__doc__)
    add_options(parser, ckpt=BEST['math'])
    parser.add_argument('--json', action='store_true', help='one line of JSON instead of the tables')
    args = parser.parse_args()
    trained = load_model(Path(args.out_dir) / args.ckpt, args.device, args.seed, args.dataset)
    task, right, wrong = trained.ask('math')
    counts = totals(task, right)
    answered, questions = answered_questions(task, right)
    if args.json:
        print(json.dumps({
            **trained.about(),
            **{group: {'correct': correct, 'total': total} for group, (correct, total) in counts.items()},
            'heldout_answered': answered, 'heldout_questions': questions,
            'expressions': [{'prompt': prompt, 'correct': int(right[i]), 'heldout': task.is_heldout(i),
                             'wrong': wrong.get(i)} for i, prompt in enumerate(task.prompts)]}))
        return
    print('{checkpoint}, iteration {iteration:,}, {parameters:,} parameters\n'.format(**trained.about()))
    for sign in '+-':
        print(grid(task, right, sign) + '\n')
    for i, text in list(wrong.items())[:SHOWN]:
        mark = 'held out' if task.is_heldout(i) else 'seen in training'
        print(f'{task.prompts[i]}{task.results[i]}> was answered {text.strip()!r} '
              f'({NUM_SAMPLES - right[i]} of {NUM_SAMPLES} wrong, {mark})')
    if len(wrong) > SHOWN:
        print(f'{len(wrong) - SHOWN} more expressions were answered wrongly: --json has them all')
    for group, (correct, total) in counts.items():
        of_questions = f', {answered} of {questions} questions' if group == task.heldout_group else ''
        print(f'{task.labels[group].lower():>17}: {correct}/{total} = '
              f'{100 * correct / total:.1f}%{of_questions}')


if __name__ == '__main__':
    run(main)
