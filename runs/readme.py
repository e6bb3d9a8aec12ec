"""
Update the numbers in README.md, docs/ and config/ from the committed files.

    python runs/readme.py             (rewrites what is stale, and names each file)
    python runs/readme.py --check     (changes nothing; exit status 1 if a file is stale)

In a page, a line <!-- NAME --> begins a block and <!-- /NAME --> ends it; BLOCKS says which function makes
the text between them. Everything else is prose, which anyone may edit. In config/train_*.py the lines
`# Ours:` and `# Time:` are made from the runs below results/. Takes seconds, as it only reads files.

results/quickstart.txt holds what `bash runs/quickstart.sh` printed. Its first line is written by hand: which
machine, how long, how many megabytes.
"""
import ast
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
import trace_memorization
from tbtt import paper
from tbtt.cli import Parser, UserError, run
from tbtt.config import FIELDS, Config, load_config
from tbtt.figures import markdown_table
from tbtt.frequency import frequency_table, read_frequency
from tbtt.provenance import commit, git
from tbtt.results import NUM_SAMPLES, find_seeds, read_info
from tbtt.stats import mean_interval
from tbtt.sweep import claims, controls
from tbtt.sweep.claims import values
from tbtt.sweep.summary import as_the_paper, read_summaries, seed_row

RESULTS = ROOT / 'results'
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
CONFIGS = sorted((ROOT / 'config').glob('train_*.py'))
SKEWED = ('facts_skewed', 'both_skewed')    # datasets with frequencies
SCORES = {'add': 'addition', 'sub': 'subtraction', 'facts': 'facts'}
Row = dict[str, Any]                        # a row of summary.csv: {column: value}, None where blank


# --- the runs ---

@functools.cache
def swept() -> list[Row]:
    """The finished seeds of all committed sweeps."""
    return read_summaries(sorted(RESULTS.glob('*/summary.csv')))


def single_seeds(name: str) -> list[Row]:
    """The seeds in the run folder `name` (such as math_mini_14), in results/ or in a folder there."""
    for folder in [RESULTS / name, *sorted(RESULTS.glob(f'*/{name}'))]:
        if folder.is_dir():
            return [{**seed_row(seed), 'path': seed} for seed in find_seeds(folder)]
    return []


def seeds_of(task: str, model: str, wd: bool, rows: list[Row]) -> list[Row]:
    """The seeds of one of the paper's models: those in the sweeps `rows`, or else in its run folder."""
    return claims.select(rows, task, model, wd) or single_seeds(paper.run_name(task, model, wd))


def interval(scored: np.ndarray, top: float) -> str:
    """Mean and Student's 95% interval of scores (R,), cut off at 0 and `top`. Scores that are all equal have
    no interval, only the score."""
    mean, half = mean_interval(scored)
    if np.ptp(scored) == 0:
        return f'{mean:.1f}' if len(scored) == 1 else f'{mean:.1f} (all alike)'
    return f'{mean:.1f} ({max(0.0, mean - half):.1f} to {min(top, mean + half):.1f})'


def heldout(seeds: list[Row], when: str) -> str:
    """How many held-out questions are answered at the `best` or the `last` evaluation, the mean over seeds;
    blank where nothing is held out."""
    if seeds[0]['heldout_total'] is None:
        return ''
    return interval(answered(seeds, when), seeds[0]['heldout_total'] / NUM_SAMPLES)


def answered(seeds: list[Row], when: str) -> np.ndarray:
    """(R,) held-out questions answered; if an older file does not say, right answers divided by ten."""
    recorded = values(seeds, f'{when}_heldout_answered')
    return np.where(np.isnan(recorded), values(seeds, f'{when}_heldout_correct') / NUM_SAMPLES, recorded)


def stopped(seeds: list[Row], iters: int = paper.ITERS, dtype: bool = True) -> str:
    """', stopped at 3,000, bfloat16' for seeds that were trained for less than `iters` steps, else nothing.
    dtype: is it named too?"""
    first = min(seeds, key=lambda seed: seed['iter'])
    text = paper.stopped(int(first['iter']), read_info(first['path']) if dtype else {}, iters)
    return f', {text}' if text else ''


# --- blocks ---

def results_table() -> str:
    """README: every model of the paper beside ours, at the best evaluation and at the last."""
    heads = ['', 'parameters', 'paper: right %', 'held-out, k of 4', 'our seeds', 'ours, best: right %',
             'held-out, k of 4', 'last: held-out, k of 4']
    rows, sweeps = [], swept()
    for task in paper.EXPERIMENTS:
        for model, size in zip(paper.MODELS, paper.NUM_PARAMS[task]):
            rows.append([f'{name(task)}, {model}', f'{size:,}', papers_score(task, model),
                         papers_heldout(task, model), *our_cells(seeds_of(task, model, False, sweeps))])
    return markdown_table(heads, rows)


def our_cells(seeds: list[Row]) -> list[str]:
    """Seeds, percent right, held-out questions at the best and at the last evaluation."""
    if not seeds:
        return ['not run', '', '', '']
    return [f'{len(seeds)}{stopped(seeds)}', interval(values(seeds, 'best_combined'), 100),
            heldout(seeds, 'best'), heldout(seeds, 'last')]


def name(task: str) -> str:
    """arithmetic, facts, or arithmetic and facts."""
    return paper.title(paper.tasks_column(task)).lower()


def papers_score(task: str, model: str) -> str:
    """The paper's percentage over all questions of a run: the combined one, or the mean of all others."""
    scores = [paper.published_percent(task, model, score) for score in ('combined', *SCORES)]
    combined, *parts = scores
    return f'{np.nanmean(parts) if np.isnan(combined) else combined:.1f}'


def papers_heldout(task: str, model: str) -> str:
    """The paper's held-out answers as questions: 40/40 is 4.0."""
    heldout = paper.published_heldout(task, model)
    return f'{heldout[0] / NUM_SAMPLES:.1f}' if heldout else ''


def tables() -> str:
    """The paper's Tables 2, 3 and 4, with our runs directly in results/ below its rows."""
    parts = [make_tables.make_table(task, RESULTS) for task in paper.EXPERIMENTS]
    return '\n\n'.join([*parts, make_tables.NOTES])


def widths() -> str:
    """What the sweeps found with the paper's data and recipe: a row for each task, width and weight decay."""
    heads = ['', 'width', 'parameters', 'weight decay', 'seeds', 'right %, best', 'right %, last',
             'held-out, best', 'held-out, last', 'seeds with all held-out, best / last',
             'with none, best / last']
    groups: dict[tuple, list[Row]] = {}
    for number, task in enumerate(paper.EXPERIMENTS):
        for row in swept():
            if as_the_paper(row, task, but=('n_embd', 'weight_decay')):
                size = row['n_embd'], row['num_params']
                groups.setdefault((number, *size, row['weight_decay']), []).append(row)
    rows = []
    for (number, width, size, decay), seeds in sorted(groups.items()):
        task = name(list(paper.EXPERIMENTS)[number])
        right = [interval(values(seeds, f'{when}_combined'), 100) for when in ('best', 'last')]
        rows.append([task, f'{width:.0f}', f'{size:,.0f}', f'{decay:g}', str(len(seeds)), *right,
                     heldout(seeds, 'best'), heldout(seeds, 'last'), extreme(seeds, 1), extreme(seeds, 0)])
    return markdown_table(heads, rows)


def extreme(seeds: list[Row], share: int) -> str:
    """How many seeds answer all (share 1) or none (0) of the held-out questions: best / last evaluation."""
    if seeds[0]['heldout_total'] is None:
        return ''
    best, last = (claims.agrees_on_heldout(seeds, when, bool(share)).sum() for when in ('best', 'last'))
    return f'{best} / {last}'


def verdicts() -> str:
    """The verdicts on all claims, from the file of runs/collect.sh, because judging takes seconds."""
    return (RESULTS / 'claims.md').read_text(encoding='utf-8').rstrip()


CONTROLS = {'as the paper trains': {}, 'windows within a line': controls.WITHIN_LINES,
            'lines in fresh order': controls.FRESH, 'answers dealt out at random': controls.SHUFFLED,
            'the same, windows within a line': controls.SHUFFLED | controls.WITHIN_LINES,
            'weight decay 0.1': {'weight_decay': 0.1}}


def control_table() -> str:
    """Arithmetic with one thing changed: a row for each control and width."""
    heads = ['', 'width', 'seeds', 'seen %, last', 'held-out, highest of a run', 'held-out, last',
             'order learned, last']
    rows = []
    for what, control in CONTROLS.items():
        for width in sorted({row['n_embd'] for row in swept()}):
            seeds = controls.of_width(swept(), width, control)
            if len(seeds) >= claims.MIN_SEEDS:
                rows.append([what, f'{width:.0f}', str(len(seeds)), interval(values(seeds, 'last_seen'), 100),
                             *heldout_cells(seeds, control), order_cell(seeds)])
    return markdown_table(heads, rows)


def heldout_cells(seeds: list[Row], control: dict[str, str]) -> list[str]:
    """Held-out questions, k of 4: the highest score of a run, and the last; blank where there is no rule."""
    if 'answers' in control:
        return ['', '']
    total = seeds[0]['heldout_total'] / NUM_SAMPLES
    return [interval(values(seeds, 'top_heldout') * total / 100, total), heldout(seeds, 'last')]


def order_cell(seeds: list[Row]) -> str:
    """The share of the order of the lines that the last loss shows, in percent; blank where it is unknown."""
    shares = 100 * values(seeds, 'order_learned')
    return '' if np.isnan(shares).any() else f'{round(shares.mean())}'    # never -0


def verdict_table() -> str:
    """All claims, each with its verdict alone."""
    found = re.findall(r'^\*\*Claim (\d+): (.+?)\*\* Verdict: (.+?)\.', verdicts(), flags=re.MULTILINE)
    return markdown_table(['', 'claim', 'verdict'], [[*each] for each in found])


def speed() -> str:
    """A table for each file that bench.py --json wrote."""
    files = sorted(RESULTS.glob('bench_*.json'))
    return '\n\n'.join(bench.report(json.loads(file.read_text())) for file in files)


def crash() -> str:
    """The command of the long crash test, and the last line that it printed."""
    command, *_, figures = (RESULTS / 'chaos.txt').read_text().splitlines()
    return f'```\n{command}\n{figures}\n```'


def quickstart() -> str:
    """Five evaluations from the first to the last, and the held-out score, as the quickstart printed them."""
    about, *lines = (RESULTS / 'quickstart.txt').read_text().splitlines()
    evaluations = [line for line in lines if re.match(r'iter +\d+: addition', line)]
    if not evaluations:
        raise UserError('results/quickstart.txt holds no evaluation: record it anew, as runs/readme.py says')
    shown = [evaluations[i] for i in np.linspace(0, len(evaluations) - 1, 5).round().astype(int)]
    score = next(line.strip() for line in lines[::-1] if line.strip().startswith('held-out:'))
    return '\n'.join(['```', *shown, score, '```', about])


def settings() -> str:
    """A table of every setting, from the fields of `Config`."""
    rows = [[f'`{field.name}`', field.type.__name__, f'`{field.default!r}`', allowed(field.metadata),
             field.metadata['doc']] for field in FIELDS.values()]
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
    """Percent recalled by number of occurrences, a table for each dataset."""
    return '\n\n'.join(frequency_table(read_frequency(RESULTS / dataset / 'frequency.csv'))
                       for dataset in SKEWED)


def memorization() -> str:
    """Rank correlations of the models' probabilities with those of the data, a table for each dataset."""
    traces = [json.loads((RESULTS / dataset / 'trace.json').read_text())['models'] for dataset in SKEWED]
    return '\n\n'.join(trace_memorization.compare(models) for models in traces)


# The modules of tbtt/ in an order for reading; a folder stands for all modules in it.
ROOMS = {
    'Command line and settings': ('cli', 'startup', 'config', 'nanogpt', 'resume'),
    'Data and questions': ('tasks', 'prepare', 'dataset', 'text', 'bpe', 'batches', 'order'),
    'Training step': ('rng', 'replicas', 'engine', 'capture', 'fused', 'device', 'distributed', 'baseline'),
    'Evaluation': ('generate', 'evaluate', 'answers', 'bits', 'frequency', 'parts', 'interpret'),
    'Run folders and logs': ('layout', 'seed_folder', 'run_folder', 'checkpoint', 'atomic', 'archive',
                             'provenance', 'progress', 'loggers'),
    'Reading runs and checkpoints': ('inference', 'gpt2', 'hub', 'results', 'rows', 'stats', 'paper',
                                     'figures'),
    'Sweeps': ('sweep',),
    'Tracing answers to the data': ('trace',),
    'A page for the browser': ('explore',)}


def scripts(pattern: str) -> list[Path]:
    """The scripts of the project. In a Git repository those that it tracks: a user may have others beside."""
    tracked = commit() and git(ROOT, 'ls-files', '--full-name', f':(top,glob){pattern}')
    return [ROOT / name for name in tracked.splitlines()] if tracked else sorted(ROOT.glob(pattern))


def files() -> str:
    """What every file is for: the first sentence of its docstring, with a list for each of ROOMS."""
    parts = [('Scripts', scripts('*.py')), ('Scripts that analyse runs', scripts('analysis/*.py'))]
    for room, names in ROOMS.items():
        found = [path for name in names for path in sorted(ROOT.glob(f'tbtt/{name}.py')) or
                 sorted(ROOT.glob(f'tbtt/{name}/*.py')) if path.name != '__init__.py']
        parts.append((room, found))
    return '\n\n'.join('\n'.join([f'## {title}', *map(line_about, paths)]) for title, paths in parts)


def line_about(path: Path) -> str:
    """- `model.py`: the first sentence of its docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    sentence = re.split(r'(?<=[.?])\s', f'{docstring} ', maxsplit=1)[0]
    return f'- `{path.relative_to(ROOT).as_posix()}`: {" ".join(sentence.split())}'


BLOCKS: dict[str, Callable[[], str]] = {
    'claims': verdicts, 'controls': control_table, 'crash': crash, 'files': files,
    'frequency': frequency, 'memorization': memorization, 'quickstart': quickstart, 'results': results_table,
    'settings': settings, 'speed': speed, 'tables': tables, 'verdicts': verdict_table, 'widths': widths}


def block(name: str) -> re.Pattern[str]:
    """A pattern for the text between the two lines of a block."""
    return re.compile(f'(?<=^<!-- {name} -->\n).*?(?=^<!-- /{name} -->$)', re.DOTALL | re.MULTILINE)


def fill_page(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with every block updated; only the blocks in the page are computed."""
    for name, make in blocks.items():
        if block(name).search(text):
            made = make()
            text = block(name).sub(lambda _: f'{made}\n', text)
    return text


# --- headers of config files ---

def config_header(config: Config) -> dict[str, str]:
    """The lines `# Ours:` and `# Time:` of a config file, by their first words."""
    names = {paper.run_name(task, model, wd): (task, model, wd)
             for task in paper.EXPERIMENTS for model in paper.MODELS for wd in (False, True)}
    own = single_seeds(config.out_dir)
    seeds = seeds_of(*names[config.out_dir], swept()) if config.out_dir in names else own
    if not seeds:
        return {'# Ours:': '# Ours: not run.', '# Time:': '# Time: not run.'}
    return {'# Ours:': f'# Ours: {scores(seeds, config.max_iters)}',
            '# Time:': f'# Time: {time_taken([*seeds, *own])}'}


def scores(seeds: list[Row], iters: int) -> str:
    """addition 99.3%, subtraction 99.7%, held-out 3.0 of 4 (mean of 3 seeds, best)."""
    parts = [f'{label} {values(seeds, f"best_{score}").mean():.1f}%' for score, label in SCORES.items()
             if seeds[0][f'best_{score}'] is not None]
    if (total := seeds[0]['heldout_total']) is not None:
        parts.append(f'held-out {answered(seeds, "best").mean():.1f} of {total / NUM_SAMPLES:.0f}')
    who = '1 seed' if len(seeds) == 1 else f'mean of {len(seeds)} seeds'
    return f'{", ".join(parts)} ({who}{stopped(seeds, iters, dtype=False)}, best).'


def time_taken(seeds: list[Row]) -> str:
    """`9 min (3 seeds together; hardware; compiled).`: the fastest of the processes with the fewest seeds."""
    infos = [info for path in {seed['path'] for seed in seeds} if (info := read_info(path)).get('seconds')]
    if not infos:
        return 'not measured.'
    # Seeds that were trained together all have the seconds of their process.
    together = Counter(info['seconds'] for info in infos)
    quickest = min(infos, key=lambda info: (together[info['seconds']], info['seconds']))
    seconds, num_seeds = quickest['seconds'], together[quickest['seconds']]
    time = f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'
    who = '1 seed' if num_seeds == 1 else f'{num_seeds} seeds together'
    hardware = quickest['hardware'].replace(', 1 threads', ', 1 thread')
    return f'{time} ({who}; {hardware}; {quickest["step"]}).'


def fill_config(text: str, header: dict[str, str]) -> str:
    """A config file with its `# Ours:` and `# Time:` lines updated; a file without them stays as it is."""
    for start, made in header.items():
        text = re.sub(f'^{start}.*$', lambda _: made, text, flags=re.MULTILINE)
    return text


# --- the command ---

def stale_files() -> dict[Path, str]:
    """{file: its updated text} for every file that is out of date."""
    made = {page: fill_page(page.read_text(encoding='utf-8'), BLOCKS) for page in PAGES}
    for path in CONFIGS:
        made[path] = fill_config(path.read_text(encoding='utf-8'), config_header(load_config([path], {})))
    return {path: text for path, text in made.items() if text != path.read_text(encoding='utf-8')}


def main() -> int:
    """Update the stale files, or with --check only name them. -> exit status"""
    parser = Parser(__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if one is stale')
    args = parser.parse_args()
    stale = stale_files()
    for path, text in stale.items():
        print(f'{path.relative_to(ROOT)}: stale' if args.check else f'wrote {path.relative_to(ROOT)}')
        if not args.check:
            path.write_text(text, encoding='utf-8')
    return int(args.check and bool(stale))


if __name__ == '__main__':
    run(main)
