"""Tables 2, 3 and 4 from made-up runs of known numbers."""
import json
from pathlib import Path

import pytest

from make_tables import make_table
from tbtt import paper
from tbtt.cli import UserError
from tbtt.results import format_results

HERE = Path(__file__).parents[1]


def write_run(folder, rows, **info):
    """rows: (iter, add, sub, heldout or None, facts or None), each the number of right answers."""
    totals = {'add': 1000, 'sub': 1000, 'heldout': 40, 'facts': 500}
    table = []
    for iteration, *correct in rows:
        asked = {name: count for name, count in zip(totals, correct) if count is not None}
        table.append({'iter': iteration, 'train_loss': 1.0, 'val_loss': 1.0,
                      **{f'{name}_correct': count for name, count in asked.items()},
                      **{f'{name}_total': totals[name] for name in asked}})
    folder.mkdir(parents=True)
    (folder / 'results.csv').write_text(format_results(table))
    if info:
        (folder / 'run.json').write_text(json.dumps(info))


def cells(task, root, model, wd=False):
    """{source: list of the cells from 'seeds' on} of a model's three rows."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in make_table(task, root, wd).splitlines()
            if line.startswith('|')]
    first = next(i for i, row in enumerate(rows) if row[0] == model)
    assert len({len(row) for row in rows}) == 1
    return {row[2]: row[3:] for row in rows[first:first + 3]}


def test_a_run_stands_below_the_paper_at_its_best_and_at_its_last_evaluation(tmp_path):
    write_run(tmp_path / 'math_mini_14', [(0, 10, 20, 0, None), (15000, 980, 990, 23, None),
                                          (15250, 990, 980, 24, None), (30000, 970, 984, 12, None)],
              finished=True)
    assert cells('math', tmp_path, 'n14') == {
        'paper': ['', '', '100.0', '100.0', '40/40 (4 of 4)'],
        'ours, best evaluation': ['1', '15,000', '98.0', '99.0', '23/40 (1 to 3 of 4)'],
        'ours, last iteration': ['1', '30,000', '97.0', '98.4', '12/40 (0 to 2 of 4)']}


def test_table_4_has_the_combined_score_of_all_questions(tmp_path):
    write_run(tmp_path / 'both_mini_14', [(30000, 312, 394, 0, 10)])
    found = cells('both', tmp_path, 'n14')
    assert found['paper'] == ['', '', '31.2', '39.4', '2.0', '28.6', '0/40 (0 of 4)']
    assert found['ours, best evaluation'][1:] == ['30,000', '31.2', '39.4', '2.0', '28.6', '0/40 (0 of 4)']


def test_a_missing_run_is_blank_beside_the_papers_numbers(tmp_path):
    assert cells('facts', tmp_path, 'n28') == {'paper': ['', '', '100.0'],
                                               'ours, best evaluation': ['', '', ''],
                                               'ours, last iteration': ['', '', '']}


def test_a_file_without_held_out_columns_leaves_them_blank(tmp_path):
    write_run(tmp_path / 'math_mlt', [(30000, 980, 980, None, None)])
    assert cells('math', tmp_path, 'MLT')['ours, last iteration'] == ['1', '30,000', '98.0', '98.0', '']


@pytest.mark.parametrize('last, info, says', [
    (29750, {'finished': True, 'dtype': 'bfloat16'}, 'stopped at 29,750, bfloat16'),
    (3000, {'dtype': 'bfloat16', 'hardware': 'AMD EPYC, 2 threads'}, 'stopped at 3,000, bfloat16, CPU'),
    (30000, {'finished': False}, 'unfinished'), (500, {}, 'stopped at 500')])
def test_an_unfinished_run_says_so(tmp_path, last, info, says):
    write_run(tmp_path / 'math_mini_28', [(last, 980, 980, 0, None)], **info)
    found = cells('math', tmp_path, 'n28')
    assert f'ours, best evaluation ({says})' in found and f'ours, last iteration ({says})' in found


def test_many_seeds_are_a_mean_with_its_interval_and_a_count_of_perfect_ones(tmp_path):
    for seed, (add, heldout, best) in enumerate([(980, 0, 250), (990, 40, 500), (1000, 40, 750)]):
        write_run(tmp_path / f'math_mini_56/seed_{seed}',
                  [(0, 0, 0, 0, None), (best, add, add, heldout, None), (30000, add, 0, heldout, None)])
    found = cells('math', tmp_path, 'n56')
    # Scores 98, 99, 100: standard deviation 1, t(2) = 4.303, so 4.303 / sqrt(3) = 2.5. Wilson, 2 in 3: 0.208
    # to 0.939. Held-out 0, 40, 40: mean 26.7, standard deviation 23.1, so 4.303 * 23.1 / sqrt(3) = 57.4.
    heldout = '2 of 3 seeds at 4 of 4 (21 to 94%), mean 26.7 ± 57.4 of 40'
    assert found['ours, best evaluation'] == ['3', '250 to 750', '99.0 ± 2.5', '99.0 ± 2.5', heldout]
    assert found['ours, last iteration'] == ['3', '30,000', '99.0 ± 2.5', '0.0 ± 0.0', heldout]


def test_what_the_run_recorded_of_questions_is_said(tmp_path):
    folder = tmp_path / 'math_mini_14'
    folder.mkdir()
    counts = {f'{name}_{what}': 1000 for name in ('add', 'sub') for what in ('correct', 'total')}
    (folder / 'results.csv').write_text(format_results([
        {'iter': 30000, **counts, 'heldout_correct': 24, 'heldout_total': 40, 'heldout_answered': 4,
         'heldout_questions': 4, 'train_loss': 1.0, 'val_loss': 1.0}]))
    assert cells('math', tmp_path, 'n14')['ours, last iteration'][-1] == '24/40 (4 of 4)'


def test_another_folder_of_runs_stands_below_ours(tmp_path):
    for folder, right in (('now', 500), ('older', 250)):
        write_run(tmp_path / folder / 'facts_mini_14', [(30000, None, None, None, right)])
    lines = make_table('facts', tmp_path / 'now', beside=tmp_path / 'older').splitlines()
    assert [line.split('|')[3].strip() for line in lines[4:9]] == [
        'paper', 'ours, best evaluation', 'ours, last iteration', 'older, best evaluation',
        'older, last iteration']
    assert [line.split('|')[-2].strip() for line in lines[4:9]] == ['8.2', '100.0', '100.0', '50.0', '50.0']


def test_unfinished_seeds_are_counted(tmp_path):
    for seed, last in enumerate((30000, 20000)):
        write_run(tmp_path / f'facts_mlt/seed_{seed}', [(last, None, None, None, 500)])
    found = cells('facts', tmp_path, 'MLT')
    assert found['ours, last iteration (1 of 2 seeds unfinished)'] == ['2', '20,000 to 30,000', '100.0 ± 0.0']


def test_the_weight_decay_table_shows_the_twins_only(tmp_path):
    write_run(tmp_path / 'facts_mini_14', [(30000, None, None, None, 500)])
    write_run(tmp_path / 'facts_mini_14_wd', [(30000, None, None, None, 250)])
    assert cells('facts', tmp_path, 'n14')['ours, last iteration'][-1] == '100.0'
    assert cells('facts', tmp_path, 'n14', wd=True)['ours, last iteration'][-1] == '50.0'
    assert 'weight decay 0.1' in make_table('facts', tmp_path, wd=True).splitlines()[0]


def test_a_run_without_scores_is_refused_by_name(tmp_path):
    write_run(tmp_path / 'math_mini_14', [(30000, None, None, None, None)])
    with pytest.raises(UserError, match='math_mini_14/results.csv has no scores'):
        make_table('math', tmp_path)


def test_the_published_combined_scores_follow_from_their_parts():
    for model in paper.MODELS:
        row = paper.published()['both', model]
        parts = [float(row[f'{name}_pct']) for name in ('addition', 'subtraction', 'facts')]
        assert (2 * parts[0] + 2 * parts[1] + parts[2]) / 5 == pytest.approx(float(row['combined_pct']),
                                                                             abs=0.06)


def test_the_published_sizes_are_our_parameter_counts():
    for (task, model), row in paper.published().items():
        size = paper.num_params(paper.run_name(task, model))
        assert row['params'] in (f'{size / 1e3:.2f}k', f'{size / 1e6:.2f}M')


def test_the_script_prints_three_tables_from_any_folder(command, monkeypatch, tmp_path):
    write_run(tmp_path / 'runs/math_mini_14', [(30000, 1000, 1000, 40, None)])
    monkeypatch.chdir(tmp_path)
    done = command('analysis/make_tables.py', '--root_dir', 'runs')
    assert done.status == 0 and not done.err
    assert [line for line in done.out.splitlines() if line.startswith('#')] == [
        '### Table 2: Arithmetic', '### Table 3: Facts', '### Table 4: Arithmetic and facts']
    row = '| ours, last iteration | 1 | 30,000 | 100.0 | 100.0 | 40/40 (4 of 4) |'
    assert row in ' '.join(done.out.split())


def test_a_missing_root_folder_is_one_line_and_status_2(command):
    done = command('analysis/make_tables.py', '--root_dir=nowhere')
    assert done.status == 2 and not done.out
    assert done.err.count('\n') == 1 and 'nowhere' in done.err
