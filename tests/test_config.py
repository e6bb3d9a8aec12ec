"""Settings: the values that config files give, how files build on each other, and which values are valid."""
import dataclasses
import json
import re
import time

import pytest

from conftest import HERE, TINY
from tbtt.cli import UserError
from tbtt.config import FIELDS, GROUPS, Config, ConfigFile, load_config, names_in
from tbtt.nanogpt import DEFAULTS
from tbtt.paper import published, run_name
from tbtt.results import read_info

# All settings of each config file as they were when the files still stated them one by one.
SETTINGS = json.loads((HERE / 'tests/settings.json').read_text())
CONFIGS = sorted(HERE.glob('config/train_*.py'))


def resolved(*files, **overrides):
    """{name: value} of all settings that result from files and overrides."""
    return dataclasses.asdict(load_config([str(path) for path in files], overrides))


@pytest.mark.parametrize('name', SETTINGS['configs'])
def test_a_config_file_means_what_it_always_meant(name):
    expected = SETTINGS['defaults'] | SETTINGS['configs'][name]
    found = resolved(HERE / f'config/{name}.py')
    assert {setting: found[setting] for setting in expected} == expected


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_states_only_what_differs_from_its_base(path):
    base = ConfigFile.read(path).base
    before = resolved(base) if base else dataclasses.asdict(Config())
    stated = names_in(path, {})
    assert stated.pop('base', None) == base
    assert not [name for name, value in stated.items() if value == before[name]]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_opens_with_what_was_found_and_how_long_it_took(path):
    lines = path.read_text().splitlines()
    assert [line.startswith(f'# {word}') for word, line in zip(('', 'Ours: ', 'Time: '), lines)] == [True] * 3


@pytest.mark.parametrize('task, model', published())
def test_a_config_file_states_the_papers_numbers(task, model):
    row = published()[task, model]
    first = (HERE / f'config/train_{run_name(task, model)}.py').read_text().splitlines()[0]
    columns = ('addition_pct', 'subtraction_pct', 'facts_pct')
    numbers = [f'{row[column]}%' for column in columns if row[column]]
    numbers += [f'{row["heldout_correct"]}/{row["heldout_total"]}'] if row['heldout_total'] else []
    assert first.startswith(f'# Table {row["table"]}, row {model} (')
    assert re.findall(r'[\d.]+%|\d+/\d+', first) == numbers


def test_what_a_file_imports_is_its_own_and_what_it_sets_is_given_even_where_it_is_the_default(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('from math import sqrt\nfrom pathlib import Path\n'
                    'n_layer = 1\nseed = int(sqrt(1337**2))\n')
    assert load_config([str(path)], {}).given == {'n_layer', 'seed'}


# Files that build on others.

@pytest.fixture
def write(tmp_path):
    """write(name, text) -> path of a config file"""
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
    return write


def refusal(*files, **overrides):
    """The one line that says why these settings are refused."""
    with pytest.raises(UserError) as refused:
        resolved(*files, **overrides)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_a_base_is_read_first_and_the_file_states_what_differs(write):
    write('root.py', 'n_embd = 28\nmax_iters = 6000\nseed = 3')
    write('middle.py', "base = 'root.py'\nseed = 4\nlr_decay_iters = max_iters // 2")
    found = resolved(write('leaf.py', "base = 'middle.py'\nn_embd = 14    # back to the default"))
    expected = dict(n_embd=14, max_iters=6000, seed=4, lr_decay_iters=3000)
    assert {name: found[name] for name in expected} == expected


def test_a_base_is_looked_for_beside_the_file_then_in_the_project(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write('below/leaf.py', "base = 'config/train_both_mlt.py'")
    assert resolved(path)['n_embd'] == 384
    write('below/mine.py', 'n_embd = 56')
    path.write_text("base = 'mine.py'")
    assert resolved(path)['n_embd'] == 56


@pytest.mark.parametrize('files, says', [
    ({'a.py': "base = 'a.py'"}, 'a.py: its base a.py'),
    ({'a.py': "base = 'b.py'", 'b.py': "base = 'c.py'", 'c.py': "base = './a.py'"}, 'c.py: its base ./a.py'),
    ({'a.py': "base = 'nowhere.py'"}, 'a.py: base: no config file nowhere.py'),
    ({'a.py': "base = 'b.py'", 'b.py': 'n_embd = 1 / 0'}, 'b.py, line 1: ZeroDivisionError'),
    ({'a.py': "base = 'b.py'", 'b.py': 'n_embdd = 1'}, 'b.py: unknown setting n_embdd: did you mean n_embd?'),
    ({'a.py': 'base = 7'}, 'a.py: base=7'), ({'a.py': "base = {'math': 'b.py'}"}, 'a.py: base'),
    ({'a.py': "base = 'b' + '.py'", 'b.py': ''}, 'a.py: base'),
    ({'a.py': "if True:\n    base = 'b.py'", 'b.py': ''}, 'a.py: base'),
    ({'a.py': "base = '\\0'"}, 'a.py: base'),
    ({'a.py': 'import numpy\nbase = numpy.zeros(2)'}, 'a.py: base')])
def test_a_base_that_cannot_be_is_named_in_one_line(write, files, says):
    paths = [write(name, text) for name, text in files.items()]
    assert says in refusal(paths[0])


# nanoGPT's files, and those of the paper's code.

SHAKESPEARE = """import time
out_dir = 'characters'
always_save_checkpoint = False
wandb_run_name = 'run of ' + str(time.time())
dataset = 'shakespeare_char'
gradient_accumulation_steps = 1
n_layer, n_head, n_embd = 6, 6, 384
learning_rate = 1e-3
min_lr = learning_rate / 10
max_iters = lr_decay_iters = 5000
warmup_iters = 100
"""
PAPERS = """out_dir = 'math_mini_14'
eval_interval = 500
full_eval_interval = 250
always_save_checkpoint = False
full_eval = True
dataset = 'as_math'
gradient_accumulation_steps = 1
batch_size = 882
block_size = 9
weight_decay = 0
n_layer = 1
n_head = 1
n_embd = 14
dropout = 0.0
mlp_expansion = 1
learning_rate = 0.01
max_iters = 30000
lr_decay_iters = 25000
min_lr = 0.0001
beta2 = 0.99
"""


def test_a_file_of_nanogpts_stands_on_its_defaults_and_says_so(write):
    path, said = write('theirs.py', SHAKESPEARE), []
    config = load_config([path], {}, say=said.append)
    assert (config.mlp_expansion, config.weight_decay, config.beta2, config.batch_size) == (4, 0.1, 0.95, 12)
    assert (config.block_size, config.n_layer, config.warmup_iters, config.min_lr) == (1024, 6, 100, 1e-4)
    assert len(said) == 2 and 'nanoGPT' in said[0] and f'{path}: always_save_checkpoint' in said[1]


def test_a_file_of_the_papers_code_is_our_run(write):
    said = []
    config = load_config([write('theirs.py', PAPERS)], {}, say=said.append)
    ours = load_config([HERE / 'config/train_math_mini_14.py'], {})
    machine = dict(log_interval=1, wandb_project='owt', wandb_run_name='gpt2')
    assert config == dataclasses.replace(ours, **machine)
    assert 'full_eval_interval is eval_interval here; always_save_checkpoint, full_eval: ' in said[1]


@pytest.mark.parametrize('text, interval', [
    ('full_eval_interval = 50', 50), ('full_eval = False\nfull_eval_interval = 50', 2000),
    ('full_eval = True\neval_interval = 70', 70), ("backend = 'gloo'", 2000)])
def test_the_interval_of_scores_is_the_interval_of_evaluations(write, text, interval):
    assert resolved(write('theirs.py', text))['eval_interval'] == interval


def test_our_files_say_nothing_and_stand_on_our_defaults(write):
    said = []
    load_config([write('plain.py', 'n_layer = 2')], {}, say=said.append)
    assert not said


def test_defaults_can_be_asked_for(write):
    plain = write('plain.py', 'n_layer = 2\nn_head = 3')
    theirs = write('theirs.py', "n_layer = 2\nbackend = 'nccl'")
    config = load_config([plain], {}, defaults='nanogpt')
    assert config == dataclasses.replace(Config(**DEFAULTS), n_layer=2, n_head=3)
    assert load_config([theirs], {}, defaults='tbtt') == dataclasses.replace(Config(), n_layer=2)


def test_a_file_that_builds_on_ours_stands_on_our_defaults(write):
    path = write('mixed.py', "base = 'config/train_math_mini_28.py'\nalways_save_checkpoint = True")
    assert resolved(path) == resolved(HERE / 'config/train_math_mini_28.py')


def test_weights_that_nobody_has_are_refused(write):
    said = refusal(write('finetune.py', "init_from = 'gpt3'"))
    assert "init_from='gpt3': expected one of scratch, resume, gpt2, gpt2-medium" in said


def test_a_script_says_what_it_reads_otherwise(command, small_math, write, tmp_path):
    small = dict(TINY, max_iters=0, dataset=small_math, out_dir=tmp_path / 'run', n_layer=1, n_embd=12)
    result = command('train_with_eval.py', write('theirs.py', SHAKESPEARE), **small, block_size=8)
    assert result.status == 0, result.err
    assert 'always_save_checkpoint' in result.out
    assert read_info(tmp_path / 'run')['config']['mlp_expansion'] == 4


# Limits.

NUMBERS = [field for field in FIELDS.values() if field.type in (int, float)]


@pytest.mark.parametrize('field', NUMBERS, ids=lambda field: field.name)
@pytest.mark.parametrize('digits', [39, 5000])    # Python refuses to print a number of 5000 digits
def test_every_number_has_an_upper_limit_that_the_message_states(field, digits):
    said = refusal(**{field.name: 10**digits})
    assert field.name in said and f'at most {field.metadata["high"]:,}' in said and len(said) < 200


@pytest.mark.parametrize('option', [
    '--num_seeds=1000000', '--n_layer=1000000', '--n_embd=1000000000', '--batch_size=1000000000000',
    f'--max_iters={10**30}', f'--learning_rate={10**300}'])
def test_a_number_beyond_all_measure_is_answered_at_once(command, option):
    began = time.monotonic()
    result = command('train_with_eval.py', 'config/train_math_mini_14.py', option)
    assert result.status == 2 and len(result.err.splitlines()) == 1 and option[2:].split('=')[0] in result.err
    assert time.monotonic() - began < 5


def test_no_seed_lies_beyond_the_last_one():
    assert 'no seed above 2,147,483,647' in refusal(seed=2**31 - 2, num_seeds=3)


# Help.

def test_help_has_groups_and_lists_choices(command):
    out = command('train_with_eval.py', '--help').out
    assert all(f'\n{title}:\n' in out for title in GROUPS.values())
    assert all(f'--{field.name} {{{",".join(field.metadata["choices"])}}}' in out
               for field in FIELDS.values() if field.metadata['choices'])


# The project's metadata.

def test_metadata_and_citation_state_one_version():
    stated = {re.search(r'^version[ :=]+"?([\d.]+)', (HERE / name).read_text(), re.MULTILINE)[1]
              for name in ('pyproject.toml', 'CITATION.cff')}
    assert len(stated) == 1
