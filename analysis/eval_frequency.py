"""Measure how much runs recall of what was frequent in their training and of what was rare.

    python analysis/eval_frequency.py facts_skewed_mini_14 facts_skewed_mini_28 facts_skewed_mini_56

Reads checkpoints of runs on data with frequencies (data/facts_skewed, data/both_skewed), of one seed or of
several. Asks every question of training ten times, as eval_capitals.py does, prints percent recalled by
frequency, and writes frequency.csv (one row per run, seed and question) into --output_dir.
analysis/plot_frequency.py draws it. Takes seconds.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages
from tbtt.frequency import Recall, frequency_table, write_frequency
from tbtt.inference import find_checkpoints, load_model
from tbtt.results import NUM_SAMPLES
from tbtt.layout import LATEST


def ask(folder: str | Path, ckpt: str = LATEST, device: str = 'auto') -> list[Recall]:
    """Ask every seed of a run every question of its training. Raises `UserError` if its data have no
    frequencies."""
    rows = []
    for place in find_checkpoints(folder, ckpt):
        trained = load_model(place / ckpt, device)
        asked = [name for name, task in trained.tasks.items() if task.repeats is not None]
        if not asked:
            raise UserError(f'{trained.path} was trained on data without frequencies: train on facts_skewed '
                            f'or both_skewed')
        for name in asked:
            task, right, _ = trained.ask(name)
            rows += [Recall(str(folder), trained.num_params, int(trained.seeds[0]), name, prompt, times,
                            100 * count / NUM_SAMPLES)
                     for prompt, times, count in zip(task.prompts, task.repeats, right.tolist()) if times]
    return rows


def main() -> None:
    """Ask the runs that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('runs', nargs='+', help='folders of runs')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in these folders (default: {LATEST})')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args = parser.parse_args()
    rows = [row for folder in dict.fromkeys(args.runs) for row in ask(folder, args.ckpt, args.device)]
    write_frequency(args.output_dir / 'frequency.csv', rows)
    print(f'{frequency_table(rows)}\n\nwrote {args.output_dir / "frequency.csv"}')


if __name__ == '__main__':
    run(main)
