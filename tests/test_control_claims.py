"""Our own claims on made-up summaries, with data for and against each claim."""
import csv

import pytest

from conftest import run_script
from plot_room import draw_room
from tbtt.figures import marker
from tbtt.stats import Threshold
from tbtt.sweep import controls
from tbtt.sweep.controls import judge_controls, room_claim
from tbtt.sweep.summary import read_summaries, row_of_paper, write_summary

SIZES = {10: 800.0, 14: 1456.0, 20: 2800.0, 28: 5264.0, 40: 10400.0, 56: 19936.0}


def rows_of(width, count=16, answered=0.0, seen=100.0, had=True, **control):
    """Rows of `count` seeds of arithmetic at a width. control: columns that differ from the paper's run."""
    run = f'{width}_{"_".join(map(str, control.values()))}'
    row = {**row_of_paper('math', 'n14'), 'run': run, 'heldout': '5,7', 'n_embd': float(width), 'iter': 30000,
           'finished': 1, 'diverged': None, 'num_params': SIZES[width], 'last_seen': seen,
           'heldout_total': 40.0, 'heldout_questions': 4.0, 'last_heldout_answered': answered,
           'best_heldout_answered': answered, 'last_heldout_correct': 10 * answered,
           'best_heldout_correct': 10 * answered, 'last_heldout': 25 * answered,
           'heldout_answered_iter': 1000.0 if had else None}
    if 'answers' in control or control.get('heldout', '5,7') != '5,7':
        row['data'] = 'other'
    return [{**row, **control, 'folder': f'{run}/seed_{s}', 'seed': s} for s in range(count)]


def shuffled(width, seen, count=16, **control):
    return rows_of(width, count, seen=seen, had=False, answers='shuffled', **control)


def verdict(number, rows):
    claim, = [claim for claim in judge_controls(rows) if claim.number == number]
    return claim.verdict


@pytest.mark.parametrize('n14, n28, expected', [
    (58.0, 95.0, 'holds'), (95.0, 95.0, 'holds in part'), (95.0, 60.0, 'does not hold')])
def test_the_table_that_has_no_rule(n14, n28, expected):
    assert verdict(6, shuffled(14, n14) + shuffled(28, n28)) == expected


def test_right_answers_are_no_control_of_the_table():
    assert verdict(6, rows_of(14, seen=50.0) + rows_of(28)) == 'not enough runs'


@pytest.mark.parametrize('had, answered, expected', [
    (True, 0.0, 'holds'), (False, 0.0, 'holds in part'), (True, 4.0, 'holds in part'),
    (False, 4.0, 'does not hold')])
def test_the_rule_comes_first(had, answered, expected):
    assert verdict(7, rows_of(28, had=had, answered=answered)) == expected


@pytest.mark.parametrize('answered, expected', [(0.0, 'holds'), (1.0, 'holds'), (4.0, 'does not hold')])
def test_without_an_order_to_learn(answered, expected):
    assert verdict(8, rows_of(28, answered=answered, line_order='fresh')) == expected
    assert verdict(8, rows_of(28, answered=answered)) == 'not enough runs'    # these runs have a fixed order


@pytest.mark.parametrize('had, expected', [(True, 'holds'), (False, 'does not hold')])
def test_one_line_in_a_window(had, expected):
    assert verdict(9, rows_of(28, had=had, windows='line')) == expected
    assert verdict(9, rows_of(28, had=had)) == 'not enough runs'


@pytest.mark.slow_after_first
@pytest.mark.parametrize('fits_from, lost_from, expected', [
    (20, 20, 'holds'), (40, 20, 'does not hold'), (20, 40, 'does not hold')])
def test_the_size_where_the_table_fits_and_where_the_rule_is_lost(fits_from, lost_from, expected):
    rows = [row for width in SIZES
            for row in shuffled(width, 95.0 if width >= fits_from else 50.0)
            + rows_of(width, answered=0.0 if width >= lost_from else 4.0)]
    part, _ = room_claim(rows, resamples=40)
    assert part.verdict == expected, part.ours


def test_a_ratio_that_is_small_but_surely_not_one_speaks_against_one_size(monkeypatch):
    ends = iter([Threshold(1800.0, 1700.0, 1900.0, 1.0), Threshold(1400.0, 1300.0, 1500.0, 1.0), None, None])
    monkeypatch.setattr(controls, 'find_threshold', lambda *_: next(ends))
    rows = [row for width in SIZES for row in shuffled(width, 95.0) + rows_of(width, answered=0.0)]
    part, _ = room_claim(rows)
    assert part.verdict == 'does not hold' and part.ours.startswith('0.78 (0.68 to 0.88)')


def test_few_seeds_of_one_size_agree_only_so_far():
    rows = [row for width in SIZES
            for row in shuffled(width, 95.0 if width >= 20 else 50.0, 4 if width == 20 else 16)
            + rows_of(width, answered=0.0 if width >= 20 else 4.0)]
    part, _ = room_claim(rows, resamples=40)
    assert (part.verdict, part.seeds) == ('agree so far', 4)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('lost_from, expected', [(20, 'holds'), (40, 'does not hold')])
def test_both_sizes_if_a_window_holds_one_line(lost_from, expected):
    line = {'windows': 'line'}
    rows = [row for width in SIZES
            for row in shuffled(width, 95.0 if width >= 20 else 50.0, **line)
            + rows_of(width, answered=0.0 if width >= lost_from else 4.0, **line)]
    papers, within = room_claim(rows, resamples=40)
    assert (papers.verdict, within.verdict) == ('not enough runs', expected), within.ours


@pytest.mark.parametrize('seen, answered, expected', [
    (100.0, 4.0, 'holds'), (58.0, 4.0, 'holds in part'), (100.0, 0.0, 'holds in part'),
    (58.0, 0.0, 'does not hold')])
def test_a_model_with_room_for_the_table_that_keeps_the_rule(seen, answered, expected):
    line = {'windows': 'line'}
    assert verdict(12, shuffled(14, seen, **line) + rows_of(14, answered=answered, **line)) == expected
    assert verdict(12, shuffled(14, seen) + rows_of(14, answered=answered)) == 'not enough runs'


def test_the_figure_has_a_panel_for_each_kind_of_windows(tmp_path, capsys):
    papers = shuffled(14, 58.0, 4) + shuffled(28, 99.0, 4) + rows_of(14, 4, answered=3.0) + rows_of(28, 4)
    within = shuffled(14, 100.0, 4, windows='line') + rows_of(14, 4, answered=4.0, windows='line')
    figure = draw_room(papers + within)
    assert [axes.get_title().split('\n') for axes in figure.axes[:2]] == [
        ["The paper's windows", 'rule: 4 seeds per size; table: 4 seeds per size'],
        ['One line per window', 'rule: 4 seeds per size; table: 4 seeds per size']]
    means = [[line.get_ydata().tolist() for line in axes.lines
              if line.get_marker() in (marker('seen'), marker('heldout'))] for axes in figure.axes[:2]]
    assert means == [[[58.0, 99.0], [75.0, 0.0]], [[100.0], [100.0]]]
    assert len(draw_room(papers).axes) == 2    # one panel, and the axis that counts questions
    for path, rows in (('all', papers + within), ('some', rows_of(14, 4))):
        write_summary(tmp_path / f'{path}.csv', rows)
    assert run_script('analysis/plot_room.py', tmp_path / 'all.csv', output_dir=tmp_path) == 0
    assert (tmp_path / 'room.png').stat().st_size > 10_000
    assert run_script('analysis/plot_room.py', tmp_path / 'some.csv', output_dir=tmp_path) == 2
    assert 'config/sweep_control_answers.py' in capsys.readouterr().err


def test_two_sizes_are_no_threshold():
    rows = shuffled(14, 50.0) + shuffled(28, 95.0) + rows_of(14, answered=4.0) + rows_of(28)
    assert verdict(10, rows) == 'not enough runs'


@pytest.mark.parametrize('n14, n28, expected', [
    (4.0, 0.0, 'holds'), (0.0, 0.0, 'holds in part'), (0.0, 4.0, 'does not hold')])
def test_other_pairs(n14, n28, expected):
    assert verdict(11, rows_of(14, answered=n14, heldout='3,8')
                   + rows_of(28, answered=n28, heldout='3,8')) == expected


def test_two_pairs_held_out_at_once_are_another_question():
    rows = rows_of(14, answered=2.0, heldout='3,8;1,2', heldout_questions=8.0)
    assert verdict(11, rows) == 'not enough runs'


def test_a_summary_with_an_axis_of_words_is_read_again(tmp_path, capsys):
    write_summary(tmp_path / 'summary.csv', shuffled(14, 58.0, 3) + rows_of(28, 3, windows='line'))
    rows = read_summaries([tmp_path / 'summary.csv'])
    assert {(row['answers'], row['windows']) for row in rows} == {('shuffled', 'any'), (None, 'line')}
    assert run_script('analysis/make_claims.py', tmp_path / 'summary.csv') == 0
    said = capsys.readouterr().out
    assert 'shuffled answers, n14, last' in said and 'It would have been refuted by' in said
    with open(tmp_path / 'summary.csv', newline='') as file:    # n_layer may hold only numbers
        header, first, *_ = csv.reader(file)
    first[header.index('n_layer')] = 'many'
    (tmp_path / 'summary.csv').write_text('\n'.join(
        ','.join(f'"{cell}"' for cell in cells) for cells in (header, first)) + '\n')
    assert run_script('analysis/make_claims.py', tmp_path / 'summary.csv') == 2
    assert 'line 2, n_layer: expected a number' in capsys.readouterr().err
