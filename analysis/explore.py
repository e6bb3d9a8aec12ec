"""Write a page for the browser that shows a run, several runs, or a sweep.

    python analysis/explore.py math_mini_14
    python analysis/explore.py math_mini_14 math_mini_28 --output=n14_n28.html
    python analysis/explore.py sweeps/capacity --output=capacity.html

Reads folders of runs (of one seed or of many) and of sweeps (or their summary.csv), but no checkpoints.
Writes one HTML file that needs no network. It shows scores against parameters; a click opens a seed with its
answers at every evaluation, its curves and its settings. The file has at most 8 MB: if there are many
answers, some evaluations are left out. Takes seconds, or a minute for hundreds of seeds. Needs plotly
(requirements-study.txt); docs/explore.md says how to read the page.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, run    # first: it names missing packages

from tbtt.atomic import write_file
from tbtt.explore.page import make_page
from tbtt.explore.seeds import read_seeds


def main() -> None:
    """Read, pack, write."""
    parser = Parser(__doc__)
    parser.add_argument('paths', nargs='+', type=Path, help='folders of runs or sweeps, such as math_mini_14')
    parser.add_argument('--output', default=Path('explore.html'), type=Path,
                        help='the page to write (default: explore.html)')
    args = parser.parse_args()
    page, left_out = make_page(read_seeds(args.paths))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.output, page)
    print(*left_out, f'wrote {args.output} ({len(page) / 1e6:.1f} MB)', sep='\n')


if __name__ == '__main__':
    run(main)
