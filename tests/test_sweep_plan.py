"""The plan of a sweep: it is made quickly and leaves nothing behind, and a mistake gets a helpful message."""
import csv
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch

from chaos import forked_sweeps
from conftest import TINY, contents
from tbtt.cli import UserError
from tbtt.results import format_results
from tbtt.sweep.plan import MOST, Sweep
from tbtt.sweep.summary import write_summary


def sweep_file(folder, text):
    path = folder / 'sweep_tiny.py'
    settings = [f'{name} = {value!r}' for name, value in {**TINY, 'compile': 'False'}.items()]
    path.write_text('\n'.join(["base = 'config/train_math_mini_14.py'", *settings, text, '']))
    return path


@pytest.mark.slow_after_first
@pytest.mark.parametrize('words', [['--num_seeds', '3'], ['--num_seeds=3']])
@pytest.mark.parametrize('file_first', [True, False])
def test_a_value_may_stand_behind_a_blank_or_an_equals_sign(command, tmp_path, words, file_first):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}\ndata = {'heldout': ['5,7', '1,2']}")
    words = [*words, '--n_embd', '4', '--heldout', '1,2']
    with forked_sweeps():
        result = command('sweep.py', *([path, *words] if file_first else [*words, path]), '--dry_run',
                         sweeps_dir=tmp_path / 'sweeps')
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 2
    assert result.out.startswith('n_embd=4_heldout=1,2, seeds 1337 to 1339 ')


def test_a_dry_run_leaves_nothing_behind(command, tmp_path):
    path = sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}")
    before, threads = contents(tmp_path), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with forked_sweeps():
            result = command('sweep.py', path, '--dry_run', sweeps_dir=tmp_path / 'sweeps')
        assert result.status == 0 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path) == before


def test_an_axis_may_be_a_range(tmp_path):
    sweep = Sweep(sweep_file(tmp_path, "axes = {'n_embd': range(4, 8)}"), {}, tmp_path)
    assert [run.config().n_embd for run in sweep.runs] == [4, 5, 6, 7]


@pytest.mark.parametrize('text, says', [
    ("axes = {'n_embd': 4}", r'n_embd: expected a list of values, such as \[1, 2\], got 4'),
    ("axes = {'n_embd': range(4, 4)}", 'at least one value')])
def test_an_axis_that_is_no_list_is_named(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        Sweep(sweep_file(tmp_path, text), {}, tmp_path)


HUGE = {'seeds': ('', {'num_seeds': str(MOST + 1)}), 'one axis': ("axes = {'max_iters': range(10**12)}", {}),
        'several axes': ("axes = {'n_embd': range(1, 1001), 'max_iters': range(1000),\n"
                         "        'eval_interval': range(1, 201)}", {}),
        'combinations with seeds': (f"axes = {{'n_embd': [4, 6]}}\nnum_seeds = {MOST // 2 + 1}", {})}


@pytest.mark.parametrize('text, overrides', HUGE.values(), ids=HUGE)
def test_a_sweep_that_would_never_end_is_refused_at_once(tmp_path, text, overrides):
    begin = time.process_time()
    with pytest.raises(UserError, match='trainings: ask for fewer|num_seeds='):
        Sweep(sweep_file(tmp_path, text), overrides, tmp_path)
    assert time.process_time() - begin < 2


@pytest.mark.slow
def test_ten_thousand_combinations_are_planned_in_seconds(tmp_path):
    text = "axes = {'n_embd': range(1, 101), 'max_iters': range(100)}\nnum_seeds = 3"
    begin = time.process_time()
    sweep = Sweep(sweep_file(tmp_path, text), {}, tmp_path)
    assert len(sweep.jobs(8)) == 10_000 and time.process_time() - begin < 10


def test_a_config_file_is_executed_once_a_sweep(tmp_path):
    (tmp_path / 'base.py').write_text(f'open({str(tmp_path / "log")!r}, "a").write("read ")\nn_embd = 6\n')
    path = tmp_path / 'sweep_one.py'
    path.write_text(f"base = {str(tmp_path / 'base.py')!r}\naxes = {{'max_iters': range(20)}}\n")
    assert len(Sweep(path, {}, tmp_path).runs) == 20
    assert (tmp_path / 'log').read_text() == 'read '


@pytest.mark.parametrize('error', ['RayError', 'ConnectionError'])    # without a token, and with a wrong one
def test_a_ray_cluster_that_refuses_our_token_is_one_line(command, tmp_path, monkeypatch, error):
    ray, exceptions = ModuleType('ray'), SimpleNamespace(RayError=type('RayError', (Exception,), {}))
    ray.exceptions = exceptions
    kind = {'RayError': exceptions.RayError, 'ConnectionError': ConnectionError}[error]

    def init(**_):
        raise kind('Failed to connect:\nUnauthenticated')

    ray.init = init
    monkeypatch.setitem(sys.modules, 'ray', ray)
    for name in ('RAY_USAGE_STATS_ENABLED', 'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO'):
        monkeypatch.setenv(name, '')    # the script sets them
    result = command('sweep.py', sweep_file(tmp_path, ''), '--engine=ray', '--num_seeds=1',
                     sweeps_dir=tmp_path / 'sweeps')
    assert result.status == 2 and result.err.count('\n') == 1 and 'Unauthenticated' in result.err
    assert 'RAY_AUTH_TOKEN' in result.err


def summary_row(folder):
    return {'run': 'n_embd=6', 'folder': f'n_embd=6/{folder}', 'seed': 1337}


def test_rows_of_seeds_that_are_gone_leave_the_summary(tmp_path):
    path = tmp_path / 'summary.csv'
    for seed in ('seed_1', 'seed_2'):
        (tmp_path / 'n_embd=6' / seed).mkdir(parents=True)
        (tmp_path / 'n_embd=6' / seed / 'results.csv').write_text(format_results([]))
    assert write_summary(path, [summary_row('seed_1'), summary_row('seed_2')]) == 2
    (tmp_path / 'n_embd=6/seed_1/results.csv').unlink()    # its folder stays, with a log in it
    assert write_summary(path, []) == 1
    with open(path, newline='') as file:
        assert [row['folder'] for row in csv.DictReader(file)] == ['n_embd=6/seed_2']
    (tmp_path / 'n_embd=6/seed_2/results.csv').unlink()
    assert write_summary(path, []) == 0 and not path.exists()
