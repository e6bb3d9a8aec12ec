"""Sweeps: axes expand to the right runs, and jobs are resumed, shared and retried."""
import contextlib
import csv
import io
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from chaos import Training, forked_sweeps
from conftest import HERE, TINY, Result, contents, run_script, shell
from tbtt.cli import UserError
from tbtt.results import read_results
from tbtt.sweep.launch import Children
from tbtt.sweep.plan import Sweep, shard
from tbtt.sweep.summary import read_summaries

# Settings with which a large learning rate makes a run diverge.
SHARED = {**TINY, 'compile': 'False', 'n_embd': 6, 'weight_decay': 1.0}


def sweep_file(folder, text='', **settings):
    """A sweep file of tiny runs. -> its path"""
    path = folder / 'sweep_tiny.py'
    lines = [f'{name} = {value!r}' for name, value in {**SHARED, **settings}.items()]
    path.write_text('\n'.join(["base = 'config/train_math_mini_14.py'", *lines, text, '']))
    return path


def weights(folder):
    return torch.load(folder / 'ckpt.pt', weights_only=True)['model']


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return all(torch.equal(one[name], other[name]) for name in one)


# --- the plan

def test_axes_expand_to_their_product_in_order(tmp_path):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 6], 'weight_decay': [0.0, 0.1]}\n"
                                "data = {'heldout': ['5,7', '1,2;3,4']}")
    sweep = Sweep(path, {}, tmp_path)
    assert [run.name for run in sweep.runs] == [
        f'n_embd={n}_weight_decay={w}_heldout={h}' for n in (4, 6) for w in (0.0, 0.1)
        for h in ('5,7', '1,2+3,4')]
    last = sweep.runs[-1]
    assert (last.config().n_embd, last.config().weight_decay,
            last.config().max_iters) == (6, 0.1, TINY['max_iters'])
    assert last.data == {'heldout': '1,2;3,4'} and last.axes == {'n_embd': 6, 'weight_decay': 0.1,
                                                                 'heldout': '1,2;3,4'}
    assert len({run.config().dataset for run in sweep.runs}) == 2


def test_several_bases_are_an_axis(tmp_path):
    sweep = Sweep('config/sweep_capacity.py', {}, tmp_path)
    assert len(sweep.runs) == 3 * 2 * 14 and len(sweep.jobs(32)) == 84 and len(sweep.jobs(8)) == 4 * 84
    assert {run.config().block_size for run in sweep.runs if run.axes['base'] == 'facts'} == {24}
    assert len({run.name for run in sweep.runs}) == len(sweep.runs)


def test_the_command_line_narrows_axes_and_sets_the_rest(tmp_path):
    sweep = Sweep('config/sweep_capacity.py',
                  {'base': 'math,facts', 'n_embd': '10,14', 'weight_decay': '0', 'num_seeds': '6',
                   'max_iters': '50'}, tmp_path)
    assert len(sweep.runs) == 4 and sweep.num_seeds == 6
    assert all(run.config().max_iters == 50 for run in sweep.runs)
    held = Sweep('config/sweep_heldout.py', {'heldout': '5,7 1,2;3,4', 'n_embd': '14'}, tmp_path)
    assert [run.data['heldout'] for run in held.runs] == ['5,7', '1,2;3,4']


def test_the_files_that_come_with_the_project_are_what_they_say(tmp_path):
    held = Sweep('config/sweep_heldout.py', {}, tmp_path)
    pairs = [run.data['heldout'] for run in held.runs if run.config().n_embd == 14]
    assert [len(pair.split(';')) for pair in pairs] == [1] * 10 + [2, 4, 8] and held.num_seeds == 16
    assert all(len(set(map(frozenset, (p.split(',') for p in pair.split(';'))))) == len(pair.split(';'))
               for pair in pairs)
    assert len(Sweep('config/sweep_quick.py', {}, tmp_path).runs) == 2


@pytest.mark.parametrize('text, said', [
    ("axes = {'n_embed': [1]}", 'did you mean n_embd?'),
    ("axes = {'n_embd': []}", 'at least one value'),
    ("axes = {'n_embd': [4, 4]}", 'twice'),
    ("axes = {'n_embd': [4, 'x']}", 'expected int'),
    ("axes = {'seed': [1]}", 'chosen by the sweep itself'),
    ("axes = 5", 'expected {name: list of values}'),
    ("base = 5", 'has to name its base'),
    ("base = 'config/nothing.py'", 'no config file'),
    ("out_dir = 'x'", 'chosen by the sweep itself'),
    ("learning = 3", 'unknown setting'),
    ("dataset = 'x'", 'chosen by the sweep itself'),
    ("1 / 0", 'ZeroDivisionError'),
    ("base = {1: 'config/train_math_mini_14.py'}", 'has to name its base'),
    ("axes = {1: [2]}", 'the names as texts'),
    ("axes = {'weight_decay': [0, 0.0]}", 'twice'),
    ("axes = {'batch_size': [None]}", 'expected int, got NoneType'),
    ("batch_size = None", 'expected int, got NoneType'),
    ("data = {'heldout': [None]}", 'None is not a value'),
    ("data = {'heldout': ['1,2;3,4', '1,2+3,4']}", 'two runs would be named'),
    ("base = {'..': 'config/train_math_mini_14.py'}", 'no run can be named [.][.]:'),
    ("base = {'data': 'config/train_math_mini_14.py'}", 'no run can be named data:'),
    ("seed, num_seeds = 2**31 - 1, 3", 'no seed above 2147483647'),
])
def test_a_wrong_sweep_file_is_one_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        Sweep(sweep_file(tmp_path, text), {}, tmp_path)


@pytest.mark.parametrize('args', [
    ['nothing.py'], ['--shard=4/4'], ['--shard=x'], ['--engine=slurm'], ['--workers=0'],
    ['--n_embd=4,5', '--block_size=9,8'], ['--learning=3'], ['--heldout=1,2'], ['--n_embd=4,4'],
    ['--seed=2147483647', '--num_seeds=2'],
    ['stray'], ['--engine=ray', '--address=127.0.0.1:1'], ['--num_seeds=0']])
def test_a_wrong_option_is_one_line(tmp_path, capsys, args):
    args = args if args == ['nothing.py'] else [sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}"), *args]
    if '--engine=ray' in args:
        pytest.importorskip('ray')
    assert run_script('sweep.py', *args, f'--sweeps_dir={tmp_path / "sweeps"}') == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and len(said.splitlines()) == 1
    assert not list(tmp_path.glob('sweeps/*/n_embd*'))


@pytest.mark.parametrize('overrides, said', [
    ({'heldout': ' '}, 'at least one value'), ({'heldout': '5,7 5,7'}, 'twice'),
    ({'weight_decay': '0,0.0'}, 'twice'), ({'out_dir': 'x'}, '--sweeps_dir says where'),
    ({'sweep_dir': 'x'}, 'did you mean --sweeps_dir')])
def test_the_command_line_is_checked_as_the_file_is(tmp_path, overrides, said):
    path = sweep_file(tmp_path, "axes = {'weight_decay': [0, 0.1]}\ndata = {'heldout': ['5,7', '1,2']}")
    with pytest.raises(UserError, match=said):
        Sweep(path, overrides, tmp_path)
    assert [run.name for run in Sweep(path, {'weight_decay': '0', 'heldout': '5,7'}, tmp_path).runs] == [
        'weight_decay=0.0_heldout=5,7']


@pytest.mark.slow_after_first
@pytest.mark.parametrize('n', [1, 2, 3, 7, 64, 3000])
def test_shards_are_disjoint_and_complete_and_alike_in_size(tmp_path, n):
    sweep = Sweep('config/sweep_capacity.py', {}, tmp_path)
    parts = [sweep.jobs((8, 32, 5)[i % 3], shard(f'{i}/{n}')) for i in range(n)]
    seeds = [[(job.run.name, seed) for job in jobs for seed in job.seeds] for jobs in parts]
    together = [seed for part in seeds for seed in part]
    assert len(together) == len(set(together)) == 3 * 2 * 14 * 32
    assert max(map(len, seeds)) - min(map(len, seeds)) <= 1
    assert all(job.seeds == tuple(range(job.seeds[0], job.seeds[-1] + 1)) for jobs in parts for job in jobs)


def test_shards_on_unlike_machines_leave_no_seed_out(tmp_path, capsys):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}", num_seeds=4)
    seeds = []
    for i, replicas in enumerate((4, 2, 1)):
        assert run_script('sweep.py', path, '--dry_run', f'--shard={i}/3', f'--replicas={replicas}',
                          f'--sweeps_dir={tmp_path / "sweeps"}') == 0
        for name, first, last in re.findall(r'^(n_embd=.), +seeds (\d+) to (\d+) ',
                                            capsys.readouterr().out, re.M):
            seeds += [(name, seed) for seed in range(int(first), int(last) + 1)]
    assert sorted(seeds) == [(f'n_embd={n}', seed) for n in (4, 6) for seed in range(1337, 1341)]


def test_a_dry_run_estimates_and_trains_nothing(tmp_path, capsys):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}", num_seeds=3)
    assert run_script('sweep.py', path, '--dry_run', '--workers=2',
                      f'--sweeps_dir={tmp_path / "sweeps"}') == 0
    out = capsys.readouterr().out
    assert 'n_embd=4' in out and '2 jobs, 2 at a time' in out and 'MB' in out
    assert not list(tmp_path.rglob('ckpt.pt'))


# --- training

@pytest.fixture(autouse=True)
def forked():
    with forked_sweeps():
        yield


# Long enough that a test can stop it in the middle.
LONGER = dict(max_iters=400, eval_interval=20, lr_decay_iters=400)


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    """A sweep of two sizes, each as a good and a diverging run, two seeds each. -> its folder, Result"""
    folder = tmp_path_factory.mktemp('swept')
    (folder / 'diverges.py').write_text('learning_rate = weight_decay = 1000.0\n')
    bases = {'good': 'config/train_math_mini_14.py', 'bad': str(folder / 'diverges.py')}
    path = sweep_file(folder, f"base = {bases}\naxes = {{'n_embd': [4, 6]}}", num_seeds=2)
    out, err = io.StringIO(), io.StringIO()
    with forked_sweeps(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_script('sweep.py', path, f'--sweeps_dir={folder}')
    return folder / 'tiny', Result(status, out.getvalue(), err.getvalue())


def test_a_failed_run_does_not_stop_the_others_and_is_reported_at_the_end(swept):
    folder, result = swept
    assert result.status == 1
    # Each failure is reported when it happens, and again at the end.
    assert result.err.count('failed: ') == 4 and 'bad_n_embd=6' in result.err
    done = {path.parent.parent.name for path in folder.glob('*/seed_*/run.json')}
    assert {'good_n_embd=4', 'good_n_embd=6'} <= done


def test_a_run_of_a_sweep_is_what_the_training_script_leaves(command, swept, tmp_path):
    folder, _ = swept
    alone = command('train_with_eval.py', 'config/train_math_mini_14.py',
                    **{**SHARED, 'out_dir': tmp_path / 'alone', 'dataset': folder / 'data' / 'as_math',
                       'seed': 1338})
    assert alone.status == 0, alone.err
    assert same_weights(folder / 'good_n_embd=6' / 'seed_1338', tmp_path / 'alone')


def test_the_summary_says_what_the_runs_hold(swept):
    folder, _ = swept
    with open(folder / 'summary.csv', newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['base'] == 'good']
    assert [(row['n_embd'], row['seed']) for row in rows] == [('4', '1337'), ('4', '1338'), ('6', '1337'),
                                                              ('6', '1338')]
    for row in rows:
        results = read_results(folder / row['folder'] / 'results.csv')
        assert float(row['last_add']) == results['add_acc'][-1] and row['last_facts'] == ''
        assert float(row['best_combined']) == results['combined_acc'].max() == float(row['top_combined'])
        assert row['finished'] == '1' and row['heldout'] == '5,7'
        assert float(row['train_loss']) == results['train_loss'][-1]


def test_what_is_finished_is_skipped_and_a_part_keeps_the_rest_of_the_table(command, swept):
    folder, _ = swept
    before = contents(folder / 'good_n_embd=4'), (folder / 'summary.csv').read_text()
    again = command('sweep.py', folder.parent / 'sweep_tiny.py', f'--sweeps_dir={folder.parent}',
                    '--n_embd=4', '--base=good')
    assert again.status == 0 and '1 finished already' in again.out and '2 of 2 seeds finished' in again.out
    assert contents(folder / 'good_n_embd=4') == before[0]
    assert sorted((folder / 'summary.csv').read_text().splitlines()) == sorted(before[1].splitlines())


@pytest.mark.slow
def test_what_is_finished_with_other_settings_or_damaged_is_a_failure_and_stops_no_other(
        command, swept, tmp_path):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 5]}", learning_rate=1e-2)
    shutil.copytree(swept[0] / 'good_n_embd=4', tmp_path / 'tiny' / 'n_embd=4')
    changed = command('sweep.py', path, f'--sweeps_dir={tmp_path}', '--weight_decay=0.1')
    assert changed.status == 1 and 'failed: n_embd=4: weight_decay=0.1, but the run in' in changed.err
    assert changed.out.endswith('1 of 2 seeds finished\n')
    (tmp_path / 'tiny' / 'n_embd=4' / 'seed_1337' / 'run.json').write_text('{"fini')
    damaged = command('sweep.py', path, f'--sweeps_dir={tmp_path}', '--weight_decay=0.1', '--num_seeds=2')
    assert damaged.status == 1 and 'Traceback' not in damaged.err
    assert 'failed: n_embd=4: ' in damaged.err and 'run.json: damaged' in damaged.err
    assert damaged.err.rindex('failed: ') < damaged.err.index('not in the table: n_embd=4')
    assert damaged.out.endswith('2 of 4 seeds finished\n')
    assert {row['run'] for row in read_summaries([tmp_path / 'tiny' / 'summary.csv'])} == {'n_embd=4',
                                                                                           'n_embd=5'}


@pytest.mark.slow
def test_parts_of_a_run_leave_what_the_whole_run_would(command, swept, tmp_path):
    path = sweep_file(tmp_path, num_seeds=3)
    result = command('sweep.py', path, f'--sweeps_dir={tmp_path}', '--replicas=2', '--workers=1')
    assert result.status == 0, result.err
    run = tmp_path / 'tiny' / 'train_math_mini_14'
    assert sorted(folder.name for folder in run.iterdir() if folder.is_dir()) == ['seed_1337', 'seed_1338',
                                                                                  'seed_1339']
    one = weights(swept[0] / 'good_n_embd=6' / 'seed_1338')
    assert all(torch.allclose(one[name], value, atol=1e-5)
               for name, value in weights(run / 'seed_1338').items())
    # More seeds later: the existing seeds stay as they are.
    before = {file: file.read_bytes() for file in run.glob('seed_*/*') if file.is_file()}
    more = command('sweep.py', path, f'--sweeps_dir={tmp_path}', '--num_seeds=5', '--workers=1')
    assert more.status == 0 and len(list(run.glob('seed_*/ckpt.pt'))) == 5, more.err
    assert before and all(file.read_bytes() == content for file, content in before.items())


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture(scope='module')
def longer(swept, tmp_path_factory):
    """The folder of a `LONGER` run, evaluated only at its start and end: evaluating changes no weight."""
    folder = tmp_path_factory.mktemp('longer') / 'run'
    assert run_script('train_with_eval.py', 'config/train_math_mini_14.py', **{
        **SHARED, **LONGER, 'eval_interval': 400, 'out_dir': folder,
        'dataset': swept[0] / 'data' / 'as_math'}) == 0
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='orphans are told to stop on Linux only')
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_in_the_middle_goes_on_and_leaves_no_process(command, longer, tmp_path, how):
    path = sweep_file(tmp_path, **LONGER)
    # For SIGKILL, the sweep starts new interpreters, as a user's sweep does.
    sweep = Training(tmp_path / 'log', {}, forked_sweeps().__enter__, fresh=how == signal.SIGKILL,
                     script='sweep.py', args=(path, f'--sweeps_dir={tmp_path}'))
    run = tmp_path / 'tiny' / 'train_math_mini_14' / 'seed_1337'
    wait_for(lambda: (run / 'results.csv').exists()
             and len((run / 'results.csv').read_text().splitlines()) > 3)
    child = int(next(Path(f'/proc/{sweep.pid}/task/{task}/children').read_text().split()[0]
                     for task in os.listdir(f'/proc/{sweep.pid}/task')
                     if Path(f'/proc/{sweep.pid}/task/{task}/children').read_text()))
    sweep.kill(how)
    assert sweep.wait(60) == (-how if how == signal.SIGKILL else 128 + how), sweep.said()
    wait_for(lambda: not alive(child))
    at = len((run / 'results.csv').read_text().splitlines())
    assert at < 22
    with forked_sweeps():
        again = command('sweep.py', path, f'--sweeps_dir={tmp_path}')
    assert again.status == 0, again.err
    assert same_weights(run, longer)


@pytest.mark.slow
def test_two_sweeps_at_once_leave_what_one_leaves(swept, tmp_path):
    """Their jobs overlap: one sweep trains single seeds, the other both seeds together."""
    path = sweep_file(tmp_path, num_seeds=2, n_embd=6)
    both = [Training(tmp_path / f'log {n}', {}, forked_sweeps().__enter__, script='sweep.py',
                     args=(path, f'--sweeps_dir={tmp_path}', f'--replicas={n}', '--workers=1'))
            for n in (1, 2)]
    assert [sweep.wait() for sweep in both] == [0, 0]
    assert all('2 of 2 seeds finished' in sweep.said() for sweep in both)
    for seed in ('seed_1337', 'seed_1338'):
        assert same_weights(swept[0] / 'good_n_embd=6' / seed,
                            tmp_path / 'tiny' / 'train_math_mini_14' / seed)


def test_stopped_children_start_no_other(tmp_path):
    children = Children()
    children.stop()
    assert children.run([sys.executable, '-c', 'print(1)'], tmp_path / 'log', {})[0] != 0
    assert not (tmp_path / 'log').exists()


def test_bad_data_options_are_reported_as_failures(command, tmp_path):
    path = sweep_file(tmp_path, "data = {'heldout': ['1,99']}")
    with forked_sweeps():
        result = command('sweep.py', path, f'--sweeps_dir={tmp_path}')
    assert result.status in (1, 2) and 'heldout' in result.err and 'Traceback' not in result.err


# --- Ray

RAY_PROGRAM = '''
import os, sys, time, subprocess
# A node that was lost is noticed after five of these periods, of three seconds if not told otherwise.
os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_health_check_period_ms='1000')
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={{'num_cpus': 0, 'include_dashboard': False}})
nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
sweep = subprocess.Popen([sys.executable, {script!r}, {path!r}, '--sweeps_dir={folder}', '--engine=ray',
                          '--address=' + cluster.address], stderr=subprocess.PIPE, text=True)
def rows():
    import glob
    return [len(open(f).read().splitlines()) for f in glob.glob('{folder}/tiny/*/seed_*/results.csv')]
end = time.time() + 300
while len(rows()) < 2 or min(rows()) < 3:    # a run is under way on either node
    assert sweep.poll() is None, (rows(), sweep.stderr.read())
    assert time.time() < end, rows()
    time.sleep(0.05)
assert max(rows()) < 21, rows()
cluster.remove_node(nodes[0], allow_graceful=False)
_, err = sweep.communicate(timeout=300)
print(err, file=sys.stderr)
cluster.shutdown()
sys.exit(sweep.returncode)
'''


@pytest.mark.slow
def test_a_ray_cluster_loses_a_node_and_nothing_else(command, tmp_path):
    pytest.importorskip('ray')
    # Long enough that both nodes are training at the same time.
    path = sweep_file(tmp_path, "axes = {'n_embd': [5, 6]}", max_iters=4000, eval_interval=200,
                      lr_decay_iters=4000)
    program = tmp_path / 'program.py'
    program.write_text(RAY_PROGRAM.format(script=str(HERE / 'sweep.py'), path=str(path),
                                          folder=tmp_path / 'ray'))
    result = shell(program, cwd=tmp_path)
    assert result.status == 0, result.err[-2000:]
    with forked_sweeps():
        again = command('sweep.py', path, f'--sweeps_dir={tmp_path / "local"}')
    assert again.status == 0, again.err
    for name in ('n_embd=5', 'n_embd=6'):
        assert same_weights(*(tmp_path / where / 'tiny' / name / 'seed_1337' for where in ('ray', 'local')))
    processes = os.popen('ps -eo args').read()
    assert 'raylet' not in processes and str(tmp_path) not in processes
