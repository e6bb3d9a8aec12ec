"""Judge the paper's five claims, and six of our own on why the rule is lost, by the seeds of sweeps. Prints a
verdict on each claim, with numbers and intervals, as Markdown.

    python analysis/make_claims.py sweeps/capacity/summary.csv
    python analysis/make_claims.py sweeps/capacity/summary.csv more/summary.csv

Reads summary.csv of one or several sweeps (finished seeds only) and writes only to standard output, in
seconds. The text below the last table says how a verdict is reached.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, run    # first: it names missing packages
from tbtt.sweep.claims import judge, report
from tbtt.sweep.controls import judge_controls
from tbtt.sweep.summary import read_summaries


def main() -> None:
    """Print the verdicts on the summaries that the command line names."""
    parser = Parser(__doc__)
    parser.add_argument('summary', nargs='+', type=Path, help='summary.csv of a sweep')
    rows = read_summaries(parser.parse_args().summary)
    print(report([*judge(rows), *judge_controls(rows)]))


if __name__ == '__main__':
    run(main)
