"""One HTML file about seeds: their data, packed, in a template that shows them.

All text from runs is packed (gzip, base64), so that it can neither end a script nor begin a tag. The browser
unpacks a seed when the reader opens it.
"""
import base64
import functools
import gzip
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tbtt import paper
from tbtt.cli import UserError, study_package
from tbtt.config import FIELDS
from tbtt.explore.seeds import CompactAnswers, Seed, short_names
from tbtt.figures import BLACK, BLUE, GREEN, LOSS_LOOKS, ORANGE, PURPLE, SKY, VERMILLION, look
from tbtt.results import answered_text, counted_groups, group_label, heldout_groups
from tbtt.sweep.summary import SETTINGS, summary_columns
from tbtt.tasks import TASKS

LIMIT = 8_000_000    # bytes of a page
SUM = re.compile(r'<(\d+)(\D)(\d+)=')
TEMPLATE = Path(__file__).parent
# Colours of the settings in a scatter plot. Markers differ too, for readers who do not see colours.
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
SHADES = ('#ffffff', BLUE, SKY)    # for probability 0 and 1 in a table, and for a right answer in a list
WHENS = {'last': 'last evaluation', 'best': 'best evaluation'}
DASHES = {'-': 'solid', ':': 'dot', '-.': 'dashdot', '--': 'dash'}


def make_page(seeds: Sequence[Seed]) -> tuple[bytes, list[str]]:
    """-> the page of seeds, and notes on what is not in it, which are on the page too

    Evaluations are left out until the page has at most LIMIT bytes. Raises `UserError` if two evaluations per
    seed are still too much, and if plotly is missing.
    """
    most = max(len(seed.iters) for seed in seeds)
    every = 1
    while len(page := fill_template(seeds, every)) > LIMIT:
        if every >= most:
            raise UserError(f'a page of {len(seeds):,} seeds has more than {LIMIT:,} bytes: name fewer runs')
        every *= 2
    return page, notes(seeds, every)


def fill_template(seeds: Sequence[Seed], every: int) -> bytes:
    """The page with the answers of every `every`-th evaluation and of the last one."""
    plotly, questions = packed_plotly(), []
    blobs = [pack(seed_data(seed, every, questions)) for seed in seeds]
    about = page_data(seeds) | {'notes': notes(seeds, every), 'questions': questions}
    colours = f':root {{ --blue: {BLUE}; --framed: {VERMILLION}; }}\n'
    parts = {'style': colours + read_part('page.css'), 'code': read_part('page.js'), 'about': pack(about),
             'plotly': plotly, 'seeds': '\n'.join(f'<script type="text/plain" id="seed{i}">{blob}</script>'
                                                  for i, blob in enumerate(blobs))}
    return re.sub(r'\{\{(\w+)\}\}', lambda match: parts[match[1]], read_part('page.html')).encode()


@functools.cache
def packed_plotly() -> str:
    """plotly.js, packed: the script that draws the figures."""
    return pack_text(study_package('plotly.offline').get_plotlyjs())


def read_part(name: str) -> str:
    """A file of the template."""
    return (TEMPLATE / name).read_text(encoding='utf-8')


def pack_text(text: str) -> str:
    """The text compressed, in characters that have no meaning in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def pack(data: object) -> str:
    """Data as JSON, packed by `pack_text`."""
    return pack_text(json.dumps(data, separators=(',', ':'), allow_nan=False))


# What the whole page shows.

def page_data(seeds: Sequence[Seed]) -> dict:
    """What the page knows before a seed is opened: names, axes, scores."""
    homes = list(dict.fromkeys(seed.home for seed in seeds))
    names = short_names(homes)
    axes = axes_of([seed.row for seed in seeds])
    found = scores_of([seed.row for seed in seeds])
    return {'title': title(seeds, [names[home] for home in homes]),
            'runs': [names[home] for home in homes], 'axes': axes, 'scores': found, 'palette': PALETTE,
            'tasks': {seed.row['tasks']: task_title(seed.row['tasks']) for seed in seeds},
            'curves': {f'{group}_acc': curve_look(look(group)) for group in counted_groups()}
            | {column: curve_look(style) | {'loss': True} for column, style in LOSS_LOOKS.items()},
            'shades': SHADES, 'framed': VERMILLION,
            'seeds': [{'run': homes.index(seed.home), 'seed': seed_name(seed), 'tasks': seed.row['tasks'],
                       'heldout': heldout_text(seed.row),
                       'values': {name: finite(seed.row.get(name)) for name in (*axes, *found)}
                       | {'run': names[seed.home]}} for seed in seeds]}


def title(seeds: Sequence[Seed], names: Sequence[str]) -> str:
    """The names of the runs if there are at most three, else their number."""
    number = f'{len(seeds)} seeds' if len(seeds) > 1 else '1 seed'
    return f'{", ".join(names)}: {number}' if len(names) <= 3 else f'{len(names)} runs, {number}'


def task_title(tasks: str) -> str:
    """The name of these tasks in figures."""
    return paper.title(tasks) if tasks else 'Text without questions'


def seed_name(seed: Seed) -> str:
    """The name of a seed: its number; runs of the paper have none."""
    number = seed.row['seed']
    return 'one seed' if number is None else f'seed {number:.0f}'


def notes(seeds: Sequence[Seed], every: int) -> list[str]:
    """What is not shown, one line for each."""
    missing = {'answers.npz, so their tables': sum(not seed.answers for seed in seeds),
               'results.csv, so their curves': sum(seed.results is None for seed in seeds)}
    lines = [f'{number} of {len(seeds)} seeds have no {what} are missing.'
             for what, number in missing.items() if number]
    if every > 1:
        lines.append(f'Tables show one evaluation in {every}: with all, the page would be too large.')
    return lines


def axes_of(rows: Sequence[dict]) -> dict[str, str]:
    """{column: label} of what scores can be drawn against: the number of parameters, the settings in which
    seeds differ, and the run."""
    found = {'path', *summary_columns()} - {*SETTINGS, *paper.TRAINING, 'heldout'}
    settings = dict.fromkeys(name for row in rows for name in row if name not in found)
    differ = [name for name in settings if len({row.get(name) for row in rows} - {None}) > 1]
    sizes = {'num_params': 'Parameters'} if any(row['num_params'] for row in rows) else {}
    return {**sizes, **{name: name for name in differ}, 'run': 'Run'}


def scores_of(rows: Sequence[dict]) -> dict[str, str]:
    """{column: label} of the scores that at least one row has: held-out answers first."""
    seen = [task.seen_group for task in TASKS.values() if task.seen_group]
    groups = {group: group_label(group) for group in (*heldout_groups(), *seen, *counted_groups())}
    labels = {f'{when}_{group}': f'{label}, {text}'
              for group, label in (*groups.items(), ('combined', 'All questions'))
              for when, text in WHENS.items()}
    labels['train_loss'] = 'Training loss, last evaluation'
    return {column: label for column, label in labels.items()
            if any(row.get(column) is not None for row in rows)}


def heldout_text(row: dict) -> str:
    """3 of 4: held-out questions that are answered at the last evaluation; '' if none are asked."""
    columns = ('last_{}_correct', '{}_total', 'last_{}_answered')
    found = [answered_text(*(number(row.get(column.format(group))) for column in columns))
             for group in heldout_groups()]
    return ', '.join(text for text in found if text)


def finite(value: str | float | None) -> str | float | None:
    """The value, but None for a number that JSON cannot write."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def number(value: float | None) -> float:
    """The value, but NaN for None."""
    return np.nan if value is None else value


def curve_look(style: dict) -> dict:
    """The look of a line, from matplotlib's words to plotly's."""
    dash, color = style['linestyle'], style['color']
    if not isinstance(dash, str):
        dash = ','.join(f'{2 * length}px' for length in dash[1])
    if color[0] != '#':    # a grey such as 0.45
        color = '#' + 3 * f'{round(255 * float(color)):02x}'
    return {'label': style['label'], 'color': color, 'dash': DASHES.get(dash, dash)}


# What is unpacked when a seed is opened.

def seed_data(seed: Seed, every: int, questions: list[dict]) -> dict:
    """A seed's curves, answers and settings. questions: of all seeds so far; this one's are added if new."""
    kept = sorted({*range(0, len(seed.iters), every), *range(len(seed.iters))[-1:]})
    return {'settings': settings_of(seed), 'curves': curves_of(seed), 'iters': seed.iters[kept].tolist(),
            'answers': [{'questions': index_of(questions_of(name, task), questions), 'texts': task.texts,
                         # Each level is one character.
                         'level': [row.tobytes().decode('latin-1') for row in task.level[kept]],
                         'said': task.said[kept].tolist()} for name, task in seed.answers.items()]}


def index_of(entry: dict, entries: list[dict]) -> int:
    """The index of an entry in a list; a missing entry is added."""
    if entry not in entries:
        entries.append(entry)
    return entries.index(entry)


def questions_of(name: str, task: CompactAnswers) -> dict:
    """What is asked, and how it is shown: as tables of operands, or as a list."""
    return {'label': TASKS[name].label if name in TASKS else name, 'names': names_of(task.prompts),
            'prompts': task.prompts, 'answers': task.answers, 'heldout': task.heldout,
            'tables': tables_of(task.prompts)}


def names_of(prompts: Sequence[str]) -> list[str]:
    """The part of each prompt that differs: France, Japan, ..."""
    first = len(os.path.commonprefix(prompts))
    last = len(os.path.commonprefix([prompt[:first - 1 if first else None:-1] for prompt in prompts]))
    return [prompt[first:len(prompt) - last].strip() or prompt for prompt in prompts]


def tables_of(prompts: Sequence[str]) -> list[dict]:
    """A table for each sign in sums such as `<7-5=`: its operands, and the index of the prompt in each cell.
    No tables if some prompt is not such a sum."""
    found = [SUM.fullmatch(prompt) for prompt in prompts]
    if not all(found):
        return []
    index = {(match[2], int(match[1]), int(match[3])): i for i, match in enumerate(found)}
    operands = sorted({operand for _, *pair in index for operand in pair})
    return [{'sign': sign, 'operands': operands,
             'cells': [[index.get((sign, a, b)) for b in operands] for a in operands]}
            for sign in dict.fromkeys(match[2] for match in found)]


def curves_of(seed: Seed) -> dict[str, list]:
    """Iterations, and those scores and losses of results.csv that have values."""
    if seed.results is None:
        return {}
    columns = [f'{group}_acc' for group in counted_groups()] + list(LOSS_LOOKS)
    return {column: [float(f'{value:.5g}') if np.isfinite(value) else None for value in seed.results[column]]
            for column in ('iter', *columns) if not np.isnan(seed.results[column]).all()}


def settings_of(seed: Seed) -> list[tuple[str, str, bool]]:
    """(name, value, does it differ from the default?) from run.json, settings last; without that file
    from the summary."""
    known = {name: seed.row.get(name) for name in (*SETTINGS, *paper.TRAINING)}
    config = seed.info.get('config', {name: value for name, value in known.items() if value is not None})
    rest = [(name, as_text(value), False) for name, value in seed.info.items() if name != 'config']
    return rest + [(name, as_text(value), name in FIELDS and value != FIELDS[name].default)
                   for name, value in config.items()]


def as_text(value: object) -> str:
    """A value of run.json as a person writes it."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {each}' for name, each in value.items())
    return ' '.join(map(str, value)) if isinstance(value, list) else str(value)
