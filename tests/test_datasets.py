"""Datasets: their counts, their lines, what is held out, and the formats on disk."""
import collections
import csv
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from conftest import DATASETS, HERE, contents
from tbtt.batches import texts
from tbtt.cli import UserError
from tbtt.dataset import Dataset
from tbtt.prepare import check_counts, skew, write_lines, zipf
from tbtt.tasks import Arithmetic, Capitals, read_facts, tasks_from


def text_of(folder, split='train'):
    return (folder / f'{split}.txt').read_text()


def lines_of(folder):
    return text_of(folder).splitlines(keepends=True)


@pytest.fixture
def prepare(command, tmp_path):
    """prepare(dataset, **options) -> the folder it wrote into"""
    def run(name, folder='prepared', **options):
        result = command(f'data/{name}/prepare.py', out_dir=tmp_path / folder, **options)
        assert result.status == 0, result.err
        return tmp_path / folder
    return run


def test_facts_are_read_without_what_an_editor_adds(tmp_path):
    (tmp_path / 'facts.csv').write_text('\ufeffcountry,capital\n Peru, Lima \n')
    assert read_facts(tmp_path / 'facts.csv') == [('Peru', 'Lima')]


@pytest.mark.parametrize('rows, says', [('Peru,Lima\nPeru,Cuzco\n', 'Peru occurs twice'),
                                        ('Peru, \n', 'both filled'),
                                        ('Peru,Santiago del Valle Hermoso\n', 'at most 20 characters')])
def test_facts_that_cannot_be_asked_are_refused(tmp_path, rows, says):
    (tmp_path / 'facts.csv').write_text(f'country,capital\n{rows}')
    with pytest.raises(UserError, match=says):
        read_facts(tmp_path / 'facts.csv')


@pytest.mark.parametrize('name, lines, characters, vocabulary', [
    ('as_math', 196, 1764, 17), ('facts_char', 50, 1547, 51), ('both_math_and_facts', 246, 3311, 66)])
def test_counts_and_vocabulary_are_the_papers(datasets, name, lines, characters, vocabulary):
    folder, text = datasets[name], text_of(datasets[name])
    assert (len(lines_of(folder)), len(text), len(set(text))) == (lines, characters, vocabulary)
    dataset = Dataset(folder, 9)
    assert len(dataset.train) == len(dataset.val) == characters and dataset.meta['vocab_size'] == vocabulary


def test_the_counts_are_printed(command, tmp_path):
    out = command('data/both_math_and_facts/prepare.py', out_dir=tmp_path).out
    assert '246 lines' in out and '3,311 characters' in out and '66' in out and '<7-5=2>' in out


def test_arithmetic_is_every_expression_but_the_held_out_ones_padded_to_one_length(datasets):
    expected = {f'<{a}+{b}={a + b}>'.ljust(8) + '\n' for a in range(10) for b in range(10)
                if {a, b} != {5, 7}}
    expected |= {f'<{a}-{b}={a - b}>'.ljust(8) + '\n' for a in range(10) for b in range(10)
                 if {a, b} != {5, 7}}
    lines = lines_of(datasets['as_math'])
    assert set(lines) == expected and len(lines) == 196 and {len(line) for line in lines} == {9}


def test_facts_are_one_sentence_each_without_a_full_stop(datasets):
    with open(HERE / 'data/facts_char/capitals.csv', newline='', encoding='utf-8') as file:
        expected = {f'Capital of {row["country"]} is {row["capital"]} \n' for row in csv.DictReader(file)}
    assert set(lines_of(datasets['facts_char'])) == expected and len(expected) == 50
    assert 'Capital of the USA is Washington' in text_of(datasets['facts_char'])


def test_both_is_the_lines_of_both(datasets):
    math, facts, both = (collections.Counter(lines_of(datasets[name]))
                         for name in ('as_math', 'facts_char', 'both_math_and_facts'))
    assert both == math + facts


@pytest.mark.parametrize('name', ['as_math', 'both_math_and_facts'])
@pytest.mark.parametrize('option, pairs', [('5,7', ['57']), ('7,5', ['57']), ('5,7;3,8', ['57', '38']),
                                           ('4,4', ['4']), ('0,9;9,0', ['09']), ('none', [])])
def test_held_out_expressions_are_in_neither_split_and_all_others_are(prepare, name, option, pairs):
    folder = prepare(name, heldout=option)
    held = [set(pair) for pair in pairs]
    for split in ('train', 'val'):
        found = re.findall(r'<(\d)([+-])(\d)=(-?\d+)>', text_of(folder, split))
        assert sorted((a, sign, b) for a, sign, b, _ in found) == sorted(
            (a, sign, b) for a in '0123456789' for b in '0123456789' for sign in '+-' if {a, b} not in held)


@pytest.mark.parametrize('largest, width', [(1, 8), (12, 10), (99, 11)])
def test_any_largest_operand_gives_lines_of_one_length(prepare, largest, width):
    folder = prepare('as_math', max_operand=largest, heldout='0,1')
    lines = lines_of(folder)
    assert len(lines) == 2 * (largest + 1) ** 2 - 4 and {len(line) for line in lines} == {width + 1}
    assert f'<{largest}+{largest}={2 * largest}>'.ljust(width) + '\n' in lines
    assert Dataset(folder, 9).tasks['math'].max_operand == largest


def test_the_task_travels_with_the_dataset(prepare):
    task = Dataset(prepare('as_math', max_operand=8, heldout='3,8;2,2'), 9).tasks['math']
    assert task.max_operand == 8 and len(task.prompts) == 2 * 81
    assert [task.prompts[i] for i in task.groups()['heldout']] == [
        '<2+2=', '<3+8=', '<8+3=', '<2-2=', '<3-8=', '<8-3=']


@pytest.mark.parametrize('name', ['as_math', 'facts_char', 'both_math_and_facts'])
def test_the_seed_changes_the_order_of_the_lines_and_nothing_else(prepare, datasets, name):
    other = prepare(name, 'other', seed=7)
    assert lines_of(other) != lines_of(datasets[name])
    assert sorted(lines_of(other)) == sorted(lines_of(datasets[name]))
    assert (other / 'meta.pkl').read_bytes() == (datasets[name] / 'meta.pkl').read_bytes()


@pytest.mark.parametrize('name', DATASETS)
def test_preparing_twice_writes_the_same_bytes(prepare, datasets, name):
    assert contents(prepare(name)) == contents(datasets[name])


@pytest.mark.parametrize('name', DATASETS)
def test_the_binary_files_are_the_text_in_16_bit_tokens(datasets, name):
    folder = datasets[name]
    itos = pickle.loads((folder / 'meta.pkl').read_bytes())['itos']
    for split in ('train', 'val'):
        tokens = np.fromfile(folder / f'{split}.bin', dtype='<u2')
        assert ''.join(itos[int(i)] for i in tokens) == text_of(folder, split)
    assert (folder / 'train.bin').read_bytes() == (folder / 'val.bin').read_bytes()


@pytest.mark.parametrize('name', DATASETS)
def test_meta_is_nanogpts_with_the_tasks_beside(datasets, name):
    meta = pickle.loads((datasets[name] / 'meta.pkl').read_bytes())
    characters = sorted(set(text_of(datasets[name])))
    assert meta['stoi'] == {c: i
                            for i, c in enumerate(characters)} and meta['itos'] == dict(enumerate(characters))
    assert meta['vocab_size'] == len(characters) and meta.keys() == {'vocab_size', 'stoi', 'itos', 'tasks'}


def test_nothing_but_the_five_files_is_left(datasets):
    for folder in datasets.values():
        assert set(contents(folder)) == {'train.bin', 'train.txt', 'val.bin', 'val.txt', 'meta.pkl'}


# Lines that repeat.

def counts_of(folder):
    """-> Counter of the lines of facts, Counter of those of arithmetic"""
    lines = lines_of(folder)
    return (collections.Counter(line for line in lines if line.startswith('Capital')),
            collections.Counter(line for line in lines if line.startswith('<')))


def is_zipf(counts, exponent, total):
    """Is each count within a half of its share of `total`, or of 1 where the share is less?"""
    counts = sorted(counts, reverse=True)
    shares = np.arange(1, len(counts) + 1) ** -float(exponent)
    return (np.abs(counts - np.maximum(1, total * shares / shares.sum())) <= 0.5 + 1e-9).all()


def test_repeats_leave_the_vocabulary_and_every_line_of_the_papers_datasets(datasets):
    math, facts, both = (set(lines_of(datasets[name]))
                         for name in ('as_math', 'facts_char', 'both_math_and_facts'))
    assert set(lines_of(datasets['facts_skewed'])) == facts
    assert set(lines_of(datasets['both_skewed'])) == both == math | facts
    for name, vocabulary in (('facts_skewed', 51), ('both_skewed', 66)):
        assert Dataset(datasets[name], 24).meta['vocab_size'] == vocabulary


def test_the_facts_are_as_frequent_beside_arithmetic_as_alone(datasets):
    (alone, nothing), (beside, math) = (counts_of(datasets[name]) for name in ('facts_skewed', 'both_skewed'))
    assert beside == alone and not nothing and len(alone) == 50 and len(math) == 196


def test_lines_repeat_by_zipfs_law(datasets):
    facts, math = (counts.values() for counts in counts_of(datasets['both_skewed']))
    assert is_zipf(facts, 1, 500) and is_zipf(math, 1, 1000)
    assert not is_zipf(facts, 0.9, 500) and not is_zipf(math, 1, 900)
    assert max(facts) == 111 and max(math) == 171    # 500 and 1000 over the harmonic numbers of 50 and 196
    assert abs(sum(facts) - 500) < 25 and abs(sum(math) - 1000) < 98


@pytest.mark.parametrize('exponent, repeats', [(0, 500), (0.5, 2000), (2, 500), (1, 20), (1000, 70)])
def test_exponent_and_repeats_are_options(prepare, exponent, repeats):
    counts = counts_of(prepare('facts_skewed', exponent=exponent, repeats=repeats))[0].values()
    assert len(counts) == 50 and is_zipf(counts, exponent, repeats)


def test_zipf_counts_in_numbers():
    assert zipf(4, 1.0, 25) == [12, 6, 4, 3] and zipf(4, 0.0, 8) == [2, 2, 2, 2] and zipf(3, 50.0,
                                                                                          9) == [9, 1, 1]
    assert zipf(3, 0.0, 1) == [1, 1, 1] and zipf(2, 0.0, 5) == [2, 2] and zipf(0, 1.0, 5) == []


@pytest.mark.parametrize('name', ['facts_skewed', 'both_skewed'])
def test_the_seed_draws_what_is_frequent_and_the_order_of_lines(prepare, datasets, name):
    other = prepare(name, 'other', seed=7)
    for one, two in zip(counts_of(datasets[name]), counts_of(other)):
        assert sorted(one.values()) == sorted(two.values()) and (one != two or not one)
    assert lines_of(other) != sorted(lines_of(other))
    assert set(lines_of(other)) == set(lines_of(datasets[name]))


def test_equal_frequencies_leave_the_seed_only_the_order(prepare):
    one, two = (prepare('both_skewed', f'{seed}', exponent=0, seed=seed) for seed in (1, 2))
    assert lines_of(one) != lines_of(two) and counts_of(one) == counts_of(two)


@pytest.mark.parametrize('option, pairs',
                         [('5,7', ['57']), ('5,7;3,8', ['57', '38']), ('4,4', ['4']), ('none', [])])
def test_held_out_expressions_have_no_share_in_the_repeats(prepare, option, pairs):
    folder = prepare('both_skewed', heldout=option, math_repeats=3000)
    held = [set(pair) for pair in pairs]
    for split in ('train', 'val'):
        found = set(re.findall(r'<(\d)([+-])(\d)=', text_of(folder, split)))
        assert found == {(a, sign, b) for a in '0123456789' for b in '0123456789' for sign in '+-'
                         if {a, b} not in held}
    task = Dataset(folder, 24).tasks['math']
    assert [i for i, count in enumerate(task.repeats) if count == 0] == task.groups()['heldout']
    assert is_zipf(counts_of(folder)[1].values(), 1, 3000)


def test_the_tasks_know_how_often_each_prompt_is_trained_on(datasets):
    tasks = Dataset(datasets['both_skewed'], 24).tasks
    lines = lines_of(datasets['both_skewed'])
    for task in tasks.values():
        assert task.repeats == [sum(line.startswith(prompt) for line in lines) for prompt in task.prompts]


@pytest.mark.parametrize('task', [Arithmetic(3, ((1, 2),)),
                                  Capitals([('France', 'Paris'), ('Japan', 'Tokyo')])],
                         ids=['math', 'facts'])
def test_a_description_holds_repeats_only_where_there_are_some(task):
    skewed = skew(task, 1.0, 60, 5)
    assert task.describe().keys() == skewed.describe().keys() - {'repeats'}
    for one in (task, skewed):
        described = json.loads(json.dumps({one.name: one.describe()}))
        found = tasks_from(described, 'meta.pkl')[one.name]
        assert (found.lines(), found.repeats, found.describe()) == (one.lines(), one.repeats, one.describe())
    assert len(skewed.lines()) == sum(skewed.repeats) > len(task.lines())
    assert set(skewed.lines()) == set(task.lines())


@pytest.mark.parametrize('repeats, says', [
    ([1, 2], 'list of 3'), ([1] * 4, 'list of 3'), (3, 'list of 3'), ('111', 'list of 3'),
    ({0: 1, 1: 1, 2: 1}, 'list of 3'), ([1, 2, 0], r'\[2\]=0: .*at least 1'), ([-1, 2, 3], r'\[0\]=-1'),
    ([1, 2.0, 3], r'\[1\]=2.0'), ([1, True, 3], r'\[1\]=True'), ([1, '2', 3], r"\[1\]='2'"),
    ([1, None, 3], r'\[1\]=None'), ([10**6, 1, 1], 'at most 1,000,000 lines')], ids=repr)
def test_repeats_that_do_not_fit_the_prompts_are_refused_with_their_file(repeats, says):
    facts = [['France', 'Paris'], ['Japan', 'Tokyo'], ['Italy', 'Rome']]
    with pytest.raises(UserError, match=f'^meta.pkl: repeats.*{says}'):
        tasks_from({'facts': {'facts': facts, 'repeats': repeats}}, 'meta.pkl')


@pytest.mark.parametrize('i, count, says', [
    (1, 0, 'at least 1'), (1, -1, 'at least 1'), (6, 1, 'held out'), (6, False, 'held out')])
def test_repeats_of_arithmetic_are_none_exactly_where_it_is_held_out(i, count, says):
    repeats = skew(Arithmetic(3, ((1, 2),)), 1.0, 60, 5).repeats
    assert repeats[6] == repeats[9] == 0    # <1+2= and <2+1=
    repeats[i] = count
    with pytest.raises(UserError, match=says):
        Arithmetic(3, ((1, 2),), repeats)


@pytest.mark.parametrize('task', [Arithmetic(3, ((1, 2),)),
                                  Capitals([('France', 'Paris'), ('Japan', 'Tokyo')])],
                         ids=['math', 'facts'])
def test_the_check_of_the_counts_notices_a_line_too_many_too_few_or_for_another(task):
    for one in (task, skew(task, 1.0, 60, 5)):
        lines = one.lines()
        check_counts(one, lines)
        for wrong in (lines[1:], lines + lines[:1], lines[1:] + lines[-1:]):
            with pytest.raises(AssertionError):
                check_counts(one, wrong)


def test_texts_start_where_they_should_with_the_batch_last():
    text = texts(torch.arange(100, 120), torch.tensor([[0, 3], [15, 1]]), 5)
    assert text[0].T.tolist() == [[100, 101, 102, 103, 104], [103, 104, 105, 106, 107]]
    assert text[1].T.tolist() == [[115, 116, 117, 118, 119], [101, 102, 103, 104, 105]]


def test_preparing_that_is_interrupted_leaves_no_meta_of_other_data(tmp_path, monkeypatch):
    write_lines(tmp_path, ['a\n'], 'a\n')

    def interrupted(path, content):
        if path.name == 'val.bin':
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr('tbtt.prepare.write_file', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_lines(tmp_path, ['b\n'], 'b\n')
    assert (tmp_path / 'train.txt').read_text() == 'b\n' and not (tmp_path / 'meta.pkl').exists()


@pytest.mark.parametrize('name', ['train.bin', 'val.bin', 'meta.pkl'])
def test_a_dataset_notices_that_its_files_changed(datasets, tmp_path, name):
    folder = shutil.copytree(datasets['as_math'], tmp_path / 'data')
    dataset = Dataset(folder, 9)
    dataset.check_unchanged()
    (folder / name).write_bytes((folder / name).read_bytes() + b'  ')
    with pytest.raises(UserError, match=f'{name} changed while training'):
        dataset.check_unchanged()
    (folder / name).unlink()
    with pytest.raises(UserError, match=f'{name} was removed while training'):
        dataset.check_unchanged()
