"""nanoGPT's files work here, and ours work there: datasets, checkpoints, optimizer state, samples."""
import json
import pickle
import random

import numpy as np
import pytest
import torch

from conftest import LEARNS, contents, load
from tbtt import rng
from tbtt.baseline import NanoGPT, slice_batch
from tbtt.config import Config
from tbtt.engine import learning_rate
from tbtt.inference import load_model
from tbtt.results import read_results

TRAIN = 'train_with_eval.py'
# Settings of nanoGPT's train.py, under nanoGPT's names.
NANO = dict(n_layer=2, n_head=2, n_embd=16, block_size=12, bias=False, dropout=0.0, batch_size=8, max_iters=4,
            learning_rate=1e-3, min_lr=1e-4, warmup_iters=2, lr_decay_iters=20, decay_lr=True,
            weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0, gradient_accumulation_steps=1,
            eval_interval=2, eval_iters=5, log_interval=1)
OURS = dict(device='cpu', compile=False, mlp_expansion=4)


@pytest.fixture(scope='module')
def play(tmp_path_factory):
    """A folder as nanoGPT's data/shakespeare_char/prepare.py leaves it."""
    folder = tmp_path_factory.mktemp('nanogpt') / 'shakespeare_char'
    folder.mkdir()
    words = random.Random(0)
    text = ''.join(words.choice(['To be', ', or not', ' to be:', '\nHAMLET.\n', ' & so on; '])
                   for _ in range(800))
    chars = sorted(list(set(text)))
    stoi = {ch: i for i, ch in enumerate(chars)}
    for split, part in (('train', text[:4500]), ('val', text[4500:])):
        np.array([stoi[c] for c in part], dtype=np.uint16).tofile(folder / f'{split}.bin')
    meta = {'vocab_size': len(chars), 'itos': dict(enumerate(chars)), 'stoi': stoi}
    with open(folder / 'meta.pkl', 'wb') as file:
        pickle.dump(meta, file)
    return folder


def vocabulary(folder):
    return pickle.loads((folder / 'meta.pkl').read_bytes())


def tokens(folder):
    return torch.from_numpy(np.fromfile(folder / 'train.bin', dtype=np.uint16).astype(np.int64))


def step(model, optimizer, data, t, config):
    """One step of nanoGPT's loop, on the batch that our loop draws for iteration t."""
    for group in optimizer.param_groups:
        group['lr'] = learning_rate(config, t)
    starts = rng.batch_starts(torch.tensor([config.seed]), t, t + 1, config.batch_size,
                              len(data) - config.block_size)
    model.loss(*slice_batch(data, starts[0, 0], config.block_size)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def is_close(one, other):
    return all((one[name] - other[name]).abs().max() < 2e-5 for name in one)


@pytest.fixture
def nano(play, tmp_path, monkeypatch):
    """nano(prefix, bias) -> (folder with a ckpt.pt as nanoGPT saves it after four steps, model, optimizer).
    Its dataset is in the current folder."""
    monkeypatch.chdir(play.parent)

    def save(prefix='', bias=False):
        torch.manual_seed(0)
        config = Config(**NANO | dict(bias=bias), **OURS | dict(compile='False'))
        args = model_args(play) | dict(bias=bias)
        model = NanoGPT(**args)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1) if p.dim() > 1 else None
        optimizer = model.optimizer(config)
        for t in range(4):
            step(model, optimizer, tokens(play), t, config)
        theirs = dict(NANO | dict(bias=bias), out_dir='out', dataset='shakespeare_char', init_from='scratch',
                      eval_only=False, device='cuda', always_save_checkpoint=True, wandb_log=False,
                      wandb_project='owt', wandb_run_name='gpt2', backend='nccl', dtype='bfloat16',
                      compile=True)
        (tmp_path / 'out').mkdir()
        torch.save({'model': {prefix + name: value for name, value in model.state_dict().items()},
                    'optimizer': optimizer.state_dict(), 'model_args': args, 'iter_num': 4,
                    'best_val_loss': torch.tensor(2.5), 'config': theirs}, tmp_path / 'out/ckpt.pt')
        return tmp_path / 'out', model.eval(), optimizer
    return save


def model_args(folder):
    return {name: NANO[name] for name in ('n_layer', 'n_head', 'n_embd', 'block_size', 'bias')} | {
        'vocab_size': vocabulary(folder)['vocab_size'], 'dropout': 0.0}


def generate(model, prompt, max_new_tokens, temperature=1.0, top_k=None):
    """As nanoGPT does: crop, scale, keep the most likely, draw, append. prompt (1, T) -> (1, T + new)"""
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(prompt[:, -model.config.block_size:])[:, -1] / temperature
        if top_k is not None:
            least = torch.topk(logits, min(top_k, logits.shape[-1])).values[:, [-1]]
            logits[logits < least] = float('-inf')
        prompt = torch.cat([prompt, torch.multinomial(logits.softmax(-1), 1)], 1)
    return prompt


# nanoGPT's files in our code.

def test_a_dataset_of_nanogpts_trains_with_losses_and_without_scores(command, play, tmp_path):
    result = command(TRAIN, dataset=play, out_dir=tmp_path / 'run', **NANO, **OURS)
    assert result.status == 0, result.err
    rows = read_results(tmp_path / 'run/results.csv')
    assert rows['iter'].tolist() == [0, 2, 4] and np.isfinite(rows['train_loss']).all()
    assert (rows['train_loss'] != rows['val_loss']).all()
    assert all(np.isnan(rows[name]).all() for name in rows if name not in ('iter', 'train_loss', 'val_loss'))
    assert set(contents(tmp_path / 'run')) == {'ckpt.pt', 'results.csv', 'run.json', '.lock'}


def test_a_run_on_their_dataset_samples_and_refuses_to_be_scored(command, play, tmp_path):
    command(TRAIN, dataset=play, out_dir=tmp_path / 'run', **NANO, **OURS)
    result = command('sample.py', out_dir=tmp_path / 'run', start='To be', num_samples=2, max_new_tokens=30)
    assert result.status == 0 and result.out.count('To be') >= 2
    result = command('eval_as_math.py', out_dir=tmp_path / 'run', ckpt='ckpt.pt')
    assert result.status == 2 and "'<'" in result.err


@pytest.mark.slow_after_first
@pytest.mark.parametrize('prefix', ['', '_orig_mod.'])
def test_their_checkpoint_samples_here_what_it_would_say_there(command, play, nano, prefix):
    folder, model, _ = nano(prefix)
    meta = vocabulary(play)
    prompt = 'To be, or not to be'    # longer than the block
    expected = generate(model, torch.tensor([[meta['stoi'][c] for c in prompt]]), 40, top_k=1)[0].tolist()
    result = command('sample.py', out_dir=folder, start=prompt, num_samples=2, max_new_tokens=40, top_k=1)
    assert result.status == 0, result.err
    said = result.out.split('\n---------------\n')[:-1]
    assert said == [''.join(meta['itos'][i] for i in expected)] * 2


@pytest.mark.slow_after_first
@pytest.mark.parametrize('prefix', ['', '_orig_mod.'])
def test_their_run_goes_on_here_as_it_would_there(command, play, nano, prefix):
    folder, model, optimizer = nano(prefix)
    settings = NANO | OURS | dict(max_iters=9, dataset='shakespeare_char', out_dir=folder, init_from='resume')
    result = command(TRAIN, **settings)
    assert result.status == 0, result.err
    for t in range(4, 9):
        step(model, optimizer, tokens(play), t, Config(**NANO, **OURS | dict(compile='False')))
    checkpoint = load(folder / 'ckpt.pt')
    assert checkpoint['iter_num'] == 9 and is_close(model.state_dict(), checkpoint['model'])
    assert read_results(folder / 'results.csv')['iter'].tolist() == [4, 6, 8, 9]


def test_their_run_that_other_settings_refuse_names_the_options_that_go_on(command, play, nano):
    folder, *_ = nano()
    settings = NANO | OURS | dict(dataset='shakespeare_char', out_dir=folder, init_from='resume', max_iters=5)
    before = contents(folder)
    result = command(TRAIN, **settings | dict(mlp_expansion=1, weight_decay=0.0))
    assert result.status == 2 and len(result.err.splitlines()) == 1
    assert '--mlp_expansion=4' in result.err and '--weight_decay=0.1' in result.err
    assert {path: content for path, content in contents(folder).items() if path != '.lock'} == before


def test_their_run_goes_on_with_their_config_file_as_it_is(command, play, nano, tmp_path):
    folder, *_ = nano()
    file = tmp_path / 'theirs.py'
    theirs = NANO | dict(dataset='shakespeare_char', always_save_checkpoint=False, backend='nccl',
                         compile=False, device='cpu')
    file.write_text(''.join(f'{name} = {value!r}\n' for name, value in theirs.items()))
    result = command(TRAIN, file, out_dir=folder, init_from='resume', max_iters=6)
    assert result.status == 0 and load(folder / 'ckpt.pt')['iter_num'] == 6, result.err


@pytest.mark.parametrize('papers', [dict(full_eval=True, full_eval_interval=2, eval_interval=4),
                                    dict(full_eval=False, full_eval_interval=100)])
def test_a_run_of_the_papers_code_goes_on_with_its_config_file(command, play, nano, tmp_path, papers):
    folder, *_ = nano()
    checkpoint = load(folder / 'ckpt.pt')
    checkpoint['config'] |= dict(papers, mlp_expansion=4)
    checkpoint['model_args']['mlp_expansion'] = 4
    torch.save(checkpoint, folder / 'ckpt.pt')
    file = tmp_path / 'theirs.py'
    theirs = NANO | dict(papers, dataset='shakespeare_char', compile=False, device='cpu')
    file.write_text(''.join(f'{name} = {value!r}\n' for name, value in theirs.items()))
    result = command(TRAIN, file, out_dir=folder, init_from='resume', max_iters=6)
    assert result.status == 0 and load(folder / 'ckpt.pt')['iter_num'] == 6, result.err


# Our files in nanoGPT.

@pytest.fixture
def our_model(learned):
    checkpoint = load(learned / 'ckpt.pt')
    model = NanoGPT(**checkpoint['model_args'])
    model.load_state_dict(checkpoint['model'], strict=True)
    return model, checkpoint


def test_our_checkpoint_loads_there_and_computes_the_loss_that_was_written_down(our_model, learned,
                                                                                small_math):
    model, checkpoint = our_model
    data = tokens(small_math)
    with torch.no_grad():
        loss = model.loss(*slice_batch(data, torch.arange(len(data) - 8), 8)).item()
    assert loss == pytest.approx(read_results(learned / 'results.csv')['train_loss'][-1], abs=1e-5)


def test_our_checkpoint_samples_there(command, our_model, learned):
    # What nanoGPT's sample.py does: it takes model_args, weights without a prefix, and the codec of the
    # dataset in `config`.
    model, checkpoint = our_model
    meta = vocabulary_of(checkpoint)
    torch.manual_seed(0)
    found = json.loads(command('eval_as_math.py', '--json', out_dir=learned, ckpt='ckpt.pt').out)
    sure = [e for e in found['expressions'] if e['correct'] in (0, 10)]
    for expression in sure:
        prompt = torch.tensor([[meta['stoi'][c] for c in expression['prompt']]])
        said = ''.join(meta['itos'][i]
                       for i in generate(model, prompt, 4, temperature=0.01, top_k=10)[0].tolist())
        a, b = expression['prompt'][1], expression['prompt'][2:4]
        assert said.startswith(f'{expression["prompt"]}{int(a) + int(b)}>') == (expression['correct'] == 10)
    assert len(sure) > 25


def vocabulary_of(checkpoint):
    with open(f'{checkpoint["config"]["dataset"]}/meta.pkl', 'rb') as file:
        return pickle.load(file)


def test_training_of_ours_goes_on_there_as_it_would_here(command, our_model, copy_of_learned, small_math):
    model, checkpoint = our_model
    config = Config(**checkpoint['config'])
    optimizer = model.optimizer(config)
    optimizer.load_state_dict(checkpoint['optimizer'])
    for t in range(checkpoint['iter_num'], checkpoint['iter_num'] + 5):
        step(model, optimizer, tokens(small_math), t, config)
    settings = LEARNS | dict(dataset=small_math, out_dir=copy_of_learned, init_from='resume', max_iters=305)
    assert command(TRAIN, **settings).status == 0
    assert is_close(model.state_dict(), load(copy_of_learned / 'ckpt.pt')['model'])
    losses = read_results(copy_of_learned / 'results.csv')['val_loss']
    assert checkpoint['best_val_loss'] == pytest.approx(min(losses[:7]))


def strip(path, dataset=None):
    """Make a checkpoint like nanoGPT's: it carries no characters, and names `dataset` if that is given."""
    checkpoint = load(path)
    for key in ('meta', 'data'):
        del checkpoint[key]
    checkpoint['config'].pop('dataset')
    if dataset:
        checkpoint['config']['dataset'] = str(dataset)
    torch.save(checkpoint, path)


def test_a_foreign_checkpoint_says_by_which_data_it_is_scored(command, copy_of_learned, small_math):
    ours = command('eval_as_math.py', '--json', out_dir=copy_of_learned, ckpt='ckpt.pt')
    strip(copy_of_learned / 'ckpt.pt', small_math)
    theirs = command('eval_as_math.py', '--json', out_dir=copy_of_learned, ckpt='ckpt.pt')
    assert ours.err == '' and theirs.out == ours.out and theirs.err.count('\n') == 1
    assert f'{small_math}/meta.pkl' in theirs.err and 'math (50 questions, 4 held out)' in theirs.err


@pytest.mark.parametrize('named', [None, 'nowhere'])
def test_the_dataset_of_a_foreign_checkpoint_can_be_named(command, copy_of_learned, small_math, named):
    strip(copy_of_learned / 'ckpt.pt', named)
    missing = command('sample.py', out_dir=copy_of_learned, start='<1')
    assert missing.status == 2 and missing.err.count('\n') == 1 and '--dataset=FOLDER' in missing.err
    if named:    # the message names both places that were searched
        assert 'data/nowhere/meta.pkl' in missing.err and ' nowhere/meta.pkl' in missing.err
    found = command('sample.py', out_dir=copy_of_learned, start='<1', dataset=small_math, max_new_tokens=2)
    assert found.status == 0 and found.out.startswith('<1')


def test_a_checkpoint_of_ours_takes_no_other_dataset(command, learned, small_math):
    refused = command('sample.py', out_dir=learned, start='<1', dataset=small_math)
    assert refused.status == 2 and 'leave --dataset=' in refused.err


def test_a_model_is_loaded_by_its_path_alone(learned):
    model = load_model(learned / 'ckpt.pt', device='cpu', seed=3)
    assert model.seeds.tolist() == [3] and set(model.tasks) == {'math'} and model.num_params > 0


def test_a_model_that_nanogpt_has_no_name_for_says_so(command, small_math, tmp_path):
    settings = LEARNS | dict(mlp_expansion=1, max_iters=0)
    assert command(TRAIN, dataset=small_math, out_dir=tmp_path / 'run', **settings).status == 0
    assert load(tmp_path / 'run/ckpt.pt')['model_args']['mlp_expansion'] == 1


# Resuming without giving settings.

def without_keys(weights):
    """A state dict without the biases of keys: their gradient is only a rounding error, which AdamW makes
    large."""
    return {name: torch.cat([value[:16], value[32:]]) if name.endswith('c_attn.bias') else value
            for name, value in weights.items()}


def test_their_run_goes_on_by_its_folder_alone_and_says_what_is_lost(command, play, nano):
    folder, model, optimizer = nano('_orig_mod.', bias=True)
    result = command(TRAIN, out_dir=folder, init_from='resume', max_iters=5, device='cpu', compile=False)
    assert result.status == 0, result.err
    said, = [line for line in result.out.splitlines() if 'random stream' in line]
    assert 'iteration 4 are kept' in said and 'results.csv begins here' in said
    step(model, optimizer, tokens(play), 4, Config(**NANO | dict(bias=True), **OURS | dict(compile='False')))
    checkpoint = load(folder / 'ckpt.pt')
    assert is_close(without_keys(model.state_dict()), without_keys(checkpoint['model']))
    theirs, ours = optimizer.state_dict(), checkpoint['optimizer']
    assert [group['params'] for group in ours['param_groups']] == [
        group['params'] for group in theirs['param_groups']]
    for i, state in theirs['state'].items():
        assert ours['state'][i]['step'] == state['step'] == 5
        for name in ('exp_avg', 'exp_avg_sq'):
            torch.testing.assert_close(ours['state'][i][name], state[name], rtol=1e-4, atol=1e-7)
    best = min(2.5, *read_results(folder / 'results.csv')['val_loss'])
    assert checkpoint['best_val_loss'] == pytest.approx(best)
    again = command(TRAIN, out_dir=folder, init_from='resume', max_iters=6, device='cpu', compile=False)
    assert again.status == 0 and 'random stream' not in again.out


def test_a_run_goes_on_by_its_folder_alone_to_the_end_that_it_had(command, copy_of_learned):
    checkpoint = load(copy_of_learned / 'ckpt.pt')
    result = command(TRAIN, out_dir=copy_of_learned, init_from='resume')
    assert result.status == 0 and 'finished at iteration 300' in result.out, result.err
    longer = command(TRAIN, out_dir=copy_of_learned, init_from='resume', max_iters=301, device='cpu',
                     compile=False)
    assert longer.status == 0, longer.err
    now = load(copy_of_learned / 'ckpt.pt')
    assert now['iter_num'] == 301 and now['model_args'] == checkpoint['model_args']
    same = {'max_iters': 300, 'init_from': 'scratch', 'log_interval': 10, 'out_dir': 0}
    assert now['config'] | same == checkpoint['config'] | {'out_dir': 0}
