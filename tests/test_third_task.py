"""A third task is one class: defined here and registered, it is prepared, trained, scored, drawn and
summarised."""
import csv
import itertools

import pytest

import plot_capacity
from conftest import TINY, run_script
from plot_results import draw_run
from tbtt import tasks
from tbtt.prepare import write_dataset
from tbtt.results import read_results, result_columns
from tbtt.sweep.summary import read_summaries, seed_row, write_summary


class Reversal(tasks.Task):
    """Words of three letters and the same words backwards, `abc:cba`."""
    name, label = 'reversal', 'Reversal'
    max_new_tokens, stop = 4, '\n'
    scored, heldout_group, seen_group = ('words',), 'unseen_words', 'seen_words'
    probed = ('seen_words', 'unseen_words')
    labels = {'words': 'Words', 'seen_words': 'Seen words', 'unseen_words': 'Held-out words'}

    def __init__(self, letters='abc', heldout=('abc', 'cab')):
        self.letters, self.heldout = letters, list(heldout)
        self.words = [''.join(word) for word in itertools.product(letters, repeat=3)]
        self.prompts = [f'{word}:' for word in self.words]
        self.answers = [f'{word[::-1]}\n' for word in self.words]

    def is_heldout(self, i):
        return self.words[i] in self.heldout

    def groups(self):
        every = range(len(self.words))
        return {'words': list(every), 'seen_words': [i for i in every if not self.is_heldout(i)],
                'unseen_words': [i for i in every if self.is_heldout(i)]}

    def lines(self):
        return [self.prompts[i] + self.answers[i] for i in self.groups()['seen_words']]

    def mark(self, i, completion):
        return completion.split('\n')[0] == self.words[i][::-1]

    def describe(self):
        return {'letters': self.letters, 'heldout': self.heldout}


def test_a_task_without_all_its_methods_cannot_be_made():
    class Silent(tasks.Task):
        def groups(self):
            return {}

        def lines(self):
            return []

    with pytest.raises(TypeError, match='mark'):
        Silent()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder of a run of twenty steps on words and their reversals."""
    monkeypatch.setitem(tasks.TASKS, Reversal.name, Reversal)
    write_dataset(tmp_path / 'data', [Reversal()], seed=1)
    settings = TINY | {'max_iters': 20, 'dataset': tmp_path / 'data', 'out_dir': tmp_path / 'run',
                       'block_size': 8}
    assert run_script('train_with_eval.py', **settings) == 0
    return tmp_path / 'run'


def test_a_third_task_has_columns_scores_a_plot_and_a_row_of_a_summary(trained, tmp_path):
    with open(trained / 'results.csv', newline='') as file:
        row = list(csv.DictReader(file))[-1]
    assert list(row) == result_columns() and {'words_correct', 'reversal_acc',
                                              'unseen_words_prob'} <= set(row)
    assert (row['words_total'], row['unseen_words_total'], row['unseen_words_questions']) == ('270', '20',
                                                                                              '2')
    assert row['add_total'] == row['facts_total'] == ''
    results = read_results(trained / 'results.csv')
    assert results['combined_acc'][-1] == results['reversal_acc'][-1] == float(row['words_correct']) / 2.7

    figure, operation = draw_run(trained)
    drawn = [line.get_label() for line in figure.axes[0].lines]
    assert operation == 'reversal' and drawn[0] == 'Words' and drawn[1].startswith('Held-out words: ')
    assert run_script('plot_results.py', model_folder=trained, operation='reversal') == 0

    seed = seed_row(trained)
    assert seed['last_words'] == results['reversal_acc'][-1] and seed['unseen_words_questions'] == 2
    write_summary(tmp_path / 'summary.csv',
                  [seed | {'run': 'run', 'folder': 'run', 'tasks': 'reversal', 'data': 'words'}])
    read, = read_summaries([tmp_path / 'summary.csv'])
    assert read['best_unseen_words_answered'] == seed['best_unseen_words_answered'] is not None
    axes, *_ = plot_capacity.draw_capacity(plot_capacity.chosen([read], 0.0)).axes
    assert axes.get_title().startswith('Reversal') and len(axes.containers) >= 2


def test_no_two_tasks_share_a_name_of_a_group():
    groups = [group for task in tasks.TASKS.values() for group in task.labels]
    assert len(groups) == len(set(groups))
    for task in tasks.TASKS.values():
        assert {*task.counted(),
                *task.probed} <= task.labels.keys() and set(task().groups()) <= task.labels.keys()
