"""summary.csv: the row of a seed, several writers of one table, and damaged tables."""
from concurrent.futures import ThreadPoolExecutor

import filelock
import pytest

from tbtt.cli import UserError
from tbtt.results import format_results
from tbtt.sweep.summary import read_summaries, seed_row, write_summary


def results_with(rows):
    """The text of a results.csv with these (iter, add right of 1000, heldout right of 40); sub: all right."""
    return format_results([{'iter': t, 'add_correct': add, 'add_total': 1000, 'sub_correct': 1000,
                            'sub_total': 1000, 'heldout_correct': held, 'heldout_total': 40,
                            'train_loss': 1.0, 'val_loss': 1.0}
                           for t, add, held in rows])


def test_a_score_is_dated_when_it_was_first_reached_and_whether_it_stayed(tmp_path):
    (tmp_path / 'results.csv').write_text(results_with([(0, 0, 0), (250, 900, 40), (500, 1000, 20),
                                                        (750, 1000, 40)]))
    (tmp_path / 'run.json').write_text('{"seed": 3, "num_params": 1456, "finished": true, "seconds": 5}')
    row = seed_row(tmp_path)
    assert (row['top_add'], row['top_add_iter'], row['top_add_stayed']) == (100, 500, 1)
    assert (row['top_heldout'], row['top_heldout_iter'], row['top_heldout_stayed']) == (100, 250, 0)
    assert (row['best_iter'], row['best_heldout_correct'], row['last_heldout_correct']) == (500, 20, 40)
    assert row['last_seen'] == pytest.approx(100) and row['last_facts'] is None and 'top_facts' not in row


ROW = {'run': 'a', 'folder': 'a/seed_1', 'tasks': 'math', 'heldout': '5,7', 'n_embd': 14, 'weight_decay': 0.0,
       'seed': 1, 'num_params': 1456, 'finished': 1, 'iter': 250}


def test_a_summary_of_data_without_tasks_can_be_read(tmp_path):
    write_summary(tmp_path / 'summary.csv', [{**ROW, 'tasks': '', 'heldout': ''}])
    row, = read_summaries([tmp_path / 'summary.csv'])
    assert (row['tasks'], row['n_embd']) == ('', 14)


def test_many_may_write_one_summary(tmp_path):
    seeds = range(24)
    for seed in seeds:
        (tmp_path / f'a/seed_{seed}').mkdir(parents=True)
        (tmp_path / f'a/seed_{seed}/results.csv').touch()
    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(lambda s: write_summary(tmp_path / 'summary.csv',
                                              [{**ROW, 'seed': s, 'folder': f'a/seed_{s}'}]), seeds))
    assert sorted(row['seed'] for row in read_summaries([tmp_path / 'summary.csv'])) == list(seeds)


def test_rows_are_read_when_no_other_writes(tmp_path):
    path = tmp_path / 'summary.csv'

    def rows():
        with pytest.raises(filelock.Timeout), filelock.FileLock(tmp_path / '.summary.csv.lock', timeout=0):
            pass
        yield ROW

    assert write_summary(path, rows()) == 1 and write_summary(tmp_path / 'none.csv', []) == 0
    assert path.exists() and not (tmp_path / 'none.csv').exists()


@pytest.mark.parametrize('damaged', [b'', b'run,folder\na', b'run,folder\na,b,c\n', b'run\na\n', b'\xff\n'])
def test_a_summary_that_cannot_be_read_is_made_anew(tmp_path, capsys, damaged):
    path = tmp_path / 'summary.csv'
    path.write_bytes(damaged)
    assert write_summary(path, [ROW]) == 1 and len(read_summaries([path])) == 1
    said = capsys.readouterr().err
    assert said.startswith(str(path)) and len(said.splitlines()) == 1


def test_a_summary_reads_back_and_names_what_is_wrong(tmp_path):
    row = {'run': 'a', 'folder': 'a/seed_1', 'tasks': 'math', 'heldout': '5,7', 'n_embd': 14,
           'weight_decay': 0.0, 'seed': 1, 'num_params': 1456, 'finished': 1, 'iter': 250, 'last_add': 99.5}
    path = tmp_path / 'summary.csv'
    write_summary(path, [row, {**row, 'seed': 2, 'finished': 0}])
    read, = read_summaries([path, path])    # unfinished seeds are left out, and no seed counts twice
    assert read['last_add'] == 99.5 and read['facts_prob'] is None and read['path'] == tmp_path / 'a/seed_1'
    text = path.read_text()
    for damaged, said in ((text.replace('num_params', 'parameters'), 'lacks the column num_params'),
                          (text.replace('99.5', 'many', 1), 'expected a number'),
                          (text[:-20], 'cut off|fields')):
        path.write_text(damaged)
        with pytest.raises(UserError, match=said):
            read_summaries([path])
