"""GPT-2 as the library transformers stores it: its settings, and the names and the layout of its weights.

analysis/export.py writes this format, and `init_from=gpt2` reads it. Nothing here needs transformers.
"""
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from model import GPT, GPTConfig
from tbtt import hub
from tbtt.checkpoint import build_model
from tbtt.cli import UserError, study_package
from tbtt.config import Config
from tbtt.replicas import EMBEDDING, HEAD

POSITIONS = 'transformer.wpe.weight'
WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'    # INDEX: if there are several files
# What holds for every model here, under the names of transformers.
SAME = {'layer_norm_epsilon': 1e-5, 'scale_attn_weights': True, 'scale_attn_by_inverse_layer_idx': False,
        'add_cross_attention': False, 'tie_word_embeddings': True}
# Their settings that ours are read from, and the values to use for those that config.json lacks.
SHAPE = {'vocab_size': 50257, 'n_positions': 1024, 'n_embd': 768, 'n_layer': 12, 'n_head': 12}
TANH = {'gelu_new': True, 'gelu_pytorch_tanh': True, 'gelu': False}    # is this GELU the tanh approximation?


# From our format to theirs.

def to_settings(config: GPTConfig) -> dict[str, Any]:
    """The model's part of config.json (transformers' GPT2Config)."""
    return {
        'architectures': ['GPT2LMHeadModel'], 'model_type': 'gpt2', 'dtype': 'float32',
        'vocab_size': config.vocab_size, 'n_positions': config.block_size, 'n_embd': config.n_embd,
        'n_layer': config.n_layer, 'n_head': config.n_head, 'n_inner': config.mlp_expansion * config.n_embd,
        'activation_function': 'gelu_new' if config.tanh_gelu else 'gelu', **SAME,
        'initializer_range': 0.02,
        'resid_pdrop': config.dropout, 'embd_pdrop': config.dropout, 'attn_pdrop': config.dropout}


def to_weights(model: GPT) -> dict[str, torch.Tensor]:
    """The weights with the names and the layout of transformers' GPT-2, float32: projections (in, out), a
    bias in every layer (0 if ours has none), and no head, because the head is the embedding."""
    state = model.state_dict()
    layers = {name: value for name, value in state.items() if name not in (EMBEDDING, POSITIONS, HEAD)}
    zeros = {name.removesuffix('weight') + 'bias': torch.zeros(len(value)) for name, value in layers.items()
             if name.endswith('weight')}
    layers = {name: value.T.contiguous() if value.dim() == 2 else value for name, value in layers.items()}
    return {**zeros, **layers, EMBEDDING: state[EMBEDDING], POSITIONS: state[POSITIONS]}


# From their format to ours.

def from_settings(theirs: dict[str, Any], path: Path) -> dict[str, Any]:
    """config.json -> arguments of `GPTConfig`. Raises `UserError` for what a model here cannot have."""
    if theirs.get('model_type') != 'gpt2':
        raise UserError(f'{path} is of a model of type {theirs.get("model_type")!r}: expected gpt2')
    args = {name: theirs.get(name, default) for name, default in SHAPE.items()}
    hidden = 4 * args['n_embd'] if theirs.get('n_inner') is None else theirs['n_inner']
    for name, value in {**args, 'n_inner': hidden}.items():
        if type(value) is not int or value < 1:
            raise UserError(f'{path}: {name}={value!r}: expected a whole number above 0')
    for name, value in SAME.items():
        if theirs.get(name, value) != value:
            raise UserError(f'{path}: {name}={theirs[name]!r}: a model here has {value!r}')
    activation = theirs.get('activation_function', 'gelu_new')
    if activation not in TANH:
        raise UserError(f'{path}: activation_function={activation!r}: expected one of {", ".join(TANH)}')
    if hidden % args['n_embd']:
        raise UserError(f'{path}: n_inner={hidden} is no multiple of n_embd={args["n_embd"]}')
    args['block_size'] = args.pop('n_positions')
    return args | {'mlp_expansion': hidden // args['n_embd'], 'bias': True, 'tanh_gelu': TANH[activation]}


def from_weights(theirs: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Weights as `to_weights` returns them or as the hub stores them -> our state dict, float32"""
    plain = {'transformer.' + name.removeprefix('transformer.'): value.float()
             for name, value in theirs.items()
             if not name.endswith(('.attn.bias', '.attn.masked_bias')) and name != HEAD}    # causal masks
    if HEAD in theirs:    # head and embedding are one weight: a file may have either name
        plain.setdefault(EMBEDDING, theirs[HEAD].float())
    if HEAD in theirs and not torch.equal(theirs[HEAD].float(), plain[EMBEDDING]):
        raise UserError(f'{path}: its head differs from its embedding, but here the two are one weight')
    weights = {name: value.T.contiguous() if value.dim() == 2 and name not in (EMBEDDING, POSITIONS)
               else value for name, value in plain.items()}
    return weights | {HEAD: weights.get(EMBEDDING)}


def read_gpt2(name: str, download: bool = False) -> GPT:
    """Read a GPT-2. name: a folder with config.json and model.safetensors (or its pieces), or one of
    `hub.GPT2`.

    Raises `UserError` if files are missing or damaged, or if the model cannot be one of ours.
    """
    path = hub.get(name, 'config.json', download)
    settings = read_json(path)
    index = hub.find(name, INDEX, False)
    files = [WEIGHTS]
    if index:
        places = read_json(index).get('weight_map')
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise UserError(f'{index} is damaged: it has no weight_map of names and files')
        files = sorted(set(places.values()))
    safetensors, weights = study_package('safetensors.torch'), {}
    for file in files:
        place = hub.get(name, file, download)
        try:
            weights |= safetensors.load_file(place)
        except Exception as error:    # a damaged file raises errors of several kinds
            raise UserError(f'{place} is damaged: {str(error)[:150]}') from error
    checkpoint = {'model_args': from_settings(settings, path), 'model': from_weights(weights, path)}
    return build_model(checkpoint, path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a JSON file. Raises `UserError` if the file holds no dict."""
    try:
        content = json.loads(hub.read_text(path))
    except ValueError as error:
        raise UserError(f'{path} is damaged: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} is damaged: expected settings')
    return content


def crop_block_size(weights: dict[str, torch.Tensor], block_size: int) -> dict[str, torch.Tensor]:
    """A state dict for a shorter block: the first positions are kept, as nanoGPT does."""
    return weights | {POSITIONS: weights[POSITIONS][:block_size]}


def begin(config: Config, vocab_size: int) -> tuple[Config, dict[str, torch.Tensor]]:
    """-> the settings with the shape of the model `config.init_from`, and its weights as a state dict,
    cropped to the block. vocab_size: of the data.

    Raises `UserError` if the block is longer than the model's, or the vocabularies differ.
    """
    name, model = config.init_from, read_gpt2(config.init_from, config.download)
    if config.block_size > model.config.block_size:
        raise UserError(f'block_size={config.block_size}: {name} has {model.config.block_size} positions')
    if vocab_size != model.config.vocab_size:
        raise UserError(f'{name} has a vocabulary of {model.config.vocab_size:,}, and {config.dataset} one '
                        f'of {vocab_size:,}: prepare it with the tokenizer of that model (data/text/prepare'
                        '.py --tokens=gpt2)')
    shape = {key: getattr(model.config, key)
             for key in ('n_layer', 'n_head', 'n_embd', 'mlp_expansion', 'bias', 'tanh_gelu')}
    print(f'{name}: {", ".join(f"{key}={value}" for key, value in shape.items())} (in place of the '
          f'settings), and the first {config.block_size} of {model.config.block_size} positions')
    return (dataclasses.replace(config, **shape).check(),
            crop_block_size(model.state_dict(), config.block_size))
