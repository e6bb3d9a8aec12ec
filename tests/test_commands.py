"""Every command of the README as a user types it in a copy of the project, and what the shell sees."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import (
    DATASETS,
    HERE,
    TINY,
    contents,
    copy_project,
    load,
    options,
    project_files,
    run_script,
    shared,
    shell,
    start,
)
from tbtt.config import FIELDS
from tbtt.dataset import Dataset

SCRIPTS = [str(path) for path in project_files() if path.suffix == '.py'
           and path.parts[0] in (path.name, 'analysis', 'data')
           and "__name__ == '__main__'" in (HERE / path).read_text()]


@pytest.fixture(scope='session')
def clone(tmp_path_factory):
    """A fresh copy of the project, with the datasets prepared and two runs trained by the README's
    commands."""
    def make(root):
        copy_project(root, leave_out=('tests', 'results'))
        for name in DATASETS:
            assert run_script(f'data/{name}/prepare.py', root=root) == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            for name, dataset in (('math_mini_14', 'as_math'), ('facts_mini_28', 'facts_char')):
                assert run_script('train_with_eval.py', f'config/train_{name}.py', root=root,
                                  dataset=root / 'data' / dataset, **TINY) == 0
    return shared(tmp_path_factory, 'clone', make)


def succeed(clone, script, *args, cwd=None, **settings):
    """-> standard output of a command that succeeds"""
    result = shell(script, *args, cwd=cwd or clone, root=clone, **settings)
    assert result.status == 0, result.err
    return result.out


@pytest.fixture
def succeed_here(command, clone, monkeypatch):
    """succeed_here(script, *args) -> standard output of a command within the copy, in this process"""
    def run(script, *args):
        monkeypatch.chdir(clone)
        result = command(script, *args, root=clone)
        assert result.status == 0, result.err
        return result.out
    return run


@pytest.mark.slow
def test_tests_pass_after_training_in_the_clone(clone, tmp_path):
    """As after the quickstart: the folder holds a run, prepared data, sweeps and a user's own files."""
    root = copy_project(tmp_path / 'project')
    for name in ('math_mini_14', 'facts_mini_28', 'data/as_math'):
        shutil.copytree(clone / name, root / name, dirs_exist_ok=True)
    for name in ('sweeps/quick/n_embd=6/seed_1337/results.csv', 'results/mine/results.csv', 'mine.py',
                 'grid_math.png', 'out/ckpt.pt'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('of a user')
    before = contents(root)
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
                           'tests/test_commands.py', '-k', 'prepare_and_train or sample_as_in'], cwd=root,
                          capture_output=True, text=True)
    assert done.returncode == 0 and '2 passed' in done.stdout, done.stdout
    assert {name: content for name, content in contents(root).items() if '__pycache__' not in name} == before


def test_the_tests_see_what_git_tracks_and_nothing_beside_it(tmp_path):
    root = copy_project(tmp_path / 'project', leave_out=('results',))    # many large files
    files = project_files(root)
    assert {Path('model.py'), Path('tbtt/cli.py'), Path('data/as_math/prepare.py'),
            Path('tests/conftest.py')} <= set(files)
    for name in ('math_mini_14/ckpt.pt', 'another/ckpt.pt', 'data/as_math/train.bin',
                 'data/as_math/train.txt', 'sweeps/quick/summary.csv', 'tbtt/__pycache__/cli.pyc',
                 'corpus.txt.ngrams_0/index.json', 'plot.png'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert project_files(root) == files    # as downloaded, without .git
    if shutil.which('git'):
        for command in (['init', '-q'], ['add', *map(str, files)]):
            subprocess.run(['git', '-C', root, *command], check=True, capture_output=True)
        (root / 'mine.py').touch()
        (root / 'LICENSE').unlink(missing_ok=True)
        assert set(project_files(root)) == set(files) - {Path('LICENSE')}


def test_prepare_and_train_leave_what_the_readme_says(clone):
    for name in DATASETS:
        assert {'train.bin', 'val.bin', 'train.txt', 'val.txt',
                'meta.pkl'} <= set(contents(clone / 'data' / name))
    assert {'ckpt.pt', 'ckpt_best_math.pt', 'results.csv',
            'run.json'} <= set(contents(clone / 'math_mini_14'))
    assert {'ckpt.pt', 'ckpt_best_facts.pt', 'results.csv',
            'run.json'} <= set(contents(clone / 'facts_mini_28'))
    assert not (clone / 'facts_mini_28/ckpt_best_math.pt').exists()


def test_plot_results_as_in_the_readme(succeed_here, clone):
    before = set(contents(clone))
    succeed_here('plot_results.py', '--model_folder', 'math_mini_14')
    assert any(name.endswith('.png') for name in set(contents(clone)) - before)


@pytest.mark.slow
def test_plot_all_models_as_in_the_readme(succeed_here, clone):
    succeed_here('plot_all_models.py')
    assert {'grid_math.png', 'grid_facts.png', 'grid_combined.png'} <= set(contents(clone))


def test_make_tables_as_in_the_readme(succeed_here, clone):
    assert '| n14' in succeed_here('analysis/make_tables.py')


def test_sample_as_in_the_readme(succeed_here):
    out = succeed_here('sample.py', '--out_dir=math_mini_14', '--num_samples=5', '--max_new_tokens=3',
                       '--ckpt=ckpt_best_math.pt', '--start=<7-5')
    samples = out.removesuffix('---------------\n').split('\n---------------\n')
    assert len(samples) == 5 and all(sample.startswith('<7-5') and len(sample.rstrip('\n')) <= 7
                                     for sample in samples)


def test_eval_capitals_as_in_the_readme(succeed_here, clone):
    out = succeed_here('eval_capitals.py', '--out_dir=facts_mini_28')
    assert 'the USA: Washington' in out and '/500' in out


@pytest.mark.slow
def test_eval_as_math_from_another_folder_with_values_after_a_blank(clone, tmp_path):
    out = succeed(clone, 'eval_as_math.py', '--out_dir', clone / 'math_mini_14', cwd=tmp_path)
    assert 'addition' in out and '/1000' in out and '/40' in out and out.count('[') >= 4
    assert not contents(tmp_path)


@pytest.mark.slow
def test_training_from_another_folder_writes_there_and_finds_data_and_configs_beside_the_scripts(
        clone, tmp_path):
    before = contents(clone)
    settings = [part for option in options(TINY) for part in option.split('=')]
    succeed(clone, 'train_with_eval.py', 'config/train_both_mini_14.py', *settings, cwd=tmp_path)
    assert {'ckpt_best_math.pt', 'ckpt_best_facts.pt', 'ckpt_best_combined.pt', 'results.csv'} <= set(
        contents(tmp_path / 'both_mini_14'))
    assert {name for name in contents(clone) if '__pycache__' not in name} == {
        name for name in before if '__pycache__' not in name}


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_cleanly_with_everything_saved(command, small_math, tmp_path, number):
    settings = TINY | dict(dataset=small_math, out_dir=tmp_path / 'run', max_iters=10**6)
    process = start('train_with_eval.py', cwd=tmp_path, **settings)
    assert any(line.startswith('iter     10:') for line in process.stdout)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and 'Traceback' not in err
    assert len(err.splitlines()) == 1 and '--init_from=resume' in err
    reached = load(tmp_path / 'run/ckpt.pt')['iter_num']
    assert reached >= 10
    result = command('train_with_eval.py', init_from='resume', **settings | dict(max_iters=reached + 10))
    assert result.status == 0 and load(tmp_path / 'run/ckpt.pt')['iter_num'] == reached + 10


@pytest.mark.slow_after_first
@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_without_its_packages_names_the_command_that_installs_them(script, tmp_path):
    # -S: like a Python without installed packages
    command = [sys.executable, '-S', HERE / script, '--help']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == '', done
    assert re.fullmatch(r'error: this Python lacks the package \w+: .+\n', done.stderr), done.stderr
    assert 'requirements.txt' in done.stderr or '.venv/bin/activate' in done.stderr


SLOW_IMPORT = """
import os, signal, sys, time
class Interrupt:    # stands for a user who presses Ctrl-C while a large package is imported
    def find_spec(self, name, *_):
        if name in ('numpy', 'torch'):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.slow_after_first
@pytest.mark.parametrize('script', SCRIPTS)
def test_ctrl_c_during_the_imports_leaves_no_traceback(script, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(SLOW_IMPORT)
    done = subprocess.run([sys.executable, HERE / script, '--help'], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert done.returncode == -signal.SIGINT and (done.stdout, done.stderr) == ('', ''), done


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_script_explains_itself(command, script):
    result = command(script, '--help')
    assert result.status == 0 and result.err == ''
    assert 'usage:' in result.out and f'python {script}' in result.out


def test_help_names_every_setting_with_its_default(command):
    out = command('train_with_eval.py', '--help').out
    assert all(f'--{name} ' in out and repr(field.default) in out for name, field in FIELDS.items())


@pytest.mark.slow
def test_help_of_a_real_process_ends_well(tmp_path):
    assert shell('sample.py', '--help', cwd=tmp_path).status == 0


# test_config.py checks the settings of each file.
@pytest.mark.slow_after_first
@pytest.mark.parametrize('twin', ['', '_wd'])
@pytest.mark.parametrize('model', ['mini_14', 'mini_28', 'mini_56', 'mlt'])
@pytest.mark.parametrize('task, dataset', [('math', 'as_math'), ('facts', 'facts_char'),
                                           ('both', 'both_math_and_facts')])
def test_every_config_of_the_paper_trains(command, datasets, tmp_path, monkeypatch, task, dataset, model,
                                          twin):
    monkeypatch.chdir(tmp_path)
    smaller = dict(n_layer=2, n_embd=12) if model == 'mlt' else {}
    result = command('train_with_eval.py', f'config/train_{task}_{model}{twin}.py', dataset=datasets[dataset],
                     max_iters=1, batch_size=4, eval_iters=1, device='cpu', compile=False, **smaller)
    assert result.status == 0, result.err
    best = {'math': {'math'}, 'facts': {'facts'}, 'both': {'math', 'facts'}}[task] | {'combined'}
    folder = tmp_path / f'{task}_{model}{twin}'
    assert {path.name for path in folder.glob('ckpt_best_*')} == {f'ckpt_best_{score}.pt' for score in best}


@pytest.mark.slow_after_first
@pytest.mark.parametrize('model', ['mini_14', 'mini_28', 'mini_56'])
@pytest.mark.parametrize('task', ['facts_skewed', 'both_skewed'])
def test_a_config_with_frequencies_trains_and_its_checkpoints_know_them(command, datasets, tmp_path,
                                                                            monkeypatch, task, model):
    monkeypatch.chdir(tmp_path)
    # few windows for the losses, to save time
    settings = dict(dataset=datasets[task], device='cpu', compile=False, batch_size=4, eval_iters=1)
    result = command('train_with_eval.py', f'config/train_{task}_{model}.py', max_iters=1, **settings)
    assert result.status == 0, result.err
    described = load(tmp_path / f'{task}_{model}/ckpt.pt')['meta']['tasks']
    assert described == Dataset(datasets[task], 24).meta['tasks'] and len(described['facts']['repeats']) == 50
    assert command('eval_capitals.py', out_dir=f'{task}_{model}').status == 0


def test_key_value_config_and_default_come_in_that_order(command, small_math, tmp_path):
    (tmp_path / 'one.py').write_text('n_embd = 12\nseed = 5\nlearning_rate = 1\nmin_lr = 0\n')
    (tmp_path / 'two.py').write_text('import math\nfrom math import pi as _pi\nseed = 2 * 3\n')
    result = command('train_with_eval.py', tmp_path / 'one.py', tmp_path / 'two.py', '--n_embd', '10',
                     dataset=small_math, out_dir=tmp_path / 'run', **TINY | dict(max_iters=0))
    assert result.status == 0, result.err
    config = load(tmp_path / 'run/ckpt.pt')['config']
    assert (config['n_embd'], config['seed'], config['learning_rate'], config['n_head']) == (10, 6, 1.0, 1)
    assert type(config['learning_rate']) is float


# What a shell does to a script's arguments, streams and environment.

def test_the_home_is_meant_by_a_tilde_behind_an_equals_sign(command, learned, small_math, tmp_path,
                                                            monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(learned, tmp_path / 'run')
    shutil.copytree(small_math, tmp_path / 'data')
    assert command('plot_results.py', model_folder='~/run', output='~/plot.png').status == 0
    assert command('train_with_eval.py', dataset='~/data', out_dir='~/new',
                   **TINY | dict(max_iters=0)).status == 0
    assert command('eval_as_math.py', out_dir='~/new').status == 0
    assert command('data/as_math/prepare.py', out_dir='~/prepared').status == 0
    (tmp_path / 'mine.py').write_text("out_dir = '~/second'\n")
    assert command('train_with_eval.py', 'mine.py', dataset='~/data', **TINY | dict(max_iters=0)).status == 0
    # matplotlib keeps hidden caches in the home folder
    made = {path.name for path in tmp_path.iterdir() if not path.name.startswith('.')}
    assert made == {'run', 'data', 'plot.png', 'new', 'prepared', 'mine.py', 'second'}


def test_a_prompt_keeps_its_tilde(command, learned):
    assert "character '~'" in command('sample.py', out_dir=learned, start='~/').err


def at_a_shell(text, cwd, **variables):
    return subprocess.run(['bash', '-c', text], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **variables})


@pytest.mark.slow
def test_a_backend_for_plots_that_is_not_there_does_no_harm(learned, tmp_path):
    """A notebook exports its own backend to every process that it starts."""
    backend = 'module://matplotlib_inline.backend_inline'
    done = at_a_shell(f'{sys.executable} {HERE}/plot_results.py --model_folder {learned} --output=plot.png',
                      tmp_path, MPLBACKEND=backend)
    assert done.returncode == 0 and (tmp_path / 'plot.png').exists(), done.stderr


@pytest.mark.slow_after_first
@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&-', '>&- 2>&- <&-'])
def test_a_closed_stream_does_no_harm(tmp_path, closed):
    done = at_a_shell(f'{sys.executable} {HERE}/analysis/make_tables.py --root_dir={HERE}/results {closed}',
                      tmp_path)
    assert (done.returncode, done.stderr) == (0, '')


def test_no_file_is_opened_in_place_of_a_closed_stream(tmp_path):
    code = ("from tbtt.startup import open_missing_streams; open_missing_streams(); "
            "print(open('file', 'w').fileno(), end='')")
    done = at_a_shell(f'{sys.executable} -c "{code}; import sys; sys.exit(open(\'file\').fileno())" >&- 2>&-',
                      tmp_path, PYTHONPATH=str(HERE))
    assert done.returncode == 3


@pytest.mark.slow
def test_an_error_is_an_error_where_nobody_can_read_it(tmp_path):
    script = f'{sys.executable} {HERE}/analysis/make_tables.py --root_dir=nowhere'
    assert at_a_shell(f'{script} 2>&-', tmp_path).returncode == 2
    assert at_a_shell(f'{script} 2> /dev/full', tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full on this system')
def test_a_full_disk_behind_the_output_is_one_line(tmp_path):
    script = f'{sys.executable} {HERE}/analysis/make_tables.py --root_dir={HERE}/results'
    done = at_a_shell(f'{script} > /dev/full', tmp_path)
    assert (done.returncode,
            done.stderr) == (2, 'error: the output cannot be written: No space left on device\n')


# Scoring and sampling.

def test_json_of_the_arithmetic_evaluator_says_what_the_table_says(command, learned):
    found = json.loads(command('eval_as_math.py', '--json', out_dir=learned).out)
    table = command('eval_as_math.py', out_dir=learned).out
    for group, name in (('add', 'addition'), ('sub', 'subtraction'), ('heldout', 'held-out')):
        assert f'{name}: {found[group]["correct"]}/{found[group]["total"]} ' in table
    assert found['parameters'] > 0 and found['iteration'] > 0
    assert found['checkpoint'].endswith('ckpt_best_math.pt')
    assert len(found['expressions']) == 50
    answered = sum(e['correct'] >= 6 for e in found['expressions'] if e['heldout'])
    assert found['heldout_answered'] == answered and f'{answered} of 4 questions' in table
    assert sum(e['correct']
               for e in found['expressions']) == found['add']['correct'] + found['sub']['correct']
    held = {e['prompt'] for e in found['expressions'] if e['heldout']}
    assert held == {'<1+3=', '<3+1=', '<1-3=', '<3-1='}
    assert all((e['wrong'] is None) == (e['correct'] == 10) for e in found['expressions'])


def test_a_model_that_has_learned_nothing_is_scored_on_one_screen(command, clone):
    wrong = [e for e in json.loads(command('eval_as_math.py', '--json',
                                           out_dir=clone / 'math_mini_14').out)['expressions']
             if e['wrong'] is not None]
    lines = command('eval_as_math.py', out_dir=clone / 'math_mini_14').out.splitlines()
    shown = sum('was answered' in line for line in lines)
    assert len(wrong) > 100 and 0 < shown < 10 and len(lines) < 45
    assert f'{len(wrong) - shown} more expressions were answered wrongly' in lines[-5]


def test_the_table_has_a_cell_for_every_expression(command, learned):
    found = json.loads(command('eval_as_math.py', '--json', out_dir=learned).out)
    rows = [line.split() for line in command('eval_as_math.py', out_dir=learned).out.splitlines()]
    cells = [row[1:] for row in rows if len(row) == 6 and row[0] in '01234' and row[0] != 'a']
    expected = [f'[{e["correct"]}]' if e['heldout'] else str(e['correct']) for e in found['expressions']]
    assert sum(cells, []) == expected


def test_json_of_the_capitals_evaluator_says_what_the_list_says(command, clone):
    found = json.loads(command('eval_capitals.py', '--json', out_dir=clone / 'facts_mini_28').out)
    assert found['facts']['total'] == 500 and len(found['answers']) == 50
    assert {'country': 'the UK', 'capital': 'London'}.items() <= next(
        answer.items() for answer in found['answers'] if answer['country'] == 'the UK')


def samples(command, folder, **more):
    result = command('sample.py', out_dir=folder,
                     **dict(start='<1+1=', num_samples=6, max_new_tokens=20) | more)
    assert result.status == 0, result.err
    return result.out.split('---------------\n')[:-1]


def test_samples_start_with_the_prompt_and_have_the_length_asked_for(command, learned):
    found = samples(command, learned)
    assert len(found) == 6 and {len(sample) for sample in found} == {5 + 20 + 1}
    assert all(sample.startswith('<1+1=') for sample in found) and '<1+1=2>' in ''.join(found)


def test_a_prompt_may_come_from_a_file(command, learned, tmp_path):
    (tmp_path / 'prompt.txt').write_text('<1+1=')
    assert samples(command, learned, start=f'FILE:{tmp_path / "prompt.txt"}') == samples(command, learned)


def test_samples_depend_on_the_seed(command, learned):
    assert samples(command, learned, seed=1) == samples(command, learned, seed=1) != samples(command, learned,
                                                                                             seed=2)
    assert len(set(samples(command, learned, temperature=3.0))) > 1 == len(set(samples(command, learned,
                                                                                       top_k=1)))


def test_the_default_prompt_is_a_newline(command, learned):
    result = command('sample.py', out_dir=learned, num_samples=1, max_new_tokens=3)
    assert result.status == 0 and result.out.startswith('\n')
