"""Controls that can tell a rule from a table: answers without a rule, windows within a line, fresh order, blocks or mixed."""
import collections
import json
import random

import pytest
import torch

from conftest import run_script
from tbtt.cli import UserError
from tbtt.dataset import Dataset
from tbtt.prepare import deal
from tbtt.tasks import Arithmetic, Capitals, tasks_from


def lines_of(folder):
    return (folder / 'train.txt').read_text().splitlines(keepends=True)


def prepared(name, folder, **options):
    assert run_script(f'data/{name}/prepare.py', out_dir=folder, **options) == 0
    return folder


# --- blocks or mixed

@pytest.mark.parametrize('seed', [1337, 7])
def test_blocks_are_what_each_task_is_alone(tmp_path, seed):
    both, math, facts = (lines_of(prepared(name, tmp_path / name, seed=seed))
                         for name in ('both_math_and_facts', 'as_math', 'facts_char'))
    assert both == math + facts and len(math) == 196 and math != sorted(math)


def test_mixed_is_all_lines_shuffled_together(tmp_path):
    lines = Arithmetic().lines() + Capitals().lines()
    random.Random(7).shuffle(lines)
    assert lines_of(prepared('both_math_and_facts', tmp_path / 'mixed', order='mixed', seed=7)) == lines
    assert len({line[0] for line in lines[:20]}) == 2


def test_repeated_lines_are_mixed_unless_blocks_are_asked_for(tmp_path):
    mixed, blocks = (lines_of(prepared('both_skewed', tmp_path / str(i), **options))
                     for i, options in enumerate(({}, {'order': 'blocks'})))
    kinds = ''.join(line[0] for line in blocks)
    assert sorted(mixed) == sorted(blocks) and 'C<' not in kinds and '<C' in kinds
    assert 'C<' in ''.join(line[0] for line in mixed)


# --- answers without a rule

@pytest.fixture(scope='module')
def no_rule(tmp_path_factory):
    return prepared('as_math', tmp_path_factory.mktemp('no') / 'rule', answers='shuffled')


def test_shuffled_answers_are_the_same_questions_and_the_same_results_dealt_anew(no_rule):
    right, dealt = Arithmetic(), Dataset(no_rule, 9).tasks['math']
    seen = right.groups()['seen']
    assert dealt.prompts == right.prompts and dealt.groups() == right.groups()
    assert collections.Counter(dealt.results[i] for i in seen) == collections.Counter(right.results[i] for i in seen)
    assert sum(dealt.results[i] == right.results[i] for i in seen) < 30    # 196 / 22 or so by chance
    assert lines_of(no_rule) == lines_of(no_rule) and sorted(lines_of(no_rule)) == sorted(dealt.lines())
    assert set(dealt.lines()) == {f'{dealt.prompts[i]}{dealt.results[i]}>'.ljust(8) + '\n' for i in seen}


def test_shuffled_answers_leave_the_vocabulary_and_the_counts(no_rule, datasets):
    assert Dataset(no_rule, 9).codec.stoi == Dataset(datasets['as_math'], 9).codec.stoi
    assert len(lines_of(no_rule)) == 196 and {len(line) for line in lines_of(no_rule)} == {9}


def test_shuffled_answers_have_no_rule_for_what_is_held_out():
    right = Arithmetic()
    held = right.groups()['heldout']
    found = [deal(right, seed).results for seed in range(400)]
    hits = sum(dealt[i] == right.results[i] for dealt in found for i in held)
    assert hits / 1600 < 0.15 and len({dealt[held[0]] for dealt in found}) > 15
    # Nor does what was left over say it: the results that are trained on are the same whatever is held out.
    assert len({tuple(sorted(dealt[i] for i in right.groups()['seen'])) for dealt in found}) == 1


def test_what_was_dealt_is_asked_for_and_travels(no_rule):
    task = Dataset(no_rule, 9).tasks['math']
    again = tasks_from(json.loads(json.dumps({'math': task.describe()})), 'meta.pkl')['math']
    assert again.results == task.results and again.lines() == task.lines() and again.describe() == task.describe()
    i = next(i for i, result in enumerate(task.results) if result != Arithmetic().results[i])
    assert task.mark(i, f'{task.results[i]}> ') and not task.mark(i, f'{Arithmetic().results[i]}> ')
    assert task.answers[i] == f'{task.results[i]}>' and 'dealt' not in Arithmetic().describe()


def test_the_seed_deals_the_answers(tmp_path):
    assert deal(Arithmetic(), 1).results == deal(Arithmetic(), 1).results != deal(Arithmetic(), 2).results


def test_nothing_held_out_and_everything_held_out_can_be_dealt(command, tmp_path):
    assert deal(Arithmetic(4, ()), 1).lines() and deal(Arithmetic(1, ((0, 1), (0, 0), (1, 1))), 1).lines() == []
    result = command('data/as_math/prepare.py', max_operand=1, heldout='0,0;0,1;1,1', answers='shuffled', out_dir=tmp_path)
    assert result.status == 2 and result.err.count('\n') == 1 and 'leaves no line' in result.err


@pytest.mark.parametrize('dealt, says', [
    ([1, 2], 'list of 8'), (3, 'list of 8'), ([0] * 7 + [9], r'\[7\]=9'), ([0] * 7 + [True], r'\[7\]=True'),
    ([0] * 7 + ['1'], r"\[7\]='1'")], ids=repr)
def test_dealt_results_that_cannot_be_are_refused_with_their_file(dealt, says):
    with pytest.raises(UserError, match=f'^meta.pkl: dealt.*{says}'):
        tasks_from({'math': {'max_operand': 1, 'heldout': [], 'dealt': dealt}}, 'meta.pkl')
