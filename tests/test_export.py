"""A checkpoint as transformers, TransformerLens and nnsight load it: the same numbers, the same answers."""
import json
import pickle
import re
import runpy
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

import export
from conftest import HERE, TINY, Result, contents, load, run_script
from tbtt.atomic import write_file
from tbtt.baseline import NanoGPT
from tbtt.checkpoint import build_model, codec_of, read_checkpoint
from tbtt.cli import UserError
from tbtt.results import read_results

transformers = pytest.importorskip('transformers')

EXPORT = 'analysis/export.py'
ODD = '\n\r\t\0 .,\'"ab\u0301\u2581\U0001f600\u00a0Z<'    # each one is a token, even if special elsewhere


def load_folder(folder: Path, dtype: torch.dtype = torch.float32):
    """-> transformers' model and tokenizer"""
    return (transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
            transformers.AutoTokenizer.from_pretrained(folder))


def all_logits(folder: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """transformers' logits of tokens (B, T) -> (B, T, V)"""
    with torch.no_grad():
        return load_folder(folder, dtype)[0](tokens).logits


def our_logits(path: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Our logits of tokens (B, T) -> (B, T, V)"""
    with torch.no_grad():
        return build_model(read_checkpoint(path), path).eval().to(dtype)(tokens.T).permute(2, 1, 0)


def random_tokens(args: dict) -> torch.Tensor:
    """Eight windows, (8, T)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(args['vocab_size'], (8, args['block_size']), generator=generator)


@pytest.fixture
def nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """nano(prefix, **model_args) -> (model_args, nanoGPT's model) of run/ckpt.pt in tmp_path, as nanoGPT
    saves it. Its weights are large, so a wrong weight shows in every logit; tmp_path has its dataset."""
    monkeypatch.chdir(tmp_path)

    def save(prefix: str = '', **changes) -> tuple[dict, NanoGPT]:
        args = dict(n_layer=2, n_head=2, n_embd=16, block_size=12, bias=True, vocab_size=24, dropout=0.1)
        args |= changes
        torch.manual_seed(0)
        model = NanoGPT(**args).eval()
        for name, parameter in model.named_parameters():
            large = 0.5 if '.h.' in name or 'ln_f' in name else 1.0
            parameter.data = torch.randn_like(parameter) * large + ('ln_' in name and name.endswith('weight'))
        (tmp_path / 'run').mkdir()
        torch.save({'model': {prefix + name: value for name, value in model.state_dict().items()},
                    'optimizer': {}, 'model_args': args, 'iter_num': 5, 'best_val_loss': torch.tensor(1.25),
                    'config': {'dataset': 'text', 'out_dir': 'secret', 'batch_size': 12}},
                   tmp_path / 'run/ckpt.pt')
        (tmp_path / 'text').mkdir()
        meta = {'vocab_size': args['vocab_size'], 'itos': dict(enumerate(ODD)),
                'stoi': {c: i for i, c in enumerate(ODD)}}
        (tmp_path / 'text/meta.pkl').write_bytes(pickle.dumps(meta))
        return args, model
    return save


@pytest.fixture(scope='module')
def exported(learned: Path, tmp_path_factory) -> Path:
    """The exported folder of the trained run."""
    to = tmp_path_factory.mktemp('exported') / 'hf'
    export.write_folder({'': export.read_source(learned / 'ckpt.pt')}, to)
    return to


# The same numbers.

@pytest.mark.slow_after_first
@pytest.mark.parametrize('prefix, changes', [
    ('', {}), ('_orig_mod.', {'bias': False}),
    ('', {'bias': False, 'mlp_expansion': 1, 'n_layer': 1, 'n_head': 1}),
    ('', {'n_layer': 3, 'n_head': 4, 'mlp_expansion': 2, 'vocab_size': 40})])
def test_logits_in_float64_are_ours_and_nanogpts(command, nano, tmp_path, prefix, changes):
    args, model = nano(prefix, **changes)
    result = command(EXPORT, out_dir='run', to='hf')
    assert result.status == 0, result.err
    tokens = random_tokens(args)
    logits = all_logits(tmp_path / 'hf', tokens)
    assert logits.std() > 1    # logits near zero would always agree
    assert (logits - our_logits(tmp_path / 'run/ckpt.pt', tokens)).abs().max() < 1e-12
    with torch.no_grad():
        assert (logits - model.double()(tokens)).abs().max() < 1e-12


@pytest.mark.slow_after_first
@pytest.mark.parametrize('setting, wrong', [
    ('activation_function', 'gelu_new'), ('layer_norm_epsilon', 1e-6), ('scale_attn_weights', False),
    ('n_head', 1)])
def test_every_setting_counts(command, nano, tmp_path, setting, wrong):
    args, _ = nano()
    command(EXPORT, out_dir='run', to='hf')
    tokens = random_tokens(args)
    right = all_logits(tmp_path / 'hf', tokens)
    config = json.loads((tmp_path / 'hf/config.json').read_text())
    (tmp_path / 'hf/config.json').write_text(json.dumps(config | {setting: wrong}))
    assert (all_logits(tmp_path / 'hf', tokens) - right).abs().max() > 1e-6


def test_every_weight_counts(nano, tmp_path):
    args, _ = nano()
    path, tokens = tmp_path / 'run/ckpt.pt', random_tokens(args)
    model = build_model(read_checkpoint(path), path).eval()
    with torch.no_grad():
        right = model(tokens.T)
        for name, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.01)
            assert (model(tokens.T) - right).abs().max() > 1e-4, name
            parameter.copy_(before)


def test_logits_of_a_trained_run_are_ours_up_to_rounding(learned, exported):
    tokens = random_tokens(load(learned / 'ckpt.pt')['model_args'])
    in_float32 = all_logits(exported, tokens, torch.float32)
    assert (all_logits(exported, tokens) - our_logits(learned / 'ckpt.pt', tokens)).abs().max() < 1e-12
    assert (in_float32 - our_logits(learned / 'ckpt.pt', tokens, torch.float32)).abs().max() < 2e-5


def test_weights_are_ours_bit_for_bit(learned, exported):
    ours, theirs = load(learned / 'ckpt.pt')['model'], load_folder(exported)[0].state_dict()
    for name, value in ours.items():
        is_projection = value.dim() == 2 and '.h.' in name
        assert torch.equal(theirs[name], value.T if is_projection else value), name
    assert all(not theirs[name].any() for name in theirs.keys() - ours.keys())


def test_logits_in_float32_are_bit_for_bit_those_of_nanogpts_modules(learned, exported):
    checkpoint = load(learned / 'ckpt.pt')
    model, tokens = NanoGPT(**checkpoint['model_args']).eval(), random_tokens(checkpoint['model_args'])
    model.load_state_dict(checkpoint['model'])
    x, projection = model.transformer.wte(tokens).flatten(0, 1), model.transformer.h[0].attn.c_attn
    transposed = torch.addmm(torch.zeros(len(projection.weight)), x, projection.weight.T.contiguous())
    if not torch.equal(projection(x), transposed):
        pytest.skip('this machine multiplies a transposed matrix in another order')
    with torch.no_grad():
        assert torch.equal(all_logits(exported, tokens, torch.float32), model(tokens))


# The same answers.

def greedy(logits, tokens: torch.Tensor, max_new_tokens: int, block_size: int) -> torch.Tensor:
    """Append the most likely token again and again; crop what does not fit into the block, as nanoGPT does.
    logits: tokens (B, T) -> (B, T, V). tokens (B, T) -> (B, T + max_new_tokens)"""
    for _ in range(max_new_tokens):
        tokens = torch.cat([tokens, logits(tokens[:, -block_size:])[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.fixture(scope='module')
def tiny_runs(datasets, tmp_path_factory) -> Path:
    """The folder of three runs of some seconds: `math`, `facts`, and `seeds`, which has two seeds."""
    folder = tmp_path_factory.mktemp('tiny')
    for name, dataset, settings in (('math', 'as_math', {}), ('facts', 'facts_char', dict(block_size=24)),
                                    ('seeds', 'as_math', dict(num_seeds=2))):
        settings = TINY | settings | dict(dataset=datasets[dataset], out_dir=folder / name)
        assert run_script('train_with_eval.py', **settings) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', ['math', 'facts'])
def test_greedy_answers_to_all_prompts_are_the_same(command, tiny_runs, tmp_path, name):
    path = tiny_runs / name / 'ckpt.pt'
    assert command(EXPORT, out_dir=path.parent, to=tmp_path / 'hf').status == 0
    theirs, tokenizer = load_folder(tmp_path / 'hf', torch.float64)
    checkpoint = read_checkpoint(path)
    model, (codec, tasks) = build_model(checkpoint, path).double(), codec_of(checkpoint, path)
    task, block_size = tasks[name], model.config.block_size
    with torch.no_grad():
        for length in {len(prompt) for prompt in task.prompts}:
            prompts = [prompt for prompt in task.prompts if len(prompt) == length]
            ids = tokenizer(prompts)['input_ids']
            assert ids == [codec.encode(prompt) for prompt in prompts]
            sizes = task.max_new_tokens, block_size
            ours = greedy(lambda tokens: model(tokens.T).permute(2, 1, 0), torch.tensor(ids), *sizes)
            assert torch.equal(greedy(lambda tokens: theirs(tokens).logits, torch.tensor(ids), *sizes), ours)


@pytest.mark.slow
def test_a_pipeline_answers_what_our_samples_say(command, tiny_runs, tmp_path):
    command(EXPORT, out_dir=tiny_runs / 'math', to=tmp_path / 'hf')
    ask = transformers.pipeline('text-generation', str(tmp_path / 'hf'))
    for prompt in ('<7-5=', '<7+5=', '<1+2='):
        said = command('sample.py', out_dir=tiny_runs / 'math', start=prompt, num_samples=1, top_k=1,
                       max_new_tokens=4)
        ours = said.out.removesuffix('\n---------------\n').split('\n')[0]
        answer = ask(prompt)[0]['generated_text']
        assert answer.startswith(prompt) and len(answer) <= 9    # the block size
        assert answer.split('\n')[0] == ours


def test_a_pipeline_of_a_trained_run_is_right(learned, exported):
    ask = transformers.pipeline('text-generation', str(exported))
    lines = [f'<{a}+{b}={a + b}>' for a in range(5) for b in range(5)]
    right = sum(ask(line[:5])[0]['generated_text'].startswith(line) for line in lines)
    assert right > 12    # of 25
    assert 4 * right == pytest.approx(read_results(learned / 'results.csv')['add_acc'][-1], abs=10)


# Characters.

def test_every_character_is_a_token_and_comes_back(command, nano, tmp_path):
    nano()
    assert command(EXPORT, out_dir='run', to='hf').status == 0
    tokenizer = load_folder(tmp_path / 'hf')[1]
    for text in (ODD, ODD[::-1], ' a . b ,\n\n  Z', '\n', 'a' * 9):
        ids = tokenizer(text)['input_ids']
        assert ids == [ODD.index(c) for c in text] and tokenizer.decode(ids) == text
    assert tokenizer('')['input_ids'] == [] and len(tokenizer) == len(ODD)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('text', ['7', 'a7b', '<unk>', '\u00e1', '\u3000'])
def test_an_unknown_character_is_an_error(command, nano, tmp_path, text):
    nano()
    command(EXPORT, out_dir='run', to='hf')
    with pytest.raises(Exception, match='Missing'):
        load_folder(tmp_path / 'hf')[1](text)


# The folder.

def test_the_card_has_scores_settings_and_seed(learned, exported):
    card, results = (exported / 'README.md').read_text(), read_results(learned / 'results.csv')
    assert card.startswith('---\nlibrary_name: transformers\n')
    assert 'seed 1337' in card and '| `n_embd` | `48` |' in card
    last = f'| 300 | {results["add_acc"][-1]:.4g} | {results["sub_acc"][-1]:.4g} |'
    assert f'| this checkpoint {last}' in card and f'| last evaluation {last}' in card
    assert 'Facts' not in card and str(learned) not in card


def test_the_card_of_a_checkpoint_without_results_says_what_is_known(command, nano, tmp_path):
    nano()
    command(EXPORT, out_dir='run', to='hf')
    card = (tmp_path / 'hf/README.md').read_text()
    assert 'seed not recorded' in card and 'validation loss: 1.2500' in card and 'secret' not in card


def test_other_text_goes_on_after_a_newline_and_an_answer_ends_there(command, nano, exported, tmp_path):
    nano()
    command(EXPORT, out_dir='run', to='hf')
    assert load_folder(tmp_path / 'hf')[0].generation_config.eos_token_id is None
    model, tokenizer = load_folder(exported)
    assert tokenizer.decode(model.generation_config.eos_token_id) == '\n'
    assert model.generation_config.max_length == 8


def test_the_characters_of_a_checkpoint_without_any_are_those_of_the_dataset_named(command, nano, tmp_path):
    nano()
    (tmp_path / 'text').rename(tmp_path / 'elsewhere')
    assert is_one_line(command(EXPORT, out_dir='run', to='hf'))
    assert command(EXPORT, out_dir='run', to='hf', dataset='elsewhere').status == 0
    assert load_folder(tmp_path / 'hf')[1].get_vocab() == {c: i for i, c in enumerate(ODD)}


def test_a_chosen_checkpoint_is_exported(command, learned, tmp_path):
    assert command(EXPORT, out_dir=learned, ckpt='ckpt_best_math.pt', to=tmp_path / 'hf').status == 0
    ours, theirs = load(learned / 'ckpt_best_math.pt'), load_folder(tmp_path / 'hf')[0].state_dict()
    assert torch.equal(ours['model']['transformer.wpe.weight'], theirs['transformer.wpe.weight'])
    assert f'of iteration {ours["iter_num"]:,} ' in (tmp_path / 'hf/README.md').read_text()


@pytest.mark.slow
def test_several_seeds_are_a_folder_each(command, tiny_runs, tmp_path):
    result = command(EXPORT, out_dir=tiny_runs / 'seeds', to=tmp_path / 'hf')
    assert result.status == 0 and result.out.count('differ from ours by at most') == 2
    for name in ('seed_1337', 'seed_1338'):
        command(EXPORT, out_dir=tiny_runs / 'seeds' / name, to=tmp_path / name)
        one, many = contents(tmp_path / name), contents(tmp_path / 'hf' / name)
        one.pop('README.md'), many.pop('README.md')    # it names the folder
        assert one == many and f'seed {name[5:]}' in (tmp_path / 'hf' / name / 'README.md').read_text()
    assert sorted(path.name for path in (tmp_path / 'hf').iterdir()) == ['seed_1337', 'seed_1338']


# The page.

@pytest.mark.slow
@pytest.mark.parametrize('package', ['transformers', 'transformer_lens', 'nnsight'])
def test_the_page_computes_our_logits(command, tiny_runs, tmp_path, monkeypatch, capsys, package):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    assert command(EXPORT, out_dir=tiny_runs / 'math', to='hf_math_14').status == 0
    blocks = re.findall(r'```python\n(.*?)```', (HERE / 'docs/interchange.md').read_text(), re.DOTALL)
    code, = (block for block in blocks if re.findall(r'^from (\w+)', block, re.MULTILINE)[-1] == package)
    Path('page.py').write_text(code)    # nnsight reads the source of its blocks
    found = runpy.run_path('page.py')
    tokens = torch.tensor([load_folder('hf_math_14')[1]('<7-5=')['input_ids']])
    ours = our_logits(tiny_runs / 'math/ckpt.pt', tokens)
    assert (found['logits'] - ours).abs().max() < 1e-12
    if package == 'transformers':
        assert '<7-5=' in capsys.readouterr().out
    else:
        assert (found['without'] - ours).abs().max() > 1e-3    # the attention is switched off


# Wrong input.

def is_one_line(result: Result) -> bool:
    """Is it an error of one line, apart from the notice where a checkpoint's characters come from?"""
    lines = [line for line in result.err.splitlines() if 'carries no characters and no tasks:' not in line]
    return result.status == 2 and len(lines) == 1 and lines[0].startswith('error: ')


@pytest.mark.parametrize('wrong, said', [
    ({'out_dir': 'nowhere'}, 'no checkpoint nowhere/ckpt.pt'),
    ({'ckpt': 'other.pt'}, 'no checkpoint run/other.pt'),
    ({'to': 'text'}, 'text already exists'), ({'to': 'text/meta.pkl'}, 'already exists'),
    ({'too': 'x'}, 'unknown option'), ({'to': 'text/meta.pkl/hf'}, 'meta.pkl')])
def test_wrong_input_is_one_line_and_writes_nothing(command, nano, tmp_path, wrong, said):
    nano()
    before = contents(tmp_path)
    result = command(EXPORT, **{'out_dir': 'run', 'to': 'hf'} | wrong)
    assert is_one_line(result) and said in result.err
    assert contents(tmp_path) == before


def spoil(path: Path, **changes) -> None:
    """Change the keys of a checkpoint."""
    torch.save(load(path) | changes, path)


def test_a_checkpoint_that_is_no_model_is_refused(command, nano, tmp_path):
    nano()
    path = tmp_path / 'run/ckpt.pt'
    checkpoint, good = load(path), path.read_bytes()
    diverged = {name: value * np.nan for name, value in checkpoint['model'].items()}
    no_text = {'vocab_size': 1, 'stoi': {'\ud800': 0}, 'itos': {0: '\ud800'}}
    for content, said in (
            (b'no checkpoint', 'name a checkpoint'), (good[:-200], 'ckpt.pt'),
            ({'model': diverged}, 'not finite'),
            ({'config': {'dataset': 'gone'}}, 'carries no characters'), ({'best_val_loss': 'low'}, 'best'),
            ({'meta': no_text}, 'no text')):
        path.write_bytes(content if isinstance(content, bytes) else good)
        spoil(path, **content) if isinstance(content, dict) else None
        result = command(EXPORT, out_dir='run', to='hf')
        assert is_one_line(result) and said in result.err, (said, result.err)
        assert not (tmp_path / 'hf').exists()


@pytest.mark.slow
def test_a_seed_without_the_checkpoint_leaves_no_folder(command, tiny_runs, tmp_path):
    result = command(EXPORT, out_dir=tiny_runs / 'seeds', ckpt='ckpt_best_facts.pt', to=tmp_path / 'hf')
    assert is_one_line(result) and 'seed_1337/ckpt_best_facts.pt' in result.err and not contents(tmp_path)


@pytest.mark.parametrize('at', range(6))
def test_a_folder_appears_whole_or_not_at_all(learned, tmp_path, monkeypatch, at):
    written = []

    def fail_at(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) > at:
            raise OSError(28, 'No space left on device', str(path))
        write_file(path, content)
    monkeypatch.setattr(export, 'write_file', fail_at)
    with pytest.raises(OSError):
        export.write_folder({'': export.read_source(learned / 'ckpt.pt')}, tmp_path / 'hf')
    assert len(written) == at + 1 and not contents(tmp_path)


def test_a_folder_that_transformers_reads_as_another_model_does_not_appear(learned, tmp_path, monkeypatch):
    right = export.model_config
    relu = {'activation_function': 'relu'}
    monkeypatch.setattr(export, 'model_config', lambda source: right(source) | relu)
    with pytest.raises(UserError, match='as another model'):
        export.write_folder({'': export.read_source(learned / 'ckpt.pt')}, tmp_path / 'hf')
    assert not contents(tmp_path)


@pytest.mark.parametrize('package', ['safetensors.torch', 'tokenizers', 'transformers'])
def test_a_missing_package_is_named(command, learned, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = command(EXPORT, out_dir=learned, to=tmp_path / 'hf')
    assert is_one_line(result) and package.split('.')[0] in result.err
    assert 'requirements-study.txt' in result.err
    assert not contents(tmp_path)
