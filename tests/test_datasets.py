"""Datasets: their counts, their lines, what is held out, and the formats on disk."""
import collections
import csv
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from conftest import HERE, contents
from tbtt.command import UserError
from tbtt.dataset import Dataset, windows


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
    expected = {f'<{a}+{b}={a + b}>'.ljust(8) + '\n' for a in range(10) for b in range(10) if {a, b} != {5, 7}}
    expected |= {f'<{a}-{b}={a - b}>'.ljust(8) + '\n' for a in range(10) for b in range(10) if {a, b} != {5, 7}}
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
    assert lines_of(other) != lines_of(datasets[name]) and sorted(lines_of(other)) == sorted(lines_of(datasets[name]))
    assert (other / 'meta.pkl').read_bytes() == (datasets[name] / 'meta.pkl').read_bytes()


@pytest.mark.parametrize('name', ['as_math', 'facts_char', 'both_math_and_facts'])
def test_preparing_twice_writes_the_same_bytes(prepare, datasets, name):
    assert contents(prepare(name)) == contents(datasets[name])


@pytest.mark.parametrize('name', ['as_math', 'facts_char', 'both_math_and_facts'])
def test_the_binary_files_are_the_text_in_16_bit_tokens(datasets, name):
    folder = datasets[name]
    itos = pickle.loads((folder / 'meta.pkl').read_bytes())['itos']
    for split in ('train', 'val'):
        tokens = np.fromfile(folder / f'{split}.bin', dtype='<u2')
        assert ''.join(itos[int(i)] for i in tokens) == text_of(folder, split)
    assert (folder / 'train.bin').read_bytes() == (folder / 'val.bin').read_bytes()


@pytest.mark.parametrize('name', ['as_math', 'facts_char', 'both_math_and_facts'])
def test_meta_is_nanogpts_with_the_tasks_beside(datasets, name):
    meta = pickle.loads((datasets[name] / 'meta.pkl').read_bytes())
    characters = sorted(set(text_of(datasets[name])))
    assert meta['stoi'] == {c: i for i, c in enumerate(characters)} and meta['itos'] == dict(enumerate(characters))
    assert meta['vocab_size'] == len(characters) and meta.keys() == {'vocab_size', 'stoi', 'itos', 'tasks'}


def test_nothing_but_the_five_files_is_left(datasets):
    for folder in datasets.values():
        assert set(contents(folder)) == {'train.bin', 'train.txt', 'val.bin', 'val.txt', 'meta.pkl'}


def test_targets_are_the_inputs_one_later():
    x, y = windows(torch.arange(100, 120), torch.tensor([[0, 3], [15, 1]]), 4)
    assert x[0].T.tolist() == [[100, 101, 102, 103], [103, 104, 105, 106]]
    assert y[1].T.tolist() == [[116, 117, 118, 119], [102, 103, 104, 105]]


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
