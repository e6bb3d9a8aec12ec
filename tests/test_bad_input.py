"""A user's mistake: one line on standard error that says what to do, exit status 2, and nothing changed on
disk."""
import copy
import importlib.util
import os
import pickle
import shutil
import zipfile

import filelock
import pytest
import torch

import tbtt.dataset
from conftest import DATASETS, TINY, contents, load, shell
from tbtt.config import FIELDS

TRAIN = 'train_with_eval.py'


class Exploit:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def is_one_line(err, says):
    return (err.startswith('error: ') and err.endswith('\n') and len(err.splitlines()) == 1 and len(err) < 500
            and all(word in err for word in says))


@pytest.fixture
def refused(command, tmp_path):
    """refused(script, *args, says=..., **settings): asserts that the script refuses, in a message that
    contains `says`."""
    def run(script, *args, says, status=2, **settings):
        before = contents(tmp_path)
        result = command(script, *args, **settings)
        assert result.status == status, (result.status, result.out, result.err)
        assert is_one_line(result.err, [says] if isinstance(says, str) else says), result.err
        assert contents(tmp_path) == before
        assert not (tmp_path / 'exploited').exists()
    return run


@pytest.fixture
def data(small_math, tmp_path):
    """A dataset that a test may damage."""
    return shutil.copytree(small_math, tmp_path / 'data')


@pytest.fixture
def declined(refused, data, tmp_path):
    """declined(*args, says=..., **settings): a training run that is refused."""
    def run(*args, says, **settings):
        refused(TRAIN, *args, says=says, **TINY | dict(dataset=data, out_dir=tmp_path / 'new') | settings)
        assert not (tmp_path / 'new').exists()
    return run


# Settings.

@pytest.mark.parametrize('args, says', [
    (['--n_embdd=14'], ['--n_embdd', 'did you mean --n_embd?']),
    (['--n_embdd', '14'], ['--n_embdd', 'did you mean --n_embd?']),
    (['--learning_rat=1'], 'did you mean --learning_rate?'),
    (['--xyzzy=1'], ['--xyzzy', '--help']),
    (['--n_embd'], ['--n_embd', 'expected one argument']),
    (['--n_embd=wide'], ['--n_embd', "'wide'", 'int']),
    (['--n_embd=14.5'], ['--n_embd', "'14.5'"]),
    (['--learning_rate=fast'], ['--learning_rate', "'fast'", 'float']),
    (['--bias=1'], ['--bias', 'True or False', "'1'"]),
    (['--bias=true'], ['--bias', 'True or False']),
    (['--compile=maybe'], ['compile', 'maybe', 'auto, True, False']),
    (['--dtype=float8'], ['dtype', 'float8', 'bfloat16']),
    (['--init_from=gpt3'], ['init_from', 'gpt3', 'scratch, resume, gpt2']),
    (['--device=tpu9'], ['device', 'tpu9']),
    (['--n_embd=14', '--n_head=3'], ['n_embd=14', 'n_head=3']),
    (['--block_size=414'], ['414', 'block_size=414']),
    (['--block_size=100000'], ['414', 'block_size=100000']),
    (['--learning_rate=nan'], ['learning_rate', 'finite']),
    (['--learning_rate=inf'], ['learning_rate', 'finite']),
    (['--dropout=1'], ['dropout', 'at most 0.999']),
    (['--beta2=1'], ['beta2', 'at most 0.9999999']),
    (['--min_lr=0.5'], ['min_lr=0.5', 'learning_rate=0.01']),
    (['--warmup_iters=30'], ['warmup_iters=30', 'lr_decay_iters=20']),
])
def test_a_wrong_setting_on_the_command_line(declined, args, says):
    declined(*args, says=says)


@pytest.mark.parametrize('name', [name for name, field in FIELDS.items() if field.type in (int, float)])
def test_a_negative_number_is_never_a_setting(declined, name):
    declined(f'--{name}=-1', says=[f'{name}=-1', 'expected'])


@pytest.mark.parametrize('name', ['n_layer', 'n_head', 'n_embd', 'mlp_expansion', 'block_size', 'batch_size',
                                  'num_seeds', 'eval_interval', 'eval_iters', 'log_interval',
                                  'gradient_accumulation_steps'])
def test_zero_where_there_must_be_one(declined, name):
    declined(f'--{name}=0', says=[f'{name}=0', 'at least 1'])


@pytest.mark.parametrize('text, says', [
    ('n_embdd = 14', ['n_embdd', 'did you mean n_embd?']),
    ('n_embd = 14.0', ['n_embd=14.0', 'int', 'float']),
    ("n_embd = '14'", ["n_embd='14'", 'int', 'str']),
    ('bias = 1', ['bias=1', 'bool', 'int']),
    ('seed = True', ['seed=True', 'int', 'bool']),
    ("learning_rate = '1e-3'", ["learning_rate='1e-3'", 'float', 'str']),
    ('out_dir = None', ['out_dir=None', 'str']),
    ('n_layer = 0', ['n_layer=0', 'at least 1']),
    ('seed = 1\nn_embd = = 14', ['line 2', 'invalid syntax']),
    ('if True:\nseed = 1', ['line 2', 'indent']),
    ('seed = 1\nn_embd = 1 / 0', ['ZeroDivisionError', 'line 2']),
    ('n_embd = width', ['NameError', 'width', 'line 1']),
    ('raise SystemExit(3)', ['SystemExit', 'line 1']),
    (b"out_dir = '\xff'", ['']),
    (b'\x00', ['']),
])
def test_a_wrong_config_file_is_named_with_the_line(declined, tmp_path, text, says):
    path = tmp_path / 'mine.py'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    declined(path, says=[str(path), *says])


@pytest.mark.parametrize('path', ['nowhere.py', 'config'])
def test_a_config_file_that_is_none(declined, path):
    declined(path, says=['no config file', path])


@pytest.mark.parametrize('name', ['wandb', 'tensorboard', 'trackio'])
def test_a_missing_package_is_named(declined, monkeypatch, name):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda package: None)
    declined(f'--{name}_log=True', says=f'pip install {name}')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('device', ['cuda', 'cuda:7', 'meta'])
def test_a_device_that_is_not_there(declined, device):
    declined(f'--device={device}', says=['device', device])


# Datasets.

@pytest.mark.parametrize('name', DATASETS)
def test_a_dataset_that_is_not_prepared_names_its_command(declined, monkeypatch, tmp_path, name):
    (tmp_path / 'data' / name).mkdir()
    (tmp_path / 'data' / name / 'prepare.py').touch()
    monkeypatch.setattr(tbtt.dataset, 'ROOT', tmp_path)
    declined(dataset=name, says=f'python {tmp_path}/data/{name}/prepare.py')


def test_a_dataset_that_does_not_exist(declined, tmp_path):
    declined(dataset='as_maths', says=['as_maths', 'as_math,'])
    declined(dataset=tmp_path / 'nowhere', says='nowhere')


@pytest.mark.parametrize('name', ['meta.pkl', 'train.bin', 'val.bin'])
def test_a_missing_file_of_a_dataset(declined, data, name):
    (data / name).unlink()
    declined(says=[str(data), 'prepare' if name != 'train.bin' else 'no dataset'])


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('change, says', [
    (lambda raw: raw[:-1], 'cut off'), (lambda raw: raw[:-18], 'cut off'), (lambda raw: b'', '0 tokens'),
    (lambda raw: raw[:18], '9 tokens'),
    (lambda raw: raw[:100] + b'\x10\x00' + raw[102:], 'token 16 at 50'),
    (lambda raw: raw + b'\xff\xff', 'token 65535')])
def test_a_damaged_bin_file(declined, data, split, change, says):
    path = data / f'{split}.bin'
    path.write_bytes(change(path.read_bytes()))
    declined(says=[str(path), says])


META = {'vocab_size': 2, 'stoi': {'a': 0, 'b': 1}, 'itos': {0: 'a', 1: 'b'}}


@pytest.mark.parametrize('meta', [
    b'', b'not a pickle', pickle.dumps(META)[:-5], [], {}, {'vocab_size': 2}, META | {'stoi': {}},
    META | {'itos': ['a']}, META | {'vocab_size': 1}, META | {'vocab_size': '2'},
    META | {'vocab_size': 10**9}, META | {'stoi': {'a': 0, 'b': 2}}, META | {'stoi': {'ab': 0}},
    META | {'itos': {0: 'a', 1: 'c'}}, META | {'stoi': {'a': [0]}}, META | {'tasks': 3},
    META | {'tasks': {'chess': {}}}, META | {'tasks': {'math': {'max_operand': 'many'}}},
    META | {'tasks': {'math': {'max_operand': 9, 'heldout': [[1, 70]]}}}, META | {'tasks': {'math': 7}},
    META | {'tasks': {'facts': {'facts': [['France']]}}}, META | {'tasks': {'facts': {'facts': 3}}},
    META | {'tasks': {'math': {'heldout': [[5, 7]] * 10**5}}}, META | {'itos': 'a' * 2**22},
    META | {'tasks': {'facts': {'repeats': [10**9] * 50}}},
    META | {'tasks': {'math': {'repeats': [-1] * 200}}},
    META | {'tasks': {'math': {}}},    # its characters are not in the vocabulary
], ids=lambda meta: repr(meta)[:100])
def test_a_damaged_meta(declined, data, meta):
    (data / 'meta.pkl').write_bytes(meta if isinstance(meta, bytes) else pickle.dumps(meta))
    for split in ('train', 'val'):
        (data / f'{split}.bin').write_bytes(b'\x00\x00' * 100)
    declined(says='')


def test_a_meta_with_other_frequencies_than_the_data(declined, datasets, tmp_path):
    folder = shutil.copytree(datasets['facts_skewed'], tmp_path / 'skewed')
    meta = pickle.loads((folder / 'meta.pkl').read_bytes())
    meta['tasks']['facts']['repeats'].reverse()
    (folder / 'meta.pkl').write_bytes(pickle.dumps(meta))
    declined(dataset=folder, says=['train.bin', 'its lines are not those that meta.pkl describes'])


def test_a_meta_that_would_run_code_is_not_loaded(declined, data, tmp_path):
    (data / 'meta.pkl').write_bytes(pickle.dumps(META | {'more': Exploit(tmp_path / 'exploited')}))
    declined(says=['meta.pkl', 'run'])


# Folders of runs.

@pytest.fixture
def goes_on(refused, small_math, copy_of_learned):
    """goes_on(says=..., **settings): resuming the run is refused."""
    def run(*args, says, status=2, **settings):
        args_of_run = dict(load(copy_of_learned / 'ckpt_best_math.pt')['config'])
        kept = {name: args_of_run[name] for name in FIELDS
                if name not in ('out_dir', 'init_from', 'wandb_run_name')}
        resumed = dict(out_dir=copy_of_learned, init_from='resume', max_iters=400)
        refused(TRAIN, *args, says=says, status=status, **kept | resumed | settings)
    return run


def test_a_folder_that_holds_another_run(refused, copy_of_learned, small_math):
    refused(TRAIN, says=['already holds a run', '--init_from=resume', '--overwrite=True'], dataset=small_math,
            out_dir=copy_of_learned, **TINY)


@pytest.mark.parametrize('name', ['results.csv', 'ckpt_best_facts.pt', 'seed_3/ckpt.pt'])
def test_a_folder_that_holds_anything_of_another_run(refused, small_math, tmp_path, name):
    (tmp_path / 'run/seed_3').mkdir(parents=True)
    (tmp_path / 'run' / name).touch()
    for seeds in (1, 3):
        refused(TRAIN, says='already holds a run', dataset=small_math, out_dir=tmp_path / 'run',
                num_seeds=seeds, **TINY)


def test_a_folder_that_is_a_file(refused, small_math, tmp_path):
    (tmp_path / 'file').touch()
    refused(TRAIN, says=str(tmp_path / 'file'), dataset=small_math, out_dir=tmp_path / 'file', **TINY)


@pytest.mark.parametrize('make', [lambda path: path.symlink_to('nowhere'), lambda path: path.touch()])
def test_a_folder_that_cannot_be_made(refused, small_math, tmp_path, make):
    make(tmp_path / 'run')
    refused(TRAIN, says=[str(tmp_path / 'run'), 'a folder is needed there'], dataset=small_math,
            out_dir=tmp_path / 'run', **TINY)


def test_a_summary_that_is_not_there(refused, tmp_path):
    refused('analysis/make_claims.py', tmp_path / 'summary.csv',
            says=[str(tmp_path / 'summary.csv'), 'sweep.py'])


def test_a_folder_into_which_another_training_writes(goes_on, copy_of_learned):
    with filelock.FileLock(copy_of_learned / '.lock'):
        goes_on(says='another training writes', status=75)


@pytest.mark.parametrize('settings, says', [
    (dict(n_embd=44), 'n_embd=48'), (dict(learning_rate=2e-2), 'learning_rate=0.01'),
    (dict(eval_interval=7), 'eval_interval'),
    (dict(batch_size=64), 'batch_size=128'), (dict(mlp_expansion=2), 'mlp_expansion'),
    (dict(seed=1338), 'seed=1337'), (dict(num_seeds=2), 'num_seeds=2')], ids=str)
def test_a_run_goes_on_only_as_it_was(goes_on, settings, says):
    goes_on(says=says, **settings)


def test_a_run_goes_on_only_with_its_own_characters(goes_on, copy_of_learned, data):
    # As many characters, but other ones: the embedding's rows would change their meaning.
    meta = pickle.loads((data / 'meta.pkl').read_bytes())
    itos = {i: chr(ord('A') + i) for i in meta['itos']}
    (data / 'meta.pkl').write_bytes(pickle.dumps({'vocab_size': len(itos), 'itos': itos,
                                                  'stoi': {c: i for i, c in itos.items()}}))
    goes_on(says='', dataset=data)


def test_there_is_no_run_to_go_on_with(declined, refused, small_math, tmp_path):
    declined(init_from='resume', says='no run in')
    (tmp_path / 'empty').mkdir()
    refused(TRAIN, says='no checkpoint', dataset=small_math, out_dir=tmp_path / 'empty', init_from='resume',
            **TINY)


def test_results_that_are_damaged(goes_on, copy_of_learned):
    with open(copy_of_learned / 'results.csv', 'a') as file:
        file.write('350,1,2\n')
    goes_on(says=['results.csv', 'line 9'])


RUN_JSON = {'nested too deeply': '[' * 100_000, 'no object': '[]', 'diverged': '{"diverged": "x"}',
            'iter_num': '{"iter_num": "ten"}', 'seconds': '{"seconds": [1]}', 'config': '{"config": 3}'}


@pytest.mark.parametrize('text', RUN_JSON.values(), ids=RUN_JSON)
def test_a_damaged_run_json(goes_on, refused, copy_of_learned, text):
    (copy_of_learned / 'run.json').write_text(text)
    says = [str(copy_of_learned / 'run.json'), 'damaged', 'delete it']
    goes_on(says=says)
    refused('plot_results.py', model_folder=copy_of_learned, says=says)


@pytest.mark.parametrize('number', ['1e308', '250.5', '1e13', 'inf', '9' * 5000])
def test_results_of_an_iteration_that_cannot_be(refused, copy_of_learned, number):
    path = copy_of_learned / 'results.csv'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([*lines[:-1], number + ',' + lines[-1].split(',', 1)[1]]) + '\n')
    refused('plot_results.py', model_folder=copy_of_learned,
            says=[str(path), f'line {len(lines)}', 'whole number of steps'])


# Checkpoints.

def change(path, *keys, value=None):
    """Set or delete an entry of a checkpoint."""
    checkpoint = load(path)
    *inner, last = keys
    place = checkpoint
    for key in inner:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    torch.save(checkpoint, path)


def compress(path, content):
    """A small archive that would inflate to `content`."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('ckpt/data.pkl', content)
        archive.writestr('ckpt/version', '3')


def repeat_in_archive(path):
    """The directory of the archive names its largest member a hundred times."""
    with zipfile.ZipFile(path, 'a') as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for i in range(100):
            again = copy.copy(largest)
            again.filename = again.orig_filename = f'archive/data/again_{i}'
            archive.filelist.append(again)
        archive._didModify = True    # makes zipfile write the directory again


def spread_weights(path, width):
    """Weights of this width that all repeat one number: a small file, but gigabytes once they are copied."""
    checkpoint = load(path)
    narrow = checkpoint['model_args']['n_embd']
    for name, value in checkpoint['model'].items():
        sizes = [size // narrow * width if size % narrow == 0 else size for size in value.shape]
        checkpoint['model'][name] = torch.zeros(1).expand(sizes)
    checkpoint['model_args']['n_embd'] = width
    torch.save(checkpoint, path)


DAMAGE = {
    'missing': lambda path, _: path.unlink(),
    'empty': lambda path, _: path.write_bytes(b''),
    'cut off': lambda path, _: path.write_bytes(path.read_bytes()[:5000]),
    'text': lambda path, _: path.write_text('weights'),
    'folder': lambda path, _: (path.unlink(), path.mkdir()),
    'list': lambda path, _: torch.save([1, 2], path),
    'weights alone': lambda path, _: torch.save(load(path)['model'], path),
    'exploit': lambda path, marker: torch.save({**load(path), 'more': Exploit(marker)}, path),
    'exploit in a plain pickle': lambda path, marker: path.write_bytes(pickle.dumps(Exploit(marker))),
    'no weight': lambda path, _: change(path, 'model', 'transformer.ln_f.weight'),
    'wrong shape': lambda path, _: change(path, 'model', 'transformer.ln_f.weight', value=torch.ones(3)),
    'wrong type': lambda path, _: change(path, 'model', 'transformer.ln_f.weight', value='ones'),
    'another width': lambda path, _: change(path, 'model_args', 'n_embd', value=12),
    'unknown argument': lambda path, _: change(path, 'model_args', 'rotary', value=True),
    'no heads': lambda path, _: change(path, 'model_args', 'n_head', value=0),
    'codec too large': lambda path, _: change(path, 'meta', 'vocab_size', value=99),
    'damaged codec': lambda path, _: change(path, 'meta', 'stoi', value={'a': 'b'}),
    'damaged tasks': lambda path, _: change(path, 'meta', 'tasks', value={'math': 3}),
    'too many pairs': lambda path, _: change(path, 'meta', 'tasks',
                                             value={'math': {'heldout': [[5, 7]] * 10**5}}),
    'compressed': lambda path, _: compress(path, b'\0' * 2**26),
    'one file many times': lambda path, _: repeat_in_archive(path),
    'weights of one number': lambda path, _: spread_weights(path, 2**15),
    'huge iteration': lambda path, _: change(path, 'iter_num', value=10**30),
    'negative iteration': lambda path, _: change(path, 'iter_num', value=-1),
}
OF_THE_CODEC = {'codec too large', 'damaged codec', 'damaged tasks', 'too many pairs'}


@pytest.mark.slow_after_first
@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('script', ['eval_as_math.py', 'sample.py'])
def test_a_damaged_or_foreign_checkpoint_is_not_asked(refused, copy_of_learned, tmp_path, script, damage):
    path = copy_of_learned / 'ckpt.pt'
    DAMAGE[damage](path, tmp_path / 'exploited')
    refused(script, out_dir=copy_of_learned, ckpt='ckpt.pt', says=str(path),
            **{'start': '<1'} if script == 'sample.py' else {})


@pytest.mark.slow_after_first
@pytest.mark.parametrize('damage', sorted(DAMAGE.keys() - OF_THE_CODEC))
def test_a_damaged_or_foreign_checkpoint_is_not_trained(goes_on, copy_of_learned, tmp_path, damage):
    path = copy_of_learned / 'ckpt.pt'
    DAMAGE[damage](path, tmp_path / 'exploited')
    goes_on(says=str(path))


@pytest.mark.parametrize('keys, value', [
    (('state',), None), (('state',), {}), (('state', 0), None), (('state', 0, 'exp_avg'), None),
    (('state', 0, 'exp_avg'), torch.zeros(3)), (('state', 0, 'step'), 'three')], ids=str)
def test_a_damaged_optimizer_is_not_trained(goes_on, copy_of_learned, keys, value):
    change(copy_of_learned / 'ckpt.pt', 'optimizer', *keys, value=value)
    goes_on(says=str(copy_of_learned / 'ckpt.pt'))


def test_a_model_without_a_tasks_characters_cannot_be_scored(refused, learned):
    refused('eval_capitals.py', out_dir=learned, ckpt='ckpt.pt', says=['vocabulary', "'C'"])


@pytest.mark.parametrize('script', ['eval_as_math.py', 'eval_capitals.py', 'sample.py'])
def test_a_folder_of_many_seeds_asks_for_one(refused, tmp_path, script):
    (tmp_path / 'run/seed_7').mkdir(parents=True)
    refused(script, out_dir=tmp_path / 'run', says='seed_7')


# Other options.

@pytest.mark.parametrize('option, says', [
    ('--start=<1*2', ["'*'", 'vocabulary']), ('--start=', 'empty'),
    ('--start=FILE:nowhere.txt', 'nowhere.txt'), ('--num_samples=0', 'num_samples'),
    ('--num_samples=-1', 'num_samples'), ('--temperature=0', 'temperature'),
    ('--temperature=nan', 'temperature'), ('--top_k=0', 'top_k'), ('--max_new_tokens=few', 'max_new_tokens'),
    ('--seed=x', 'seed'), ('--num_sample=1', 'did you mean --num_samples?'), ('--device=tpu9', 'tpu9'),
    ('more', 'more')])
def test_a_wrong_option_of_sampling(refused, learned, option, says):
    refused('sample.py', option, out_dir=learned, says=says)


def test_a_prompt_file_that_is_no_text(refused, learned, tmp_path):
    (tmp_path / 'prompt').write_bytes(b'<1+\xff')
    refused('sample.py', out_dir=learned, start=f'FILE:{tmp_path / "prompt"}',
            says=[str(tmp_path / 'prompt'), 'UTF-8'])


@pytest.mark.parametrize('name, option, says', [
    ('as_math', '--max_operand=0', ['max_operand=0', '1 to 99']), ('as_math', '--max_operand=100', '1 to 99'),
    ('as_math', '--max_operand=x', 'max_operand'), ('as_math', '--heldout=5', ['5,7', "'5'"]),
    ('as_math', '--heldout=5,7,8', '5,7,8'), ('as_math', '--heldout=5,77', ['(5, 77)', '0 to 9']),
    ('as_math', '--heldout=-1,3', '(-1, 3)'), ('as_math', '--heldout=', 'heldout'),
    ('as_math', '--seed=x', 'seed'), ('both_math_and_facts', '--held_out=5,7', 'did you mean --heldout?'),
    ('facts_char', '--heldout=5,7', '--heldout'),
    ('facts_char', 'more', 'more'), ('facts_char', '--repeats=9', '--repeats'),
    ('facts_skewed', '--exponent=-0.5', ['exponent', 'at least 0', "'-0.5'"]),
    ('facts_skewed', '--exponent=nan', 'finite'), ('both_skewed', '--exponent=inf', 'finite'),
    ('facts_skewed', '--exponent=steep', "'steep'"),
    ('facts_skewed', '--repeats=0', ['repeats', 'from 1 to 1,000,000', "'0'"]),
    ('both_skewed', '--repeats=2.5', "'2.5'"), ('both_skewed', '--math_repeats=-1', 'math_repeats'),
    ('both_skewed', '--math_repeats=1000001', '1,000,000'), ('both_skewed', '--heldout=5,77', '(5, 77)'),
    ('facts_skewed', '--math_repeats=9', 'did you mean --repeats?')])
def test_a_wrong_option_of_preparing(refused, tmp_path, name, option, says):
    refused(f'data/{name}/prepare.py', option, out_dir=tmp_path / 'new', says=says)


def test_nothing_is_left_to_train_on(refused, tmp_path):
    refused('data/as_math/prepare.py', out_dir=tmp_path / 'new', max_operand=1, heldout='0,0;0,1;1,1',
            says='heldout')


# Through real processes.

@pytest.mark.slow
@pytest.mark.parametrize('script, args, says', [
    (TRAIN, ['--n_embdd=14'], 'did you mean --n_embd?'),
    ('sample.py', ['--out_dir=nowhere'], 'nowhere/ckpt.pt')])
def test_the_shell_sees_one_line_and_status_2(tmp_path, script, args, says):
    result = shell(script, *args, cwd=tmp_path)
    assert (result.status, result.out) == (2, '') and is_one_line(result.err, [says])
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_a_foreign_file_is_refused_without_a_warning_of_torchs(tmp_path):
    (tmp_path / 'ckpt.pt').write_bytes(pickle.dumps({'model': {}}))
    result = shell('sample.py', '--out_dir=.', cwd=tmp_path)
    assert result.status == 2 and is_one_line(result.err, ['ckpt.pt']), result.err


@pytest.mark.slow
def test_debug_shows_where_a_mistake_was_found(tmp_path):
    result = shell('sample.py', '--debug', '--out_dir=nowhere', cwd=tmp_path)
    assert result.status == 1 and 'Traceback' in result.err


