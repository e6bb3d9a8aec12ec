"""Recall against frequency: every question of the training data, and how often it occurs there."""
import csv
import shutil

import numpy as np
import pytest
import torch

import eval_frequency
import plot_frequency
from conftest import TINY, run_script, shared
from tbtt import frequency
from tbtt.inference import Trained, load_model
from tbtt.layout import LATEST


@pytest.fixture(scope='module')
def skewed(tmp_path_factory):
    """Two tiny runs on skewed data of both tasks; one has two seeds. -> folder with them"""
    def make(folder):
        options = f'--out_dir={folder / "data"}', '--repeats=120', '--math_repeats=300'
        assert run_script('data/both_skewed/prepare.py', *options) == 0
        for name, settings in (('one', {'n_embd': 4}), ('two', {'n_embd': 6, 'num_seeds': 2})):
            assert run_script('train_with_eval.py', 'config/train_both_skewed_mini_14.py', **{
                **TINY, 'dataset': folder / 'data', 'out_dir': folder / name, **settings}) == 0
    return shared(tmp_path_factory, 'skewed', make)


@pytest.mark.slow
def test_every_question_is_asked_of_every_seed(skewed, tmp_path):
    assert run_script('analysis/eval_frequency.py', skewed / 'one', skewed / 'two',
                      f'--output_dir={tmp_path / "out"}') == 0
    with open(tmp_path / 'out' / 'frequency.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    counts = {(row['run'], row['seed'], row['task']): 0 for row in rows}
    for row in rows:
        counts[row['run'], row['seed'], row['task']] += 1
    assert counts == {(str(skewed / run), seed, task): number
                      for run, seed in (('one', '1337'), ('two', '1337'), ('two', '1338'))
                      for task, number in (('math', 196), ('facts', 50))}
    text = (skewed / 'data' / 'train.txt').read_text()
    assert all(text.count(row['question']) == int(row['occurrences']) for row in rows[:250:7])
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['frequency.csv']
    read = frequency.read_frequency(tmp_path / 'out' / 'frequency.csv')
    assert [tuple(map(str, row)) for row in read] == [tuple(row.values()) for row in rows]
    assert run_script('analysis/plot_frequency.py', tmp_path / 'out' / 'frequency.csv', '--format=svg') == 0
    assert '<svg' in (tmp_path / 'out' / 'frequency.svg').read_text()


@pytest.mark.slow
def test_what_is_recalled_is_the_percentage_of_the_samples_that_are_right(skewed, monkeypatch):
    def counts(task):
        return np.arange(len(task.prompts)) % 11    # as if 0 to 10 of 10 were right

    monkeypatch.setattr(Trained, 'ask',
                        lambda self, name: (self.tasks[name], torch.from_numpy(counts(self.tasks[name])), {}))
    rows = eval_frequency.ask(skewed / 'one', device='cpu')
    assert {row.recalled for row in rows} == set(range(0, 101, 10))
    task = load_model(skewed / 'one' / LATEST, 'cpu').tasks['facts']
    right = dict(zip(task.prompts, counts(task)))
    assert all(row.recalled == 10 * right[row.question] for row in rows if row.task == 'facts')


@pytest.mark.slow
def test_runs_of_one_name_in_different_folders_are_told_apart(skewed, tmp_path, capsys):
    other = shutil.copytree(skewed / 'two', tmp_path / 'other' / 'one')
    assert run_script('analysis/eval_frequency.py', skewed / 'one', other, '--device=cpu',
                      f'--output_dir={tmp_path}') == 0
    with open(tmp_path / 'frequency.csv', newline='') as file:
        assert {(row['run'], row['seed']) for row in csv.DictReader(file)} == {
            (str(skewed / 'one'), '1337'), (str(other), '1337'), (str(other), '1338')}
    said = capsys.readouterr().out
    # one line in the table of each task
    assert all(said.count(f'| {run} |') == 2 for run in (skewed / 'one', other))


def test_the_error_is_that_of_the_mean_of_an_octave():
    found = frequency.octaves(np.array([1, 2, 3, 2, 3]), np.array([50, 0, 10, 20, 30]))
    assert found[0] == (1, 50, 0, 1)    # a single question has no error
    assert found[1] == pytest.approx((np.sqrt(6), 15, np.std([0, 10, 20, 30], ddof=1) / 2, 4))


def answers():
    """The answers of two seeds, one right a little more often than the other, to questions that occur 1 to 4
    times."""
    return [frequency.Recall('a', 10, seed, 'facts', f'q{i}', times, recalled + change)
            for seed, change in ((1, 10), (2, -10))
            for i, (times, recalled) in enumerate([(1, 10.0), (2, 20.0), (3, 40.0), (4, 90.0)])]


def test_the_table_has_a_column_an_octave_and_the_smallest_model_first():
    rows = answers() + [frequency.Recall('b', 5, 1, 'facts', 'q', 9, 50.0)]
    assert frequency.frequency_table(rows).splitlines() == [
        '| facts | parameters | seeds | once | 2 to 3 times | 4 to 7 times | 8 to 15 times |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        '| b | 5 | 1 |  |  |  | 50% |', '| a | 10 | 2 | 10% | 30% | 90% |  |']


def test_the_figure_draws_means_over_octaves():
    figure = plot_frequency.draw_frequency(answers())
    axes, = figure.axes
    line = axes.containers[0].lines[0]
    assert line.get_xdata() == pytest.approx([1, np.sqrt(6), 4]) and list(line.get_ydata()) == [10, 30, 90]
    assert figure.legends[0].get_texts()[0].get_text() == 'a: 10 parameters, 2 seeds'


@pytest.mark.parametrize('args', [['nothing'], [], ['--ckpt=x']])
def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    assert run_script('analysis/eval_frequency.py', *args) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and len(said.splitlines()) == 1


def test_a_task_that_is_not_ours_keeps_its_name():
    axes, = plot_frequency.draw_frequency([row._replace(task='rhymes') for row in answers()]).axes
    assert axes.get_title() == 'rhymes'


def test_another_table_is_drawn_in_grey_behind():
    axes, = plot_frequency.draw_frequency(answers(), answers(), 'older').axes
    assert axes.lines[0].get_label() == 'older, beside' and list(axes.lines[0].get_ydata()) == [10, 30, 90]


@pytest.mark.parametrize('text, says', [
    ('run,seed\na,1\n', 'line 1: expected the columns run, parameters'),
    (','.join(frequency.Recall._fields) + '\na,10,1,facts,q,many,50\n',
     "line 2: expected a number, got 'many'"),
    (','.join(frequency.Recall._fields) + '\na,10,1,facts,q,0,50\n',
     'line 2: expected parameters, a seed, occurrences of at least 1'),
    (','.join(frequency.Recall._fields) + '\na,10,nan,facts,q,1,50\n', 'line 2: expected parameters, a seed'),
    (','.join(frequency.Recall._fields) + '\na,10,1\n', 'line 2 has 3 of 7 fields')])
def test_a_damaged_table_is_one_line(tmp_path, capsys, text, says):
    (tmp_path / 'frequency.csv').write_text(text)
    assert run_script('analysis/plot_frequency.py', tmp_path / 'frequency.csv') == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_seed_without_the_checkpoint_is_named(skewed, capsys):
    assert run_script('analysis/eval_frequency.py', skewed / 'two', '--ckpt=other.pt') == 2
    assert 'no checkpoint' in (said := capsys.readouterr().err) and 'seed_1337/other.pt' in said


def test_data_without_frequencies_are_said_to_be(learned, capsys):
    assert run_script('analysis/eval_frequency.py', learned) == 2
    assert 'without frequencies' in capsys.readouterr().err
