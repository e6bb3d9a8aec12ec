"""Translate settings of nanoGPT and of the paper's own code, from config files and checkpoints, into ours.

Such a config file states only what differs from the defaults of its own project, which are not ours. So a
file that sets a name which only they have is read on top of their defaults.
"""
from collections.abc import Mapping
from typing import Any

# Defaults of nanoGPT's train.py, and the same in the paper's train_with_eval.py. device, dtype and compile
# are not among them, because they depend on the machine.
DEFAULTS = dict(
    out_dir='out', dataset='openwebtext', eval_interval=2000, eval_iters=200, log_interval=1,
    wandb_project='owt', wandb_run_name='gpt2', n_layer=12, n_head=12, n_embd=768, mlp_expansion=4,
    block_size=1024, bias=False, dropout=0.0, batch_size=12, gradient_accumulation_steps=40,
    max_iters=600_000, learning_rate=6e-4, min_lr=6e-5, warmup_iters=2000, lr_decay_iters=600_000,
    decay_lr=True, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0)
# What all of nanoGPT's models have; nanoGPT has no names for these.
UNNAMED = {'mlp_expansion': DEFAULTS['mlp_expansion'], 'tanh_gelu': False}
# The paper's interval between scores: our eval_interval, unless full_eval=False.
INTERVAL = 'full_eval_interval'
# The other names have no meaning here: every evaluation scores the tasks and saves the latest and the best
# checkpoint, and the backend follows from the device.
FOREIGN = {INTERVAL, 'full_eval', 'always_save_checkpoint', 'backend'}


def has_interval(settings: Mapping[str, Any]) -> bool:
    """Do these settings say at which interval the tasks are scored?"""
    return INTERVAL in settings and bool(settings.get('full_eval', True))


def translate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their names -> the same under ours; those without a meaning here are left out."""
    ours = {name: value for name, value in settings.items() if name not in FOREIGN}
    return ours | {'eval_interval': settings[INTERVAL]} if has_interval(settings) else ours


def describe_translation(settings: Mapping[str, Any]) -> str:
    """What `translate` does to these settings, in words; '' where it changes nothing."""
    parts = [f'{INTERVAL} is eval_interval here'] if has_interval(settings) else []
    ignored = [name for name in settings if name in FOREIGN and not (name == INTERVAL and parts)]
    if ignored:
        parts.append(f'{", ".join(ignored)}: without meaning here, ignored')
    return '; '.join(parts)


def recorded_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint of ours, nanoGPT's or the paper's was trained with: {name: value} under our names."""
    return translate({**UNNAMED, **checkpoint['config'], **checkpoint['model_args']})
