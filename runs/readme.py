"""
Write the numbers of README.md, docs/ and config/ anew from the committed files.

    python runs/readme.py             (rewrites what is stale, and names each file)
    python runs/readme.py --check     (changes nothing; exit status 1 if a file is stale)

In a page, a line <!-- NAME --> begins a block and <!-- /NAME --> ends it; BLOCKS says which function makes the text between
them. Everything else is prose, which anyone may edit. In config/train_*.py the lines `# Ours:` and `# Time:` are made from
the runs below results/. Reads files only, in some seconds.

results/quickstart.txt holds what `bash runs/quickstart.sh` printed. Its first line is written by hand: which machine, how
long, how many megabytes.
"""
import csv
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'analysis')]
import bench
import make_tables
import plot_frequency
import trace_memorization
from tbtt import paper
from tbtt.cli import Parser, run
from tbtt.config import FIELDS, load_config
from tbtt.evaluate import NUM_SAMPLES
from tbtt.figures import markdown_table
from tbtt.results import find_seeds, mean_interval, read_info
from tbtt.sweep import claims
from tbtt.sweep.summary import as_the_paper, read_summaries, seed_row

RESULTS = ROOT / 'results'
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
CONFIGS = sorted((ROOT / 'config').glob('train_*.py'))
SKEWED = ('facts_skewed', 'both_skewed')    # datasets with frequencies
Row = dict[str, Any]                        # a row of summary.csv: {column: value}, None where blank


# --- the runs ---

@functools.cache
def swept() -> list[Row]:
    """The finished seeds of all committed sweeps."""
    return read_summaries(sorted(RESULTS.glob('*/summary.csv')))


def single_seeds(name: str) -> list[Row]:
    """The seeds in the run folder `name` (such as math_mini_14), wherever it is below results/."""
    folders = sorted(folder for place in ('', '*/') for folder in RESULTS.glob(f'{place}{name}/'))
    return [{**seed_row(seed), 'path': seed} for folder in folders[:1] for seed in find_seeds(folder)]


def seeds_of(task: str, model: str, wd: bool, rows: list[Row]) -> list[Row]:
    """The seeds of one of the paper's models: those of the sweeps `rows`; where these have none, its run folder."""
    return claims.select(rows, task, model, 0.1 if wd else 0.0) or single_seeds(paper.run_name(task, model, wd))


def interval(values: np.ndarray, top: float) -> str:
    """Mean and Student's 95% interval of scores (R,) from 0 to `top`. Of scores without any spread, which have no such
    interval, the score alone."""
    mean, half = mean_interval(values)
    if np.ptp(values) == 0:
        return f'{mean:.1f}' if len(values) == 1 else f'{mean:.1f} (all alike)'
    return f'{mean:.1f} ({max(0.0, mean - half):.1f} to {min(top, mean + half):.1f})'


def heldout(seeds: list[Row], when: str) -> str:
    """How many held-out questions are answered at the `best` or the `last` evaluation, the mean over seeds; blank where
    nothing is held out."""
    if seeds[0]['heldout_total'] is None:
        return ''
    return interval(values(seeds, f'{when}_heldout_correct') / NUM_SAMPLES, seeds[0]['heldout_total'] / NUM_SAMPLES)


def values(seeds: list[Row], column: str) -> np.ndarray:
    """(R,) float, NaN where blank."""
    return np.array([seed[column] for seed in seeds], dtype=float)


def stopped(seeds: list[Row]) -> str:
    """' (stopped at 3,000)' for seeds that were not trained to the end, else nothing."""
    last = min(seed['iter'] for seed in seeds)
    return f' (stopped at {last:,})' if last < paper.ITERS else ''


# --- blocks ---

def results_table() -> str:
    """README: every model of the paper beside ours, at the evaluation that the paper reports and at the last."""
    heads = ['', 'parameters', 'paper: right %', 'held-out, k of 4', 'our seeds', 'ours, best: right %', 'held-out, k of 4',
             'last: held-out, k of 4']
    rows, sweeps, published = [], swept(), paper.published()
    for task in paper.TASKS:
        for model, size in zip(paper.MODELS, paper.NUM_PARAMS[task]):
            said, seeds = published[task, model], seeds_of(task, model, False, sweeps)
            rows.append([f'{paper.TASKS[task].lower()}, {model}', f'{size:,}', papers_score(said), papers_heldout(said),
                         *(our_cells(seeds) if seeds else ['not run', '', '', ''])])
    return markdown_table(heads, rows)


def our_cells(seeds: list[Row]) -> list[str]:
    return [f'{len(seeds)}{stopped(seeds)}', interval(values(seeds, 'best_combined'), 100), heldout(seeds, 'best'),
            heldout(seeds, 'last')]


def papers_score(row: dict[str, str]) -> str:
    """The paper's percentage over all questions of a run; in arithmetic the mean of its two."""
    if row['table'] == '2':
        return f'{(float(row["addition_pct"]) + float(row["subtraction_pct"])) / 2:.1f}'
    return f'{float(row["combined_pct"] or row["facts_pct"]):.1f}'


def papers_heldout(row: dict[str, str]) -> str:
    """The paper's 40/40 as four questions."""
    return f'{int(row["heldout_correct"]) / NUM_SAMPLES:.1f}' if row['heldout_total'] else ''


def tables() -> str:
    """The paper's Tables 2, 3 and 4 with the runs of one seed below its rows."""
    return '\n\n'.join([*(make_tables.make_table(task, RESULTS) for task in make_tables.TABLES), make_tables.NOTES])


def widths() -> str:
    """What the sweeps found with the paper's data and recipe: a row for each task, width and weight decay."""
    heads = ['', 'width', 'parameters', 'weight decay', 'seeds', 'right %, best', 'right %, last', 'held-out, best',
             'held-out, last', 'seeds with all held-out, best / last', 'with none, best / last']
    groups: dict[tuple, list[Row]] = {}
    for number, task in enumerate(paper.TASKS):
        for row in swept():
            if as_the_paper(row, task):
                groups.setdefault((number, row['n_embd'], row['num_params'], row['weight_decay']), []).append(row)
    rows = []
    for (number, width, size, decay), seeds in sorted(groups.items()):
        task = list(paper.TASKS.values())[number].lower()
        scores = [interval(values(seeds, f'{when}_combined'), 100) for when in ('best', 'last')]
        rows.append([task, f'{width:.0f}', f'{size:,.0f}', f'{decay:g}', str(len(seeds)), *scores,
                     heldout(seeds, 'best'), heldout(seeds, 'last'), extreme(seeds, 1), extreme(seeds, 0)])
    return markdown_table(heads, rows)


def extreme(seeds: list[Row], share: int) -> str:
    """How many seeds answer all (share 1) or none (0) of the held-out questions, at the best and the last evaluation."""
    if seeds[0]['heldout_total'] is None:
        return ''
    wanted = share * values(seeds, 'heldout_total')
    return ' / '.join(str((values(seeds, f'{when}_heldout_correct') == wanted).sum()) for when in ('best', 'last'))


def verdicts() -> str:
    return (RESULTS / 'capacity' / 'claims.md').read_text(encoding='utf-8').rstrip()


def speed() -> str:
    """A table for each file that bench.py --json wrote."""
    return '\n\n'.join(bench.report(json.loads(file.read_text())) for file in sorted(RESULTS.glob('bench_*.json')))


def crash() -> str:
    command, *_, figures = (RESULTS / 'crash_torture.txt').read_text().splitlines()
    return f'```\n{command}\n{figures}\n```'


def quickstart() -> str:
    """Five evaluations from the first to the last and the held-out score, of what the quickstart printed."""
    about, *lines = (RESULTS / 'quickstart.txt').read_text().splitlines()
    evaluations = [line for line in lines if re.match(r'iter +\d+: addition', line)]
    shown = [evaluations[i] for i in np.linspace(0, len(evaluations) - 1, 5).round().astype(int)]
    score = next(line for line in lines if line.strip().startswith('held-out:'))
    return '\n'.join(['```', *shown, score.strip(), '```', about])


def settings() -> str:
    """A table of every setting, from the fields of `Config`."""
    rows = [[f'`{field.name}`', field.type.__name__, f'`{field.default!r}`', allowed(field.metadata), field.metadata['doc']]
            for field in FIELDS.values()]
    return markdown_table(['setting', 'type', 'default', 'allowed', 'what it is'], rows)


def allowed(metadata: Any) -> str:
    """The values that a setting may have: its choices, or its range."""
    low, high, choices = (metadata[key] for key in ('low', 'high', 'choices'))
    if choices:
        return ', '.join(f'`{choice}`' for choice in choices)
    if high is not None:
        return f'{low:,} to {high:,}'
    return '' if low is None else f'at least {low}'


def frequency() -> str:
    return '\n\n'.join(plot_frequency.table(asked(dataset)) for dataset in SKEWED)


def asked(dataset: str) -> list[plot_frequency.Row]:
    """The rows of frequency.csv from results/."""
    with open(RESULTS / dataset / 'frequency.csv', newline='') as file:
        return [plot_frequency.Row(row['run'], int(row['parameters']), int(row['seed']), row['task'], row['question'],
                                   int(row['occurrences']), float(row['recalled'])) for row in csv.DictReader(file)]


def memorization() -> str:
    traces = [json.loads((RESULTS / dataset / 'trace.json').read_text())['models'] for dataset in SKEWED]
    return '\n\n'.join(trace_memorization.compare(models) for models in traces)


BLOCKS: dict[str, Callable[[], str]] = {
    'claims': verdicts, 'crash': crash, 'frequency': frequency, 'memorization': memorization, 'quickstart': quickstart,
    'results': results_table, 'settings': settings, 'speed': speed, 'tables': tables, 'widths': widths}


def block(name: str) -> re.Pattern[str]:
    """What stands between the two lines of a block."""
    return re.compile(f'(?<=^<!-- {name} -->\n).*?(?=^<!-- /{name} -->$)', re.DOTALL | re.MULTILINE)


def fill_page(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with every block made anew; only the blocks that stand in it are computed."""
    for name, make in blocks.items():
        if block(name).search(text):
            made = make()
            text = block(name).sub(lambda _: f'{made}\n', text)
    return text


# --- headers of config files ---

def config_header(name: str) -> dict[str, str]:
    """The lines `# Ours:` and `# Time:` of config/train_NAME.py, by their first words; 'not run' where results/ has none."""
    cells = {paper.run_name(task, model, wd): (task, model, wd) for task in paper.TASKS for model in paper.MODELS
             for wd in (False, True)}
    seeds = seeds_of(*cells[name], swept()) if name in cells else single_seeds(name)
    if not seeds:
        return {'# Ours:': '# Ours: not run.', '# Time:': '# Time: not run.'}
    return {'# Ours:': f'# Ours: {said(seeds)}', '# Time:': f'# Time: {took(seeds)}'}


def said(seeds: list[Row]) -> str:
    """6 seeds, best evaluation: 97.0% (89.4 to 100.0) right, held-out 3.8 (3.4 to 4.0) of 4."""
    text = f'{count(len(seeds), "seed")}{stopped(seeds)}, best evaluation: '
    text += f"{interval(values(seeds, 'best_combined'), 100)} % right"
    return f'{text}, held-out {heldout(seeds, "best")} of 4.' if heldout(seeds, 'best') else f'{text}.'


def took(seeds: list[Row]) -> str:
    """Of the process that took the fewest seconds for a seed: 52 s a seed (6 as one), compiled, on AMD EPYC, 1 threads."""
    infos = [info for seed in seeds if (info := read_info(seed['path'])).get('seconds')]
    if not infos:
        return 'not measured.'
    # Seeds that were trained as one have the seconds of their process in common.
    together = Counter(info['seconds'] for info in infos)
    fastest = min(infos, key=lambda info: info['seconds'] / together[info['seconds']])
    num_seeds = together[fastest['seconds']]
    text = f'{fastest["seconds"] / num_seeds:,.0f} s a seed'
    if num_seeds > 1:
        text += f' ({num_seeds} as one)'
    return f'{text}, {fastest["step"]}, on {fastest["hardware"]}.'


def count(number: int, noun: str) -> str:
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def fill_config(text: str, header: dict[str, str]) -> str:
    """A config file with its `# Ours:` and `# Time:` lines made anew; a file without them stays as it is."""
    lines = [next((made for start, made in header.items() if line.startswith(start)), line) for line in text.splitlines()]
    return '\n'.join(lines) + '\n'


# --- the command ---

def stale_files() -> dict[Path, str]:
    """{file: its text made anew} of every file that differs from it."""
    made = {page: fill_page(page.read_text(encoding='utf-8'), BLOCKS) for page in PAGES}
    for path in CONFIGS:
        name = load_config([path], {}).out_dir
        made[path] = fill_config(path.read_text(encoding='utf-8'), config_header(name))
    return {path: text for path, text in made.items() if text != path.read_text(encoding='utf-8')}


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if a file is stale')
    args = parser.parse_args()
    stale = stale_files()
    for path, text in stale.items():
        print(f'{path.relative_to(ROOT)}: stale' if args.check else f'wrote {path.relative_to(ROOT)}')
        if not args.check:
            path.write_text(text, encoding='utf-8')
    return int(args.check and bool(stale))


if __name__ == '__main__':
    run(main)
