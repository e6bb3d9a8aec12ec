"""
Score a checkpoint in capital cities: every country, ten samples each, in one batch.

    python eval_capitals.py --out_dir=facts_mini_28

Prints one line per country, with a wrong answer if there was one, and the total, which equals that of the
run's own evaluation at that iteration. --json prints the same for programs. Takes a few seconds.
"""
import json
from pathlib import Path

from tbtt.cli import Parser, run
from tbtt.inference import add_options, load_model, totals
from tbtt.results import NUM_SAMPLES
from tbtt.seed_folder import BEST


def main() -> None:
    """Score the checkpoint that the command line names."""
    parser = Parser(__doc__)
    add_options(parser, ckpt=BEST['facts'])
    parser.add_argument('--json', action='store_true', help='one line of JSON instead of the list')
    args = parser.parse_args()
    trained = load_model(Path(args.out_dir) / args.ckpt, args.device, args.seed, args.dataset)
    task, right, wrong = trained.ask('facts')
    correct, total = totals(task, right)['facts']
    answers = [{'country': country, 'capital': capital, 'correct': int(right[i]), 'wrong': wrong.get(i)}
               for i, (country, capital) in enumerate(task.facts)]
    if args.json:
        print(json.dumps({**trained.about(), 'facts': {'correct': correct, 'total': total},
                          'answers': answers}))
        return
    print('{checkpoint}, iteration {iteration:,}, {parameters:,} parameters\n'.format(**trained.about()))
    for answer in answers:
        said = '' if answer['wrong'] is None else f'  answered {answer["wrong"].strip()!r}'
        print(f'{answer["country"]:>16}: {answer["capital"]:<15} {answer["correct"]:>2}/{NUM_SAMPLES}{said}')
    print(f'\n{"facts":>16}: {correct}/{total} = {100 * correct / total:.1f}%')


if __name__ == '__main__':
    run(main)
