"""Checkpoints: nanoGPT's keys and names, plus the codec and the tasks, so that scoring and sampling need no
other file."""
import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from model import GPT, GPTConfig
from tbtt.archive import check_archive
from tbtt.bpe import Bpe
from tbtt.cli import UserError
from tbtt.config import MOST_STEPS, ROOT, Config
from tbtt.dataset import Codec, check_meta, codec_of_meta, read_meta
from tbtt.replicas import Replicas
from tbtt.tasks import Task, tasks_from

# The entries of an AdamW parameter group that a run does not set, in torch.optim.AdamW's order. Creating an
# AdamW to ask for them would import torch's compiler, which takes longer than all else before the first step.
ADAMW = {'eps': 1e-8, 'amsgrad': False, 'maximize': False, 'foreach': None, 'capturable': False,
         'differentiable': False, 'fused': None, 'decoupled_weight_decay': True}
KEYS = {'model': dict, 'optimizer': dict, 'model_args': dict, 'iter_num': int, 'config': dict}


def to_bytes(checkpoint: dict[str, Any]) -> bytes:
    """The content of a checkpoint's file, as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours or of nanoGPT's, on the CPU. Never runs code from the file, and takes no more
    memory than a few times its size.

    Raises `UserError` for a file that is missing, damaged, or no checkpoint of a GPT.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f'no checkpoint {path}: train first, or name another run with --out_dir or another '
                        'checkpoint with --ckpt') from None
    try:
        # torch itself would decompress members, and does not verify the checksums.
        check_archive(content, path, 'torch.save (of torch 1.6 or newer)', 'name a checkpoint')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')    # the errors below say all that matters
            checkpoint = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).split('GLOBAL ')[-1].split(' was not')[0] if 'GLOBAL' in str(error) else 'damaged'
        raise UserError(f'{path} cannot be loaded without running code from it ({reason}): it is '
                        'refused') from error
    except Exception as error:    # a damaged archive raises nearly anything
        reason = f'{type(error).__name__}: {error}'
        raise UserError(f'{path} is damaged or no checkpoint ({reason})'[:300]) from error
    check_contents(checkpoint, path, len(content))
    return checkpoint


def check_contents(checkpoint: Any, path: str | Path, file_size: int) -> None:
    """Raise `UserError` unless a file of `file_size` bytes holds what a checkpoint needs."""
    for key, kind in KEYS.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), kind):
            raise UserError(f'{path} is no checkpoint of a GPT: it lacks {key}')
    for key in ('model', 'model_args', 'config'):
        if not all(isinstance(name, str) for name in checkpoint[key]):
            raise UserError(f'{path} is damaged: {key} has keys that are no names')
    for name, value in [*checkpoint['model_args'].items(), ('seed', checkpoint['config'].get('seed', 0))]:
        if not isinstance(value, (int, float)):
            raise UserError(f'{path} is damaged: {name}={value!r} is no number')
    if not 0 <= checkpoint['iter_num'] <= MOST_STEPS:
        raise UserError(f'{path} is damaged: iter_num is {shorten(checkpoint["iter_num"])}')
    # A tensor may repeat a few numbers of the file many times, and would need memory for all of them once it
    # is copied. Twice the file's size is allowed, because head and embedding are tied.
    if bytes_of_tensors([checkpoint['model'], checkpoint['optimizer']]) > 2 * file_size:
        raise UserError(f'{path} is damaged: its tensors are larger than the file')


def shorten(number: int) -> str:
    """A whole number as text; a huge one as its number of bits, because Python may refuse to print it."""
    return str(number) if number.bit_length() < 100 else f'a number of {number.bit_length()} bits'


def bytes_of_tensors(value: Any) -> int:
    """Bytes of all tensors within dicts, lists and tuples, as if no tensors shared memory."""
    waiting, total = [value], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)):
            waiting += value.values() if isinstance(value, dict) else value
    return total


class NoInit(TorchFunctionMode):
    """A context that draws no weights: on the meta device, that would import torch's compiler for nothing."""

    def __torch_function__(self, func: Callable, types: object, args: tuple = (),
                           kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        if func is torch.nn.init.normal_:
            return args[0] if args else kwargs['tensor']
        return func(*args, **kwargs)


def build_model(checkpoint: dict[str, Any], path: str | Path) -> GPT:
    """The GPT of a checkpoint, with its weights.
    Raises `UserError` if weights and arguments do not fit each other."""
    args = checkpoint['model_args']
    # nanoGPT saves compiled models under a prefix. Without fused attention it saves the causal mask too, as
    # attn.bias.
    weights = {name.removeprefix('_orig_mod.'): value for name, value in checkpoint['model'].items()
               if not name.endswith('.attn.bias')}
    if not isinstance(args.get('n_layer'), int) or args['n_layer'] > len(weights):
        raise UserError(f'{path}: model_args {args} do not fit its {len(weights)} weights')
    try:
        with torch.device('meta'), NoInit():    # shapes only, until they are known to fit
            model = GPT(GPTConfig(**args))
        for name, parameter in model.state_dict().items():
            weight = weights[name]
            if weight.shape != parameter.shape or weight.dtype not in (torch.float32, torch.float64):
                raise UserError(f'{path}: {name} is {tuple(weight.shape)} of {weight.dtype}, '
                                f'expected {tuple(parameter.shape)} of torch.float32')
        model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, AssertionError,
            RuntimeError) as error:
        raise UserError(f'{path}: the weights do not fit model_args {args} ({error!r})'[:400]) from error
    model.tie()
    return model


def find_meta(checkpoint: dict[str, Any], path: str | Path, dataset: str | None = None) -> Path | None:
    """The path of the meta.pkl with a checkpoint's characters, or None if the checkpoint carries its own. For
    a checkpoint of nanoGPT it is the meta.pkl of `dataset`, by default of the dataset that its config names.
    Raises `UserError` if there is none, or if `dataset` is given and the checkpoint carries its own."""
    if 'meta' in checkpoint:
        if dataset is not None:
            raise UserError(f'{path} carries its own characters and tasks: leave --dataset={dataset} out')
        return None
    name = dataset or checkpoint['config'].get('dataset')
    if not isinstance(name, str):
        raise UserError(f'{path} carries no characters and names no dataset: --dataset=FOLDER names the one '
                        'with its meta.pkl')
    places = [folder / name / 'meta.pkl' for folder in (ROOT / 'data', Path('.'))]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f'{path} carries no characters, and there is neither {places[0]} nor {places[1]}: '
                    '--dataset=FOLDER names the folder with its meta.pkl')


def codec_of(checkpoint: dict[str, Any], path: str | Path,
             meta_path: Path | None = None) -> tuple[Codec | Bpe, dict[str, Task]]:
    """The codec (characters, or GPT-2's tokens) and the tasks of a checkpoint: its own, or a meta.pkl's."""
    meta = checkpoint['meta'] if meta_path is None else read_meta(meta_path)
    check_meta(meta, meta_path or path)
    if meta['vocab_size'] > checkpoint['model_args'].get('vocab_size', 0):
        raise UserError(f'{meta_path or path}: a codec of {meta["vocab_size"]} tokens for a model of '
                        f'{checkpoint["model_args"].get("vocab_size")}')
    return codec_of_meta(meta), tasks_from(meta.get('tasks', {}), meta_path or path)


def optimizer_order(shapes: Mapping[str, torch.Size]) -> list[str]:
    """{name: shape} -> the names in the order of nanoGPT's optimizer: weights that decay, then the others."""
    return sorted(shapes, key=lambda name: len(shapes[name]) == 1)    # stable: matrices first


def pack_optimizer(replicas: Replicas, config: Config, mean: torch.Tensor, square: torch.Tensor,
                   step: float) -> dict[str, Any]:
    """AdamW's state of one replica, mean and square (parameters,), as torch.optim.AdamW's state dict."""
    means, squares = ({name: x[0].clone() for name, x in replicas.named(row[None]).items()}
                      for row in (mean, square))
    names = optimizer_order({name: x.shape for name, x in means.items()})
    matrices = sum(means[name].dim() > 1 for name in names)
    shared = {'lr': config.learning_rate, 'betas': (config.beta1, config.beta2), **ADAMW}
    groups = [{'weight_decay': config.weight_decay, **shared, 'params': list(range(matrices))},
              {'weight_decay': 0.0, **shared, 'params': list(range(matrices, len(names)))}]
    return {'state': {i: {'step': torch.tensor(step), 'exp_avg': means[name], 'exp_avg_sq': squares[name]}
                      for i, name in enumerate(names)},
            'param_groups': groups}


def unpack_optimizer(model: GPT, optimizer: dict[str, Any],
                     path: str | Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """torch.optim.AdamW's state dict, ours or nanoGPT's -> mean (parameters,), square (parameters,), step

    Raises `UserError` if it does not fit this model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    try:
        if not all(isinstance(state, dict) for state in (optimizer['state'], *optimizer['state'].values())):
            raise TypeError('state')
        states = {name: optimizer['state'][i] for i, name in enumerate(optimizer_order(shapes))}
        flat = [torch.cat([states[name][key].float().reshape(shape.numel())
                           for name, shape in shapes.items()]) for key in ('exp_avg', 'exp_avg_sq')]
        step, = {float(state['step']) for state in states.values()}
        return *flat, step
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f'{path}: its optimizer is not that of its model ({error!r})'[:300]) from error
