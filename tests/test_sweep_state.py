"""What a sweep makes of folders that other calls left: other seeds, other replicas, other settings, groups, damage."""
import json
import threading

import filelock
import pytest

from conftest import TINY, contents, shell
from tbtt.sweep import launch
from tbtt.cli import UserError
from tbtt.sweep.launch import Children, do, move_up, range_of, where_next
from tbtt.sweep.plan import Sweep
from test_sweep import SHARED, sweep_file


def state(folder, iteration, finished=False, **more):
    """A seed's folder as a run leaves it, without its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'ckpt.pt').write_bytes(b'')
    (folder / 'run.json').write_text(json.dumps({'iter_num': iteration, 'finished': finished, **more}))


def whole_job(tmp_path, num_seeds=4):
    job, = Sweep(sweep_file(tmp_path), {'num_seeds': str(num_seeds), 'seed': '1'}, tmp_path).jobs(64)
    return job


@pytest.fixture
def trained(monkeypatch):
    """Folders that were trained in, in order; training is pretended."""
    calls = []

    def train(job, folder, seeds, children, env):
        calls.append((folder.name, list(seeds)))
        for seed in seeds:
            state(launch.seed_folder(folder, seed), TINY['max_iters'], finished=True)

    monkeypatch.setattr(launch, 'train', train)
    monkeypatch.setattr(launch, 'WAIT', 0.05)
    return calls


# --- which folder is next

def test_seeds_go_on_together_only_where_they_were_begun_together(tmp_path, trained):
    job = whole_job(tmp_path)
    assert where_next(job, list(job.seeds)) == (job.folder, job.seeds)
    for seed in job.seeds:
        state(job.folder / f'seed_{seed}', 10)
    assert where_next(job, list(job.seeds)) == (job.folder, job.seeds)
    fewer = whole_job(tmp_path, 2)    # of the four that are there
    assert where_next(fewer, [1, 2]) == (job.folder / 'seed_1', (1,))
    more = whole_job(tmp_path, 6)
    assert where_next(more, [1, 2, 3, 4, 5, 6]) == (job.folder / 'seed_1', (1,))
    state(job.folder / 'seed_3', 15)    # went on alone
    assert where_next(job, list(job.seeds)) == (job.folder / 'seed_1', (1,))
    assert do(job, Children(), {}) is None and trained == [(f'seed_{seed}', [seed]) for seed in job.seeds]


def test_a_group_holds_no_seed_that_is_finished(tmp_path, trained):
    job = whole_job(tmp_path, 5)
    state(job.folder / 'seed_3', TINY['max_iters'], finished=True)
    assert do(job, Children(), {}) is None
    assert trained == [('seeds_1-2', [1, 2]), ('seeds_4-5', [4, 5])]
    assert sorted(folder.name for folder in job.folder.iterdir() if folder.is_dir()) == [f'seed_{s}' for s in job.seeds]


def test_a_change_that_a_crash_left_half_made_is_finished_first(tmp_path):
    job = whole_job(tmp_path, 2)
    for seed in job.seeds:
        state(job.folder / f'seed_{seed}', 10)
    (job.folder / 'seed_2' / 'run.json.tbtt.tmp').write_text('{"iter_num": 15}')
    (job.folder / '1.tbtt.commit.json').write_text('["seed_1/run.json", "seed_2/run.json"]')
    assert where_next(job, list(job.seeds)) == (job.folder / 'seed_1', (1,))
    assert json.loads((job.folder / 'seed_2' / 'run.json').read_text()) == {'iter_num': 15}


def test_another_number_of_seeds_or_replicas_goes_on_with_a_sweep_that_was_stopped(tmp_path):
    path = sweep_file(tmp_path, num_seeds=3)
    sweep = Sweep(path, {}, tmp_path)
    job, = sweep.jobs(8)
    sweep.prepare(job.run)
    begun = shell('train_with_eval.py', 'config/train_math_mini_14.py', cwd=tmp_path, **{
        **SHARED, 'out_dir': job.folder, 'dataset': job.run.settings['dataset'], 'num_seeds': 3, 'max_iters': 10})
    assert begun.status == 0, begun.err    # the longer run goes on from here
    fewer = shell('sweep.py', path, f'--sweeps_dir={tmp_path}', '--num_seeds=1', cwd=tmp_path)
    assert fewer.status == 0, fewer.err
    again = shell('sweep.py', path, f'--sweeps_dir={tmp_path}', cwd=tmp_path)
    assert again.status == 0, again.err
    at = [json.loads((job.folder / f'seed_{seed}' / 'run.json').read_text())['iter_num'] for seed in job.seeds]
    assert at == 3 * [TINY['max_iters']]


# --- groups

def test_a_finished_seed_takes_the_place_of_one_that_is_only_begun(tmp_path, trained):
    job = whole_job(tmp_path, 2)
    config, group = job.run.config(), job.folder / 'seeds_1-2'
    state(job.folder / 'seed_1', 5)
    for seed in job.seeds:
        state(group / f'seed_{seed}', 20, finished=True)
    assert do(job, Children(), {}) is None and not trained
    assert all(launch.finished(job.folder / f'seed_{seed}', config) for seed in job.seeds) and not group.exists()


def test_nothing_finished_is_removed_that_was_not_moved(tmp_path):
    job = whole_job(tmp_path, 2)
    group = job.folder / 'seeds_1-2'
    state(job.folder / 'seed_1', 5)
    state(job.folder / 'seed_2', 30, finished=True)
    for seed in job.seeds:
        state(group / f'seed_{seed}', 20, finished=True)
    with filelock.FileLock(job.folder / 'seed_1' / '.lock'):    # somebody trains there
        assert not move_up(group, job.folder, job.run.config())
    assert {'seed_1/run.json', 'seed_2/run.json'} <= set(contents(group))
    assert move_up(group, job.folder, job.run.config())
    assert json.loads((job.folder / 'seed_2' / 'run.json').read_text())['iter_num'] == 30    # it was there before
    assert [folder.name for folder in group.iterdir()] == ['seed_2']


def test_two_jobs_may_move_one_group(tmp_path, trained):
    job = whole_job(tmp_path, 40)
    for seed in job.seeds:
        state(job.folder / 'seeds_1-40' / f'seed_{seed}', 20, finished=True)
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(do(job, Children(), {}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [None] * 4 and not trained
    assert len(list(job.folder.glob('seed_*/run.json'))) == 40 and not list(job.folder.glob('seeds_*'))


def test_a_job_whose_seeds_another_one_finished_and_moved_has_not_failed(tmp_path, monkeypatch):
    job = whole_job(tmp_path, 2)
    state(job.folder / 'seeds_1-2' / 'seed_1', 10)

    def train(job, folder, seeds, children, env):
        for seed in seeds:
            state(folder / f'seed_{seed}', 20, finished=True)
        assert move_up(folder, job.folder, job.run.config())
        return 'no run to resume'

    monkeypatch.setattr(launch, 'train', train)
    assert do(job, Children(), {}) is None


def test_what_another_process_finishes_meanwhile_stays(tmp_path, trained, monkeypatch):
    job = whole_job(tmp_path, 2)
    folder = job.folder / 'seed_1'

    def next_one(job, left):
        for seed in job.seeds:
            state(job.folder / f'seed_{seed}', 20, finished=True)
        return folder, (1,)

    monkeypatch.setattr(launch, 'where_next', next_one)
    assert do(job, Children(), {}) is None and not trained
    assert (folder / 'ckpt.pt').exists() and launch.done(job)


def test_folders_of_somebody_else_are_no_groups(tmp_path, trained):
    job = whole_job(tmp_path, 2)
    for name in ('seeds_old-copy', 'seeds_1-2-copy', 'seeds_2-1'):
        (job.folder / name).mkdir(parents=True)
        assert not range_of(job.folder / name)
    assert do(job, Children(), {}) is None and trained == [(job.folder.name, [1, 2])]


# --- what a folder says of itself

@pytest.mark.parametrize('text, said', [
    ('{"finished": true}', 'damaged'), ('{"finished": true, "iter_num": "x"}', 'damaged'), ('{"fini', 'damaged'),
    ('{"finished": true, "iter_num": 20, "config": 3}', 'damaged'),
    ('{"finished": true, "iter_num": 20, "config": {"weight_decay": 0.5}}', 'weight_decay=0.0, but the run in .*=0.5'),
])
def test_a_job_whose_record_is_damaged_or_of_other_settings_fails_alone(tmp_path, trained, text, said):
    first, second = Sweep(sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}"), {}, tmp_path).jobs(8)
    state(first.folder / 'seed_1337', 20)
    (first.folder / 'seed_1337' / 'run.json').write_text(text)
    ended = {str(job): error for job, error in launch.local([first, second], lambda run: None, [{}], Children())}
    assert ended['n_embd=6'] is None and trained == [('seed_1337', [1337])]
    with pytest.raises(UserError, match=said):
        raise UserError(ended['n_embd=4'])


def test_settings_that_may_change_do_not_undo_what_is_finished(tmp_path):
    job = whole_job(tmp_path, 1)
    config = job.run.config()
    recorded = {**vars(config), 'seed': 1, 'num_seeds': 1, 'device': 'cuda', 'max_iters': 40, 'log_interval': 7}
    state(job.folder / 'seed_1', 40, finished=True, config=recorded)
    assert launch.done(job)
    state(job.folder / 'seed_1', 10, finished=True, config={**recorded, 'max_iters': 10})
    assert not launch.done(job)
