"""The script for a SLURM array and the W&B sweep in docs/logging.md start what they should."""
import json
import os
import re
import subprocess
import sys

import pytest

import sweep
from conftest import HERE, TINY, run_script
from tbtt.sweep.plan import Sweep

PAGE = (HERE / 'docs/logging.md').read_text(encoding='utf-8')
# Imitates SLURM: runs each task of the array in turn. sbatch [--array=A-B] SCRIPT [ARGS]
SBATCH = '''#!/usr/bin/env bash
set -e
array=
case $1 in --array=*) array=${1#--array=}; shift ;; esac
array=${array:-$(sed -n 's/^#SBATCH --array=//p' "$1")}
export SLURM_ARRAY_JOB_ID=7 SLURM_SUBMIT_DIR=$PWD
export SLURM_ARRAY_TASK_MIN=${array%-*} SLURM_ARRAY_TASK_MAX=${array#*-}
export SLURM_ARRAY_TASK_COUNT=$((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1))
for task in $(seq "$SLURM_ARRAY_TASK_MIN" "$SLURM_ARRAY_TASK_MAX"); do
    (cd / && SLURM_ARRAY_TASK_ID=$task bash "$SLURM_SUBMIT_DIR/$1" "${@:2}")
done
'''
# Imitates Python: only logs its folder and arguments, a line of JSON for each call.
PYTHON = f'''#!{sys.executable}
import json, os, sys
with open(os.environ['ASKED'], 'a') as file:
    print(json.dumps([os.getcwd(), *sys.argv[1:]]), file=file)
'''


def block(kind, word):
    """The block of this kind in the page that contains `word`."""
    return next(text for text in re.findall(rf'```{kind}\n(.*?)```', PAGE, re.DOTALL) if word in text)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A project's folder in which python only logs. asked(command) -> [[folder, *arguments]], one per call"""
    for path, text in (('.venv/bin/python', PYTHON), ('bin/sbatch', SBATCH)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    (tmp_path / '.venv/bin/activate').write_text(f'PATH="{tmp_path}/.venv/bin:$PATH"\n')
    (tmp_path / 'array.sbatch').write_text(block('bash', '#SBATCH'))
    monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
    monkeypatch.setenv('ASKED', str(tmp_path / 'asked'))

    def run(*command, **variables):
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (tmp_path / 'asked').read_text().splitlines()]
    return run



@pytest.mark.parametrize('options, tasks', [([], 8), (['--array=0-2'], 3)])
def test_the_tasks_of_an_array_train_each_seed_of_a_sweep_once(asked, tmp_path, monkeypatch, options, tasks):
    commands = asked('sbatch', *options, 'array.sbatch', '--num_seeds=2')
    assert len(commands) == tasks and {folder for folder, *_ in commands} == {str(tmp_path)}
    found = []
    for _, script, *args in commands:
        monkeypatch.setattr(sys, 'argv', [script, *args])
        options, settings = sweep.read_arguments()
        plan = Sweep(options.sweep, settings)
        jobs = plan.jobs(8, options.shard)
        assert script == 'sweep.py' and settings == {'num_seeds': '2'} and jobs
        found += [(job.run.name, seed) for job in jobs for seed in job.seeds]
    whole = [(job.run.name, seed) for job in plan.jobs(8) for seed in job.seeds]
    assert sorted(found) == sorted(whole) and len(set(found)) == len(found)


@pytest.mark.slow
def test_a_sweep_of_wandb_trains_with_the_arguments_of_its_agent(asked, small_math, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    import yaml
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    plan = yaml.safe_load(block('yaml', 'parameters:'))
    chosen = dict(learning_rate=0.0123456789, n_embd=10, decay_lr=False, seed=1338)
    assert chosen.keys() == plan['parameters'].keys()
    words = create_sweep_command_args({'args': {name: {'value': value} for name, value in chosen.items()}})
    command = [word for part in create_sweep_command(plan['command'])
               for word in (words[part[2:-1]] if part.startswith('${') else [part])]
    monkeypatch.setenv('WANDB_RUN_ID', 'abcd1234')
    (_, script, *args), = asked(*command, PATH=f'{tmp_path}/.venv/bin:{os.environ["PATH"]}')
    monkeypatch.chdir(tmp_path)
    args[0] = HERE / args[0]
    assert run_script(script, *args, dataset=small_math, wandb_mode='disabled', **TINY) == 0
    about = json.loads((tmp_path / 'wandb_sweep/abcd1234/run.json').read_text())
    assert {name: about['config'][name] for name in chosen} == chosen and about['config']['wandb_log']
    header = (tmp_path / 'wandb_sweep/abcd1234/results.csv').read_text().splitlines()[0]
    assert plan['metric']['name'] in header.split(',')
