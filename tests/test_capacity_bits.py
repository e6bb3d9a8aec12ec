"""Memorised bits of a model that knows the table and of a model that knows nothing, the bits that are
offered, and the scripts."""
import csv
import math
from collections import Counter
from subprocess import CompletedProcess, run

import numpy as np
import pytest
import torch

from chaos import forked_sweeps
from conftest import TINY, run_script
from tbtt.bits import (
    Questions,
    bits_of_the_papers_tasks,
    memorised_bits,
    offered_bits,
    order_bits,
    questions_of,
)
from tbtt.dataset import Dataset
from tbtt.evaluate import AnswerWindows


@pytest.fixture(scope='module')
def strings(tmp_path_factory):
    folder = tmp_path_factory.mktemp('strings') / 'data'
    assert run_script('data/random_strings/prepare.py', num=40, length=6, alphabet=4, out_dir=folder) == 0
    return Dataset(folder, 6)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp('table') / 'data'
    assert run_script('data/as_math/prepare.py', answers='shuffled', heldout='none', max_operand=4,
                      out_dir=folder) == 0
    return Dataset(folder, 9)


def test_a_model_that_is_the_table_has_all_bits_and_a_uniform_one_none():
    each = [math.log2(28)] * 100
    assert memorised_bits(np.zeros(100), each) == pytest.approx(100 * math.log2(28))
    assert memorised_bits(np.full(100, -math.log2(28)), each) == pytest.approx(0, abs=1e-9)
    assert memorised_bits(np.full(100, -50.0), each) == 0    # worse than a guess counts as 0
    half = np.array([[0.0, -20.0], [-1.0, -1.0]])
    assert memorised_bits(half, [2, 2]) == pytest.approx([2, 2])


def test_who_knows_only_how_often_each_answer_occurs_has_memorised_nothing(table):
    questions = questions_of(table)
    shares = np.array([questions.answers.count(answer) for answer in questions.answers]) / 50
    assert len(set(shares)) > 2 and memorised_bits(np.log2(shares), questions.bits) == 0
    assert offered_bits(questions) == pytest.approx(-np.log2(shares).sum())


def forward_of(questions, codec, block_size, knows):
    """A model that gives the right next characters of the answers all probability, or all the same."""
    nexts = {}
    for prompt, answer in zip(questions.prompts, questions.answers):
        for at in range(len(prompt), len(prompt + answer)):
            nexts.setdefault((prompt + answer)[:at][-block_size:],
                             []).append(codec.stoi[(prompt + answer)[at]])

    def forward(tokens):
        logits = torch.zeros(1, len(codec.stoi), *tokens.shape)
        for b in range(tokens.shape[1] if knows else 0):
            for t in range(tokens.shape[0]):
                counts = Counter(nexts.get(codec.decode(tokens[:t + 1, b].tolist()), ()))
                if counts:
                    logits[0, :, t, b] = -50
                for token, count in counts.items():
                    logits[0, token, t, b] = math.log(count)
        return logits
    return forward


@pytest.mark.parametrize('name', ['table', 'strings'])
def test_through_the_windows_of_evaluation_the_table_has_what_is_offered_and_ignorance_nothing(request, name):
    dataset = request.getfixturevalue(name)
    questions = questions_of(dataset)
    block_size = 9 if name == 'table' else 6
    windows = AnswerWindows(questions, dataset.codec, block_size, torch.device('cpu'))
    models = [forward_of(questions, dataset.codec, block_size, knows) for knows in (True, False)]
    found = [memorised_bits(windows.log_answers(model, 2**20)[0] / math.log(2), questions.bits)
             for model in models]
    assert found[0] == pytest.approx(offered_bits(questions), rel=1e-5) and found[0] > 100
    assert found[1] == 0


def test_what_is_offered_is_what_can_be_known():
    assert offered_bits(Questions(['a', 'b', 'c'], ['1', '2', '1'], [1, 1, 1])) == pytest.approx(3)
    # Two strings begin alike: at best, a model gives each of them half of the probability.
    assert offered_bits(Questions(['a', 'a', 'c'], ['11', '22', '12'], [2, 2, 2])) == pytest.approx(1 + 1 + 2)


def test_questions_are_the_table_without_what_is_held_out_or_the_lines(table, strings, math_data):
    assert len(questions_of(table).prompts) == 50 and len(set(questions_of(table).answers)) == 13
    prompts = questions_of(math_data).prompts
    assert len(prompts) == 196 and not {'<5+7=', '<7-5='} & set(prompts)
    found = questions_of(strings)
    assert set(found.bits) == {10} and len(found.prompts) == 40 and {len(answer)
                                                                  for answer in found.answers} == {6}


def test_the_papers_tasks_ask_for_what_was_computed_elsewhere():
    bits = list(bits_of_the_papers_tasks().values())
    assert bits[:3] == pytest.approx([791, 1215, 214], abs=0.6) and 1600 < bits[3] < 2100
    assert order_bits(4) == pytest.approx(math.log2(24))


def test_random_strings_are_random_different_and_have_the_vocabulary_of_the_alphabet(strings, tmp_path):
    lines = strings.codec.decode(strings.train.tolist()).splitlines()
    assert len(set(lines)) == 40 and {len(line) for line in lines} == {6} and strings.meta['vocab_size'] == 5
    assert strings.tasks == {} and all(30 < count < 90 for count in Counter(''.join(lines)).values())
    for folder, seed in (('a', 1), ('b', 1), ('c', 2)):
        options = dict(num=2, length=3, alphabet=9, seed=seed, out_dir=tmp_path / folder)
        assert run_script('data/random_strings/prepare.py', **options) == 0
    texts = [(tmp_path / folder / 'train.txt').read_text() for folder in 'abc']
    assert texts[0] == texts[1] != texts[2] and Dataset(tmp_path / 'a', 3).meta['vocab_size'] == 10


@pytest.mark.parametrize('options, says',
                         [({'num': 3, 'length': 2, 'alphabet': 2}, '--num=3'), ({'num': 'many'}, '--num'),
                          ({'length': 1}, '--length'), ({'alphabet': 99}, '--alphabet')])
def test_strings_that_cannot_be_are_refused(command, tmp_path, options, says):
    result = command('data/random_strings/prepare.py', out_dir=tmp_path / 'x', **options)
    assert result.status == 2 and says in result.err
    assert result.err.count('\n') <= 2 and not (tmp_path / 'x').exists()


def in_this_process(command, **options):
    """Replaces subprocess.run: a sweep runs in this process."""
    if options:    # git, which is asked for the commit
        return run(command, **options)
    return CompletedProcess(command, run_script(*command[1:]))


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """The folder in which two tiny sweeps were trained and measured."""
    folder = tmp_path_factory.mktemp('measured')
    tiny = ''.join(f'{name} = {value!r}\n'
                   for name, value in {**TINY, 'compile': 'False', 'windows': 'line'}.items())
    (folder / 'sweep_bits_table.py').write_text(
        "base = 'config/train_math_mini_14.py'\naxes = {'n_embd': [4]}\nnum_seeds = 2\n"
        "data = {'answers': ['shuffled'], 'heldout': ['none'], 'max_operand': [1, 3]}\n" + tiny)
    (folder / 'sweep_bits_strings.py').write_text(
        "base = 'config/random_strings.py'\naxes = {'n_embd': [4]}\nnum_seeds = 1\ndata = {'num': [4]}\n"
        + tiny)
    paths = [folder / f'sweep_bits_{name}.py' for name in ('table', 'strings')]
    with pytest.MonkeyPatch.context() as patch, forked_sweeps():
        patch.chdir(folder)
        patch.setattr('subprocess.run', in_this_process)
        assert run_script('analysis/measure_capacity.py', *paths) == 0
    return folder


def rows_of(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_measuring_trains_writes_and_does_nothing_twice(command, measured, monkeypatch):
    rows = rows_of(measured / 'bits.csv')
    assert len(rows) == 2 * 2 + 1 and {row['iter'] for row in rows} == {'20'}
    assert all(0 <= float(row['bits_memorised']) < float(row['bits_offered']) for row in rows)
    plateaus = rows_of(measured / 'bits_plateau.csv')
    assert [(row['sweep'], row['n_embd'], row['seeds']) for row in plateaus] == [
        ('bits_strings', '4', '1'), ('bits_table', '4', '2')]
    assert plateaus[0]['plateau_half'] == '' and float(plateaus[1]['plateau_half']) >= 0
    before = (measured / 'bits.csv').read_bytes()
    monkeypatch.chdir(measured)
    again = command('analysis/measure_capacity.py', 'sweep_bits_table.py', 'sweep_bits_strings.py',
                    '--train=False')
    assert again.status == 0 and (measured / 'bits.csv').read_bytes() == before


@pytest.mark.slow
def test_the_figure_of_bits_is_drawn_from_the_files_alone(measured, command):
    result = command('analysis/plot_bits.py', folder=measured, output_dir=measured / 'figures', format='svg')
    assert result.status == 0, result.err
    assert '<svg' in (measured / 'figures' / 'bits.svg').read_text()
    missing = command('analysis/plot_bits.py', folder=measured / 'nowhere')
    assert missing.status == 2 and 'measure_capacity.py' in missing.err and missing.err.count('\n') == 1


@pytest.mark.slow
def test_the_race_is_drawn_from_run_folders_and_again_from_its_own_numbers(measured, learned, command):
    runs = sorted((measured / 'sweeps' / 'bits_table').glob('n_embd=*'))
    result = command('analysis/plot_race.py', *runs, learned, output_dir=measured, format='svg')
    assert result.status == 0, result.err
    text = (measured / 'race.svg').read_text()
    assert '<svg' in text and len(runs) == 2
    rows = rows_of(measured / 'race.csv')
    assert {row['panel'] for row in rows} == {'1', '2', '3'}
    again = command('analysis/plot_race.py', measured / 'race.csv', output_dir=measured / 'again')
    assert again.status == 0, again.err
    assert (measured / 'again' / 'race.csv').read_bytes() == (measured / 'race.csv').read_bytes()
    written = (measured / 'race.csv').read_text()
    for good, bad, says in (('heldout', 'helpout', "unknown line 'helpout'"),
                            (',20,', ',,', 'a number is missing')):
        (measured / 'race.csv').write_text(written.replace(good, bad))
        damaged = command('analysis/plot_race.py', measured / 'race.csv')
        assert damaged.status == 2 and says in damaged.err and damaged.err.count('\n') == 1
    missing = command('analysis/plot_race.py', measured / 'nowhere')
    assert missing.status == 2 and 'nowhere' in missing.err and missing.err.count('\n') == 1
