"""results.csv: what is written reads back, what is damaged is refused; the best row; intervals."""
import math

import numpy as np
import pytest

from tbtt.cli import UserError
from tbtt.results import (COLUMNS, best_row, find_seeds, format_results, last_row, mean_interval, read_info,
                          read_results, stack_seeds, t_quantile, wilson_interval)

PAPER = ('iter,add_correct,add_total,sub_correct,sub_total,math_acc,facts_correct,facts_total,facts_acc,train_loss,'
         'val_loss\n')
ARITHMETIC = PAPER + '0,10,1000,20,1000,0.015,0,0,0,2.5,2.5\n250,990,1000,970,1000,0.98,0,0,0,0.5,0.5\n'


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / 'results.csv'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_results(path)
    return read_text


def row(iteration, correct=0, **more):
    return {'iter': iteration, 'add_correct': correct, 'add_total': 1000, 'sub_correct': correct, 'sub_total': 1000,
            **more}


def test_what_is_written_reads_back_exactly(read):
    results = read(format_results([row(0, train_loss=0.1 + 0.2, heldout_prob=np.float64(1) / 3), row(250)]))
    assert results['iter'].tolist() == [0, 250] and results['add_total'].dtype == np.float64
    assert results['train_loss'][0] == 0.1 + 0.2 and results['heldout_prob'][0] == 1 / 3


def test_integers_are_written_as_integers_and_what_is_none_or_absent_as_blank():
    text = format_results([{'iter': np.int64(250), 'add_correct': 7, 'train_loss': 2.0, 'val_loss': None}])
    assert text.splitlines() == [','.join(COLUMNS), '250,7' + ',' * 11 + '2.0,,,,']


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
    for column in ('facts_correct', 'facts_total', 'facts_acc', 'heldout_correct', 'heldout_acc', 'heldout_prob'):
        assert np.isnan(results[column]).all(), column


def test_the_combined_score_of_table_4_counts_every_question_once(read):
    results = read(PAPER + '0,312,1000,394,1000,0,10,500,0,1,1\n')
    assert results['combined_acc'][0] == pytest.approx(100 * 716 / 2500)
    assert results['facts_acc'][0] == 2


def test_spaces_a_byte_order_mark_foreign_columns_and_other_line_ends_do_not_matter(read):
    text = '\ufeff' + ARITHMETIC.replace('\n', ',note \r\n').replace('note', ' note', 1) + '\r\n'
    assert read(text)['iter'].tolist() == read(ARITHMETIC)['iter'].tolist()


@pytest.mark.parametrize('text, says', [
    ('', 'line 1: no evaluation'),
    (PAPER, 'line 2: no evaluation'),
    (b'\x80\x02}q\x00\xff', 'no CSV text'),
    ('a,b\n1,2\n', 'line 1 lacks the column iter'),
    (ARITHMETIC.replace('train_loss', 'loss'), 'line 1 lacks the column train_loss'),
    (ARITHMETIC + '500,990,10', 'line 4 has 3 of 11 fields'),
    (ARITHMETIC + '500,1,1,1,1,1,1,1,1,1,1,1\n', 'line 4 has 12 of 11 fields'),
    (ARITHMETIC.replace('970', 'many'), "line 3: expected a number, got 'many'"),
    (ARITHMETIC.replace('\n250', '\n0'), 'line 3: iter is not above'),
    (ARITHMETIC.replace('\n0', '\n500'), 'line 3: iter is not above'),
    (ARITHMETIC.replace('\n250', '\n'), 'line 3: iter is not above'),
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
    results = read(format_results([row(0, 900, facts_correct=0, **asked), row(250, 800, facts_correct=400, **asked),
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
    long, short = read(format_results([row(0, 1), row(250, 2), row(500, 3)])), read(format_results([row(250, 7)]))
    stacked = stack_seeds([long, short])
    assert stacked['iter'].tolist() == [0, 250, 500]
    np.testing.assert_array_equal(stacked['add_correct'], [[1, 2, 3], [np.nan, 7, np.nan]])


@pytest.mark.parametrize('text', ['{"num_params": 14', '[1]', 'null', '3'])
def test_a_damaged_run_json_is_refused_by_name(tmp_path, text):
    assert read_info(tmp_path) == {}
    (tmp_path / 'run.json').write_text(text)
    with pytest.raises(UserError, match='run.json: damaged'):
        read_info(tmp_path)


@pytest.mark.parametrize('df, t', [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228),
                                   (31, 2.040), (120, 1.980)])
def test_t_quantiles_are_those_of_the_printed_tables(df, t):
    assert t_quantile(0.95, df) == pytest.approx(t, abs=5e-4)


def test_t_quantiles_at_another_level():
    assert t_quantile(0.99, 5) == pytest.approx(4.032, abs=5e-4)


def test_the_interval_of_a_mean():
    mean, half = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), abs=1e-6)
    assert mean_interval([98.0])[0] == 98 and math.isnan(mean_interval([98.0])[1])
    assert mean_interval(np.full(8, 100.0)) == (100, 0)


@pytest.mark.parametrize('count, total, low, high', [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                                     (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_intervals_are_those_of_newcombe_1998_table_1(count, total, low, high):
    assert wilson_interval(count, total) == pytest.approx((low, high), abs=5e-5)


def test_a_wilson_interval_stays_within_0_and_1():
    assert wilson_interval(8, 8)[1] == 1 and wilson_interval(0, 8)[0] == 0
