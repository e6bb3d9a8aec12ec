"""results.csv: what is written reads back, what is damaged is refused; counts of answered questions; the
best row."""
import math

import numpy as np
import pytest

from tbtt.cli import UserError
from tbtt.results import (
    answered_bounds,
    append_row,
    best_row,
    find_seeds,
    format_results,
    last_row,
    read_info,
    read_results,
    result_columns,
    stack_seeds,
)

PAPER = ('iter,add_correct,add_total,sub_correct,sub_total,math_acc,facts_correct,facts_total,facts_acc,'
         'train_loss,val_loss\n')
ARITHMETIC = PAPER + '0,10,1000,20,1000,0.015,0,0,0,2.5,2.5\n250,990,1000,970,1000,0.98,0,0,0,0.5,0.5\n'


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / 'results.csv'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_results(path)
    return read_text


def row(iteration, correct=0, **more):
    return {'iter': iteration, 'add_correct': correct, 'add_total': 1000, 'sub_correct': correct,
            'sub_total': 1000, **more}


def test_what_is_written_reads_back_exactly(read):
    results = read(format_results([row(0, train_loss=0.1 + 0.2, heldout_prob=np.float64(1) / 3), row(250)]))
    assert results['iter'].tolist() == [0, 250] and results['add_total'].dtype == np.float64
    assert results['train_loss'][0] == 0.1 + 0.2 and results['heldout_prob'][0] == 1 / 3


def test_integers_are_written_as_integers_and_what_is_none_or_absent_as_blank():
    text = format_results([{'iter': np.int64(250), 'add_correct': 7, 'train_loss': 2.0, 'val_loss': None}])
    assert text.splitlines() == [','.join(result_columns()), '250,7' + ',' * 11 + '2.0' + ',' * 8]


def test_the_columns_are_those_of_every_version_and_the_new_ones_stand_behind():
    assert ','.join(result_columns()) == (
        'iter,add_correct,add_total,sub_correct,sub_total,math_acc,heldout_correct,heldout_total,'
        'facts_correct,facts_total,facts_acc,combined_acc,train_loss,val_loss,seen_prob,heldout_prob,'
        'facts_prob,heldout_answered,heldout_questions,order_learned,other_order_loss')


def test_what_the_evaluator_knows_beyond_the_columns_is_left_out():
    assert format_results([row(0, seen_correct=3)]) == format_results([row(0)])


def test_a_diverged_loss_survives_the_file(read):
    results = read(format_results([row(0, train_loss=math.nan, val_loss=math.inf)]))
    assert np.isnan(results['train_loss'][0]) and results['val_loss'][0] == math.inf


def test_accuracies_are_percent_whatever_scale_the_file_uses(read):
    results = read(ARITHMETIC)
    assert results['math_acc'].tolist() == results['combined_acc'].tolist() == [1.5, 98.0]
    assert results['add_acc'].tolist() == [1.0, 99.0] and results['sub_acc'].tolist() == [2.0, 97.0]


def test_a_total_of_zero_and_an_absent_column_do_not_apply(read):
    results = read(ARITHMETIC)
    for column in ('facts_correct', 'facts_total', 'facts_acc', 'heldout_correct', 'heldout_acc',
                   'heldout_prob'):
        assert np.isnan(results[column]).all(), column


def test_the_combined_score_of_table_4_counts_every_question_once(read):
    results = read(PAPER + '0,312,1000,394,1000,0,10,500,0,1,1\n')
    assert results['combined_acc'][0] == pytest.approx(100 * 716 / 2500)
    assert results['facts_acc'][0] == 2


def test_spaces_a_byte_order_mark_foreign_columns_and_other_line_ends_do_not_matter(read):
    text = '\ufeff' + ARITHMETIC.replace('\n', ',note \r\n').replace('note', ' note', 1) + '\r\n'
    assert read(text)['iter'].tolist() == read(ARITHMETIC)['iter'].tolist()


@pytest.mark.parametrize('text, says', [
    ('', 'is empty: train'),
    (PAPER, 'line 2: no evaluation'),
    (b'\x80\x02}q\x00\xff', 'no CSV text'),
    ('a,b\n1,2\n', 'line 1 lacks the column iter'),
    (ARITHMETIC.replace('train_loss', 'loss'), 'line 1 lacks the column train_loss'),
    (ARITHMETIC + '500,990,10', 'line 4 has 3 of 11 fields'),
    (ARITHMETIC + '500,1,1,1,1,1,1,1,1,1,1,1\n', 'line 4 has 12 of 11 fields'),
    (ARITHMETIC.replace('970', 'many'), "line 3: expected a number, got 'many'"),
    (ARITHMETIC.replace('\n250', '\n0'), 'line 3: iter is not above'),
    (ARITHMETIC.replace('\n0', '\n500'), 'line 3: iter is not above'),
    (ARITHMETIC.replace('\n250', '\n'), 'line 3: iter is no whole number of steps'),
    (ARITHMETIC.replace('\n0', '\n-1'), 'line 2: iter is not above'),
    (ARITHMETIC.replace('990', '1001'), 'line 3: add_correct is not between'),
    (ARITHMETIC.replace('20,1000', '20,'), 'line 2: sub_correct is not between'),
])
def test_a_damaged_file_is_refused_by_name_and_line(read, tmp_path, text, says):
    with pytest.raises(UserError) as error:
        read(text)
    assert says in str(error.value) and str(tmp_path / 'results.csv') in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match='nowhere.csv: No such file'):
        read_results(tmp_path / 'nowhere.csv')


def test_of_equal_scores_the_first_row_is_the_best(read):
    results = read(format_results([row(0, 3), row(250, 9), row(500, 9), row(750, 4)]))
    assert best_row(results, 'math') == best_row(results, 'combined') == 1
    assert last_row(results) == 3


def test_each_score_has_its_own_best_row(read):
    asked = {'facts_total': 500}
    results = read(format_results([row(0, 900, facts_correct=0, **asked),
                                   row(250, 800, facts_correct=400, **asked),
                                   row(500, 0, facts_correct=500, **asked)]))
    assert [best_row(results, score) for score in ('math', 'facts', 'combined')] == [0, 2, 1]


def test_a_score_that_does_not_apply_has_no_best_row(read):
    with pytest.raises(ValueError):
        best_row(read(ARITHMETIC), 'facts')


def test_seeds_are_found_in_numerical_order_and_only_with_results(tmp_path):
    for name in ('seed_9', 'seed_10', 'seed_1337', 'seed_old', 'other'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'results.csv').write_text(ARITHMETIC)
    (tmp_path / 'seed_11').mkdir()
    assert [seed.name for seed in find_seeds(tmp_path)] == ['seed_9', 'seed_10', 'seed_1337']
    assert find_seeds(tmp_path / 'seed_9') == [tmp_path / 'seed_9']
    assert find_seeds(tmp_path / 'nowhere') == []


def test_seeds_are_stacked_over_all_iterations_and_blank_where_one_has_none(read):
    long, short = read(format_results([row(0, 1), row(250, 2),
                                       row(500, 3)])), read(format_results([row(250, 7)]))
    stacked = stack_seeds([long, short])
    assert stacked['iter'].tolist() == [0, 250, 500]
    np.testing.assert_array_equal(stacked['add_correct'], [[1, 2, 3], [np.nan, 7, np.nan]])


@pytest.mark.parametrize('text', ['{"num_params": 14', '[1]', 'null', '3'])
def test_a_damaged_run_json_is_refused_by_name(tmp_path, text):
    assert read_info(tmp_path) == {}
    (tmp_path / 'run.json').write_text(text)
    with pytest.raises(UserError, match='run.json: damaged'):
        read_info(tmp_path)


@pytest.mark.parametrize('correct, least, most',
                         [(40, 4, 4), (36, 4, 4), (35, 3, 4), (30, 2, 4), (10, 0, 1), (5, 0, 0),
                          (0, 0, 0), (24, 1, 4)])
def test_of_40_answers_the_counts_bound_how_many_questions_are_answered(correct, least, most):
    found = answered_bounds(np.array([correct]), np.array([40.0]))
    assert [each.tolist() for each in found] == [[least], [most]]
    shares = [(a, b, c, correct - a - b - c) for a in range(11) for b in range(11) for c in range(11)
              # all ways to distribute the right answers over four questions
              if 0 <= correct - a - b - c <= 10]
    counts = {sum(right >= 6 for right in share) for share in shares}
    assert (min(counts), max(counts)) == (least, most)


def test_an_older_file_has_the_answered_questions_that_its_counts_leave_no_doubt_of(read):
    old = format_results([row(t, heldout_correct=right, heldout_total=40)
                          for t, right in ((0, 0), (250, 20), (500, 40))])
    results = read('\n'.join(line.removesuffix(',,') for line in old.splitlines()).replace(
        ',heldout_answered,heldout_questions', '') + '\n')
    np.testing.assert_array_equal(results['heldout_answered'], [0, np.nan, 4])
    assert results['heldout_questions'].tolist() == [4, 4, 4]


def test_what_an_evaluation_recorded_of_questions_is_kept(read):
    results = read(format_results([row(0, heldout_correct=24, heldout_total=40, heldout_answered=4,
                                       heldout_questions=4)]))
    assert results['heldout_answered'].tolist() == [4]
    with pytest.raises(UserError, match='heldout_answered is not between 0 and heldout_questions'):
        read(format_results([row(0, heldout_answered=5, heldout_questions=4)]))


def test_a_row_behind_an_older_file_stands_in_the_right_columns(read):
    results = read(append_row('\ufeff' + ARITHMETIC, row(500, 995, heldout_correct=40, heldout_total=40)))
    assert results['iter'].tolist() == [0, 250, 500] and results['train_loss'][:2].tolist() == [2.5, 0.5]
    assert results['add_correct'].tolist() == [10, 990, 995] and results['heldout_acc'][2] == 100
    ours = format_results([row(0)])
    assert append_row(ours, row(250)) == format_results([row(0), row(250)])
