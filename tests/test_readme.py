"""The README's numbers are those of the committed files. `python tests/test_readme.py` writes them anew."""
import csv
import json
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))    # when run as a script

import bench
import make_tables
import plot_frequency
import trace_memorization

README = HERE / 'README.md'


def results():
    """Tables 2, 3 and 4 from results/."""
    return '\n\n'.join([*(make_tables.make_table(task, HERE / 'results') for task in make_tables.TABLES), make_tables.NOTES])


def speed():
    """The tables of bench.py from results/."""
    files = [HERE / 'results' / f'bench_{name}.json' for name in ('cpu', 'trace')]
    return '\n\n'.join(bench.report(json.loads(file.read_text())) for file in files)


def crash():
    """What the long version of the crash test said last."""
    return f'```\n{(HERE / "results" / "crash_torture.txt").read_text().splitlines()[-1]}\n```'


def verdicts():
    """The verdicts on the paper's claims from results/capacity/."""
    from tbtt.sweep import claims
    from tbtt.sweep.summary import read_summaries
    return claims.report(claims.judge(read_summaries([HERE / 'results' / 'capacity' / 'summary.csv'])))


SKEWED = ('facts_skewed', 'both_skewed')


def asked(dataset):
    """The rows of frequency.csv from results/."""
    with open(HERE / 'results' / dataset / 'frequency.csv', newline='') as file:
        return [plot_frequency.Row(row['run'], int(row['parameters']), int(row['seed']), row['task'], row['question'],
                                   int(row['occurrences']), float(row['recalled'])) for row in csv.DictReader(file)]


def traced(dataset):
    """The models of trace.json from results/."""
    return json.loads((HERE / 'results' / dataset / 'trace.json').read_text())['models']


def frequency():
    return '\n\n'.join(plot_frequency.table(asked(dataset)) for dataset in SKEWED)


def memorization():
    return '\n\n'.join(trace_memorization.compare(traced(dataset)) for dataset in SKEWED)


BLOCKS = {'claims': verdicts, 'crash': crash, 'frequency': frequency, 'memorization': memorization, 'results': results,
          'speed': speed}


def block(name):
    return re.compile(f'(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)', re.DOTALL)


@pytest.mark.parametrize('name', BLOCKS)
def test_the_readmes_numbers_are_those_of_the_committed_files(name):
    assert block(name).search(README.read_text()).group() == BLOCKS[name]() + '\n'


def test_the_findings_in_words_are_those_of_the_summary():
    from tbtt.sweep.summary import read_summaries
    every = read_summaries([HERE / 'results' / 'capacity' / 'summary.csv'])
    rows = [row for row in every if not row['weight_decay']]
    text = ' '.join(README.read_text().split('## What we found')[1].split('<!-- claims -->')[0].split())
    math = {width: [row for row in rows if (row['tasks'], row['n_embd']) == ('math', width)] for width in (10, 14, 20, 28)}
    held, seen = ({width: sum(row[column] for row in some) / len(some) for width, some in math.items()}
                  for column in ('last_heldout', 'last_seen'))
    assert f'{len(every)} runs on two cores' in text and all(len(some) == 6 for some in math.values())
    assert f'right to {held[14]:.1f}% at n14, {held[20]:.1f}% at width 20 and {held[28]:.1f}% at n28' in text
    assert f'{held[10]:.0f}% of the held-out answers, {seen[10]:.0f}% of those it was trained on' in text
    assert min(seen[width] for width in (14, 20, 28)) >= 97
    assert f'stays at {min(row["last_sub"] for row in math[14]):.0f}% of the subtractions' in text
    for when, model, share in (('best', 'n14', 1), ('last', 'n14', 1), ('best', 'n28', 0), ('last', 'n28', 0)):
        count = sum(row[f'{when}_heldout_correct'] == 40 * share for row in math[int(model[1:])])
        assert (when, model, count) in {('best', 'n14', 5), ('last', 'n14', 3), ('best', 'n28', 1), ('last', 'n28', 4)}
    assert all(row['top_heldout'] >= 25 and row['top_heldout'] > row['last_heldout'] for row in math[28])
    assert sum(row['top_heldout_iter'] <= 2000 for row in math[28]) == 5

    def spread(tasks, width, *columns):
        some = [row[column] for row in rows if (row['tasks'], row['n_embd']) == (tasks, width) for column in columns]
        assert len(some) == 3 * len(columns)
        return f'{min(some):.0f} to {max(some):.0f}%'

    assert f'n14 recalls {spread("facts", 14, "best_facts")} at best' in text
    assert f'{spread("facts", 14, "last_facts")} at the last evaluation; n28 at best everything in two of three' in text
    assert f'at the last evaluation {spread("facts", 28, "last_facts")}' in text
    assert f'n14 answers {spread("math+facts", 14, "best_add", "best_sub")} of either operation at best' in text
    assert spread('math+facts', 14, 'best_heldout', 'last_heldout') == '0 to 0%'
    assert f'n28 reaches {spread("math+facts", 28, "best_sub")} of the subtractions' in text
    assert sorted(row['last_heldout'] for row in rows if (row['tasks'], row['n_embd']) == ('math+facts', 28)) == [0, 0, 50]


def test_the_findings_on_frequency_are_those_of_the_tables():
    recalled, coefficient = {}, {}
    for dataset in SKEWED:
        for row in asked(dataset):
            recalled.setdefault((dataset, row.task, row.parameters), []).append((row.occurrences, row.recalled))
        for model in traced(dataset):
            assert len(model['seeds']) == 3
            for n, cell in model['tasks']['facts'].items():
                if 'spearman' in cell['task_gram']:
                    coefficient.setdefault((dataset, n), []).append(cell['task_gram']['spearman'])
    mean = {key: sum(right for _, right in each) / len(each) for key, each in recalled.items()}
    for dataset, sizes in (('facts_skewed', (1932, 6216, 21840)), ('both_skewed', (2142, 6636, 22680))):
        small, middle, large = (recalled[dataset, 'facts', size] for size in sizes)
        most = max(small)[0]
        assert all(right == 100 for times, right in small if times == most)
        assert sum(right for times, right in small if times < 8) / sum(times < 8 for times, _ in small) < 3
        assert min(right for times, right in middle if times >= 8) == 100 > min(right for times, right in middle)
        assert min(right for _, right in large) == 100
    assert mean['both_skewed', 'facts', 2142] < mean['facts_skewed', 'facts', 1932]
    assert mean['both_skewed', 'facts', 6636] < mean['facts_skewed', 'facts', 6216]
    assert len(coefficient) == 8
    for small, middle, large in coefficient.values():
        assert small['coefficient'] > middle['coefficient'] > large['coefficient']
        assert small['interval'][0] < large['interval'][1]


def test_every_file_of_the_tree_is_in_the_readme():
    tree = README.read_text().split('## What is where')[1]
    folders = ('.', 'analysis', 'tbtt', 'tbtt/sweep', 'tbtt/trace')
    paths = [path.relative_to(HERE).as_posix() for folder in folders for path in (HERE / folder).glob('*.py')]
    assert not [path for path in paths if path not in tree and not path.endswith('__init__.py')]


def test_what_the_readme_names_is_there():
    text = README.read_text()
    named = re.findall(r'(?:results|config|runs|data|tbtt|docs|tests)/[\w./]*\w', text)
    assert named and not [path for path in named if not (HERE / path).exists() and not path.startswith('data/as_math/train')]


def test_every_test_that_the_readme_names_is_there():
    tests = ''.join(path.read_text() for path in (HERE / 'tests').glob('*.py'))
    named = re.findall(r'`(test_\w+)`', README.read_text())
    assert named and not [name for name in named if f'def {name}(' not in tests]


if __name__ == '__main__':
    text = README.read_text()
    for name, make in BLOCKS.items():
        text = block(name).sub(lambda _: make() + '\n', text)
    README.write_text(text)
