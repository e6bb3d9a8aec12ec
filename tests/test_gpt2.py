"""Weights of GPT-2 as transformers stores them give the same logits here, and weights that do not fit our
model are refused."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from conftest import TINY, contents, load
from model import GPT, GPTConfig
from tbtt import gpt2, hub
from tbtt.cli import UserError
from tbtt.fused.build import NotHere
from tbtt.fused.kernel import check_fits
from tbtt.results import read_results
from test_text import POEM, PREPARE, train_tokenizer

transformers = pytest.importorskip('transformers')

TRAIN = 'train_with_eval.py'


def small_gpt2(**changes):
    """A GPT-2 of transformers. Its weights are large, so a wrong weight shows in every logit."""
    settings = dict(vocab_size=290, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings | changes)).eval()
    for name, parameter in model.named_parameters():
        large = 0.5 if '.h.' in name or 'ln_f' in name else 1.0
        parameter.data = torch.randn_like(parameter) * large + ('ln_' in name and name.endswith('weight'))
    return model


@pytest.fixture
def saved(tmp_path):
    """saved(**changes) -> (folder, the model of transformers in it)"""
    def save(**changes):
        model = small_gpt2(**changes)
        model.save_pretrained(tmp_path / 'gpt2')
        return tmp_path / 'gpt2', model
    return save


def windows(vocab_size=290, length=12):
    return torch.randint(vocab_size, (4, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(ours, theirs, dtype=torch.float64):
    """The largest difference of logits, relative to the largest logit in float32, absolute in float64."""
    idx = windows(theirs.config.vocab_size, ours.config.block_size)
    expected = theirs.to(dtype)(idx).logits
    found = ours.eval().to(dtype)(idx.T).permute(2, 1, 0)
    assert expected.std() > 1    # logits near zero would always agree
    return (found - expected).abs().max().item() / (1 if dtype == torch.float64 else expected.abs().max())


@pytest.mark.parametrize('changes', [
    {}, {'activation_function': 'gelu'}, {'activation_function': 'gelu_pytorch_tanh', 'n_inner': 16},
    {'n_layer': 3, 'n_head': 4, 'n_inner': 32, 'vocab_size': 40}])
def test_logits_are_those_of_transformers(saved, changes):
    folder, theirs = saved(**changes)
    assert difference(gpt2.read_gpt2(str(folder)), theirs) < 1e-12
    assert difference(gpt2.read_gpt2(str(folder)), theirs, torch.float32) < 1e-5


def test_the_tanh_approximation_counts(saved):
    folder, theirs = saved()
    model = gpt2.read_gpt2(str(folder))
    for block in model.transformer.h:
        block.mlp.gelu = 'none'    # as in nanoGPT
    assert difference(model, theirs) > 1e-6


def test_pieces_and_the_names_of_the_hub_are_read(tmp_path):
    model = small_gpt2()
    model.save_pretrained(tmp_path / 'pieces', max_shard_size='10KB')
    model.transformer.save_pretrained(tmp_path / 'hub')    # names without the prefix, as GPT-2 on the hub
    assert len(list((tmp_path / 'pieces').glob('*.safetensors'))) > 1
    for name in ('pieces', 'hub'):
        assert difference(gpt2.read_gpt2(str(tmp_path / name)), model) < 1e-12


def test_the_block_is_cropped_to_its_first_positions(saved):
    folder, theirs = saved()
    model = gpt2.read_gpt2(str(folder))
    weights = gpt2.crop_block_size(model.state_dict(), 5)
    short = GPT(dataclasses.replace(model.config, block_size=5))
    short.load_state_dict(weights)
    assert difference(short, theirs) < 1e-12


def test_the_way_there_and_back_changes_no_bit(saved):
    folder, _ = saved()
    model = gpt2.read_gpt2(str(folder))
    again = gpt2.from_weights(gpt2.to_weights(model), folder)
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert gpt2.from_settings(gpt2.to_settings(model.config), folder) | {'dropout': 0.0} == vars(model.config)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hugging Face hub for this test alone: cache(repository, folder) puts a folder there."""
    library = pytest.importorskip('huggingface_hub')
    monkeypatch.setattr(library.constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))

    def put(repository, folder):
        at = tmp_path / 'cache' / f'models--{repository.replace("/", "--")}'
        (at / 'refs').mkdir(parents=True)
        (at / 'refs/main').write_text('a' * 40)
        shutil.copytree(folder, at / 'snapshots' / ('a' * 40))
    return put


@pytest.mark.parametrize('repository', ['gpt2', 'openai-community/gpt2'])
def test_gpt2_is_found_in_the_cache_of_this_machine(saved, cache, repository):
    folder, theirs = saved()
    with pytest.raises(UserError, match='config.json of gpt2 .*--download'):
        gpt2.read_gpt2('gpt2')
    cache(repository, folder)
    assert difference(gpt2.read_gpt2('gpt2'), theirs) < 1e-12


def test_it_is_fetched_only_where_that_is_asked_for(saved, cache, monkeypatch):
    folder, theirs = saved()
    asked = []
    library = pytest.importorskip('huggingface_hub')

    def fetch(repository, file):
        asked.append((repository, file))
        return str(folder / file)

    monkeypatch.setattr(library, 'hf_hub_download', fetch)
    with pytest.raises(UserError):
        gpt2.read_gpt2('gpt2-medium')
    assert not asked
    assert difference(gpt2.read_gpt2('gpt2-medium', download=True), theirs) < 1e-12
    assert asked == [('openai-community/gpt2-medium', name) for name in ('config.json', 'model.safetensors')]


def test_a_hub_that_cannot_be_reached_is_one_line(cache, monkeypatch):
    library = pytest.importorskip('huggingface_hub')

    def fail(repository, file):
        raise ConnectionError('no route')

    monkeypatch.setattr(library, 'hf_hub_download', fail)
    with pytest.raises(UserError, match='openai-community/gpt2/config.json cannot be downloaded .*no route'):
        hub.get('gpt2', 'config.json', download=True)


@pytest.mark.parametrize('changes, says', [
    ({'activation_function': 'relu'}, 'expected one of gelu_new'), ({'layer_norm_epsilon': 1e-6}, '1e-05'),
    ({'scale_attn_weights': False}, 'scale_attn_weights'), ({'n_inner': 17}, 'no multiple of n_embd=16'),
    ({'model_type': 'llama'}, 'expected gpt2'), ({'n_layer': 3}, 'do not fit'), ({'n_head': 3}, 'do not fit'),
    ({'n_layer': 'two'}, 'a whole number'), ({'vocab_size': 17}, 'expected'), (None, 'damaged')])
def test_what_cannot_be_a_model_here_is_refused(saved, changes, says):
    folder, _ = saved()
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text('{' if changes is None else json.dumps(config | changes))
    with pytest.raises(UserError, match=says):
        gpt2.read_gpt2(str(folder))


def test_weights_that_are_damaged_or_gone_are_refused(saved):
    folder, _ = saved()
    content = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(content[:-9])
    with pytest.raises(UserError, match='model.safetensors is damaged'):
        gpt2.read_gpt2(str(folder))
    (folder / 'model.safetensors').unlink()
    with pytest.raises(UserError, match='model.safetensors is not there'):
        gpt2.read_gpt2(str(folder))


def test_a_head_of_its_own_is_refused(saved):
    folder, theirs = saved()
    weights = theirs.state_dict()
    assert gpt2.from_weights(weights, folder)
    with pytest.raises(UserError, match='its head differs from its embedding'):
        gpt2.from_weights(weights | {'lm_head.weight': weights['lm_head.weight'] + 1}, folder)


# Training.

@pytest.fixture
def data(command, tmp_path):
    """A dataset of a small tokenizer's tokens."""
    (tmp_path / 'tokenizer').mkdir()
    (tmp_path / 'tokenizer/tokenizer.json').write_text(train_tokenizer().to_str())
    (tmp_path / 'poem.txt').write_text(POEM, encoding='utf-8')
    command(PREPARE, input=tmp_path / 'poem.txt', tokens='gpt2', tokenizer=tmp_path / 'tokenizer',
            out_dir=tmp_path / 'data')
    return tmp_path / 'data'


def loss_of(model, data, length):
    """transformers' loss over every window."""
    tokens = torch.from_numpy(np.fromfile(data / 'train.bin', dtype='<u2').astype(np.int64))
    rows = tokens.unfold(0, length + 1, 1)
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


@pytest.mark.slow
def test_a_run_begins_with_these_weights_and_goes_on_and_out_again(command, saved, data, tmp_path):
    source, theirs = saved()
    settings = TINY | dict(dataset=data, out_dir=tmp_path / 'run', block_size=8, max_iters=2, eval_interval=1,
                           learning_rate=1e-3, eval_iters=100)
    result = command(TRAIN, init_from=source, **settings)
    assert result.status == 0 and 'tanh_gelu=True' in result.out, result.err
    losses = read_results(tmp_path / 'run/results.csv')['train_loss']
    assert losses[0] == pytest.approx(loss_of(theirs, data, 8), rel=1e-5) and losses[2] < losses[0]
    assert load(tmp_path / 'run/ckpt.pt')['model_args'] == {
        'n_layer': 2, 'n_head': 2, 'n_embd': 16, 'block_size': 8, 'bias': True, 'dropout': 0.0,
        'vocab_size': 290, 'tanh_gelu': True}
    again = command(TRAIN, **settings | dict(init_from='resume', max_iters=3))
    assert again.status == 0, again.err
    assert load(tmp_path / 'run/ckpt.pt')['iter_num'] == 3
    out = command('analysis/export.py', out_dir=tmp_path / 'run', to=tmp_path / 'hf')
    assert out.status == 0, out.err
    assert difference(gpt2.read_gpt2(str(tmp_path / 'hf')),
                      transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'hf')) < 1e-12


@pytest.mark.parametrize('changes, says', [
    ({'block_size': 13}, '12 positions'), ({'init_from': 'gtp2'}, 'or a folder of GPT-2 weights'),
    ({'vocab_size': 291}, 'a vocabulary of 291')])
def test_data_and_weights_that_do_not_fit_are_refused(command, saved, data, tmp_path, changes, says):
    source, _ = saved(**{name: value for name, value in changes.items() if name == 'vocab_size'})
    changes = {name: value for name, value in changes.items() if name != 'vocab_size'}
    settings = TINY | dict(dataset=data, out_dir=tmp_path / 'run', init_from=source) | changes
    result = command(TRAIN, **settings)
    assert result.status == 2 and says in result.err and result.err.count('\n') == 1
    assert 'run' not in contents(tmp_path)


def test_the_fused_step_leaves_it_to_others():
    with pytest.raises(NotHere, match='exact GELU only'):
        check_fits(GPTConfig(n_embd=16, n_layer=1, n_head=1, block_size=8, vocab_size=20, tanh_gelu=True))
