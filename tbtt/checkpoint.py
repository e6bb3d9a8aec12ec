"""Checkpoints: nanoGPT's keys and names, and beside them the codec and the tasks, so that nothing else is needed to
score or sample one."""
import io
import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from model import GPT, GPTConfig
from tbtt.cli import UserError
from tbtt.config import ROOT
from tbtt.dataset import Codec, check_meta, read_meta
from tbtt.tasks import tasks_from

KEYS = {'model': dict, 'optimizer': dict, 'model_args': dict, 'iter_num': int, 'config': dict}


def to_bytes(checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def read_checkpoint(path):
    """A checkpoint of ours or of nanoGPT's -> dict, on the CPU. Never runs code from the file.

    Raises `UserError` for a file that is missing, damaged, or no checkpoint of a GPT.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f'no checkpoint {path}: train first, or name another with --ckpt') from None
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):    # torch does not look at the checksums in its own archives
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip() is not None:
                    raise UserError(f'{path} is damaged: the checksum of {archive.testzip()} is wrong')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')    # what follows says all there is to say
            checkpoint = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).split('GLOBAL ')[-1].split(' was not')[0] if 'GLOBAL' in str(error) else 'damaged'
        raise UserError(f'{path} cannot be loaded without running code from it ({reason}): it is refused') from error
    except Exception as error:    # a damaged archive raises nearly anything
        raise UserError(f'{path} is damaged or no checkpoint ({type(error).__name__}: {error})'[:300]) from error
    for key, kind in KEYS.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), kind):
            raise UserError(f'{path} is no checkpoint of a GPT: it lacks {key}')
    for key in ('model', 'model_args', 'config'):
        if not all(isinstance(name, str) for name in checkpoint[key]):
            raise UserError(f'{path} is damaged: {key} has keys that are no names')
    for name, value in [*checkpoint['model_args'].items(), ('seed', checkpoint['config'].get('seed', 0))]:
        if not isinstance(value, (int, float)):
            raise UserError(f'{path} is damaged: {name}={value!r} is no number')
    return checkpoint


def build_model(checkpoint, path):
    """The GPT of a checkpoint, with its weights. Raises `UserError` where weights and arguments do not fit."""
    args = checkpoint['model_args']
    # nanoGPT saves compiled models under a prefix, and without fused attention its causal mask as attn.bias
    weights = {name.removeprefix('_orig_mod.'): value for name, value in checkpoint['model'].items()
               if not name.endswith('.attn.bias')}
    if not isinstance(args.get('n_layer'), int) or args['n_layer'] > len(weights):
        raise UserError(f'{path}: model_args {args} do not fit its {len(weights)} weights')
    try:
        with torch.device('meta'):    # shapes only, until they are known to fit
            model = GPT(GPTConfig(**args))
        for name, parameter in model.state_dict().items():
            if weights[name].shape != parameter.shape or weights[name].dtype not in (torch.float32, torch.float64):
                raise UserError(f'{path}: {name} is {tuple(weights[name].shape)} of {weights[name].dtype}, expected '
                                f'{tuple(parameter.shape)} of torch.float32')
        model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f'{path}: the weights do not fit model_args {args} ({error!r})'[:400]) from error
    model.tie()
    return model


def codec_of(checkpoint, path):
    """(Codec, tasks) of a checkpoint: its own, or for nanoGPT's those of the dataset that its config names."""
    meta = checkpoint.get('meta')
    if meta is None:
        dataset = checkpoint['config'].get('dataset')
        candidates = [folder / str(dataset) / 'meta.pkl' for folder in (ROOT / 'data', Path('.'))]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise UserError(f'{path} carries no codec, and its dataset {dataset} has no meta.pkl at {candidates[0]}')
        meta = read_meta(found[0])
    check_meta(meta, path)
    if meta['vocab_size'] > checkpoint['model_args'].get('vocab_size', 0):
        raise UserError(f'{path}: a codec of {meta["vocab_size"]} characters for a model of '
                        f'{checkpoint["model_args"].get("vocab_size")}')
    return Codec(meta['stoi'], meta['itos']), tasks_from(meta.get('tasks', {}), path)


def optimizer_order(shapes):
    """{name: shape} -> the names in the order of nanoGPT's optimizer: those that decay, then the others."""
    return sorted(shapes, key=lambda name: len(shapes[name]) == 1)    # stable: matrices first


def pack_optimizer(replicas, config, mean, square, step):
    """AdamW's state of one replica, mean and square (parameters,), as torch.optim.AdamW's state dict."""
    means, squares = ({name: x[0].clone() for name, x in replicas.named(row[None]).items()} for row in (mean, square))
    names = optimizer_order({name: x.shape for name, x in means.items()})
    matrices = sum(means[name].dim() > 1 for name in names)
    groups = [{'params': [torch.empty(0) for _ in names[:matrices]], 'weight_decay': config.weight_decay},
              {'params': [torch.empty(0) for _ in names[matrices:]], 'weight_decay': 0.0}]
    betas = (config.beta1, config.beta2)
    state = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas).state_dict()
    state['state'] = {i: {'step': torch.tensor(step), 'exp_avg': means[name], 'exp_avg_sq': squares[name]}
                      for i, name in enumerate(names)}
    return state


def unpack_optimizer(model, optimizer, path):
    """torch.optim.AdamW's state dict, ours or nanoGPT's -> mean (parameters,), square (parameters,), step

    Raises `UserError` where it is not one of this model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    try:
        if not all(isinstance(state, dict) for state in (optimizer['state'], *optimizer['state'].values())):
            raise TypeError('state')
        states = {name: optimizer['state'][i] for i, name in enumerate(optimizer_order(shapes))}
        flat = [torch.cat([states[name][key].float().reshape(shape.numel()) for name, shape in shapes.items()])
                for key in ('exp_avg', 'exp_avg_sq')]
        step, = {float(state['step']) for state in states.values()}
        return *flat, step
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f'{path}: its optimizer is not that of its model ({error!r})'[:300]) from error
