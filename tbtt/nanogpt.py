"""The config files of nanoGPT and of the paper's own code: how their settings are read here.

Such a file states what differs from the defaults of its own project, which are not ours. One that uses a setting which
only they have is therefore read on top of their defaults.
"""
from collections.abc import Mapping
from typing import Any

# Of nanoGPT's train.py; those of the paper's train_with_eval.py are the same. The machine is not theirs: device, dtype
# and compile stay what they are here.
DEFAULTS = dict(
    out_dir='out', dataset='openwebtext', eval_interval=2000, eval_iters=200, log_interval=1, wandb_project='owt',
    wandb_run_name='gpt2', n_layer=12, n_head=12, n_embd=768, mlp_expansion=4, block_size=1024, bias=False, dropout=0.0,
    batch_size=12, gradient_accumulation_steps=40, max_iters=600_000, learning_rate=6e-4, min_lr=6e-5, warmup_iters=2000,
    lr_decay_iters=600_000, decay_lr=True, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0)
EXAMPLES = ', '.join(f'{name}={DEFAULTS[name]}' for name in ('n_layer', 'mlp_expansion', 'weight_decay'))
# always_save_checkpoint: every evaluation saves the latest and the best. full_eval: every evaluation scores the tasks.
# backend: follows from the device.
WITHOUT_MEANING = ('always_save_checkpoint', 'full_eval', 'backend')
RENAMED = {'full_eval_interval': 'eval_interval'}    # theirs -> ours
ONLY_THEIRS = {*WITHOUT_MEANING, *RENAMED}


def translate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their names -> the same under ours; those without a meaning here are left out."""
    ours = {name: value for name, value in settings.items() if name not in ONLY_THEIRS}
    return ours | {ours_name: settings[name] for name, ours_name in RENAMED.items() if name in settings}


def describe_translation(names: set[str]) -> str:
    """What becomes of the settings of these names, in words. names: some of ONLY_THEIRS, at least one."""
    parts = [f'{name} is {RENAMED[name]} here' for name in sorted(names & RENAMED.keys())]
    ignored = [name for name in WITHOUT_MEANING if name in names]
    return '; '.join(parts + [f'without meaning here: {", ".join(ignored)}'] * bool(ignored))
