"""A trained model: options that name its checkpoint, and the class that asks it questions."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbtt import rng
from tbtt.checkpoint import build_model, codec_of, find_meta, read_checkpoint
from tbtt.cli import Parser, UserError
from tbtt.device import autocast, choose_device, choose_dtype
from tbtt.evaluate import NUM_SAMPLES, TEMPERATURE, TOP_K, Evaluator
from tbtt.generate import generate
from tbtt.layout import LATEST, seed_folders
from tbtt.replicas import Replicas
from tbtt.tasks import TASKS, Task


def add_options(parser: Parser, ckpt: str) -> None:
    """--out_dir, --ckpt, --dataset, --device, --seed. ckpt: the default checkpoint in the run's folder."""
    parser.add_argument('--out_dir', default='out', help='folder of the run (default: out)')
    parser.add_argument('--ckpt', default=ckpt, help=f'checkpoint in that folder (default: {ckpt})')
    parser.add_argument('--dataset', help='dataset with the characters and tasks of a nanoGPT checkpoint '
                                          '(default: the one that its config names)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--seed', type=seed_number, help='seed of the samples (default: that of the run)')


def find_checkpoints(folder: str | Path, ckpt: str) -> list[Path]:
    """The folders of the seeds: the folder itself, or the `seed_*` folders below it. Raises `UserError` if a
    `seed_*` folder lacks the checkpoint."""
    folder = Path(folder)
    seeds = seed_folders(folder)
    if not seeds or (folder / ckpt).exists():
        return [folder]
    for seed in seeds:
        if not (seed / ckpt).exists():
            raise UserError(f'no checkpoint {seed / ckpt}: train it first, or name another with --ckpt')
    return seeds


def seed_number(text: str) -> int:
    """argparse type of a seed."""
    seed = int(text)
    if not 0 <= seed < 2**31:
        raise argparse.ArgumentTypeError(f'expected a whole number from 0 to {2**31 - 1}, got {text}')
    return seed


def load_model(path: str | Path, device: str = 'auto', seed: int | None = None,
               dataset: str | None = None) -> 'Trained':
    """The model of a checkpoint. path: a checkpoint file, or the folder of a run, whose latest checkpoint is
    read. seed: of the samples, by default the seed of the run. dataset: provides characters and tasks for a
    checkpoint without them; a line on standard error then says which they are.

    Raises `UserError` if there is no such checkpoint, or it is damaged.
    """
    path = Path(path)
    path = path / LATEST if path.is_dir() else path
    seeds = seed_folders(path.parent)
    if seeds and not path.exists():
        raise UserError(f'{path.parent} holds {len(seeds)} seeds: name one, such as --out_dir={seeds[0]}')
    checkpoint = read_checkpoint(path)
    meta_path = find_meta(checkpoint, path, dataset)
    trained = Trained(checkpoint, path, device, seed, meta_path)
    if meta_path:
        print(f'{path} carries no characters and no tasks: those are of {meta_path}, as it is now, with '
              f'{described(trained.tasks)}', file=sys.stderr)
    return trained


def described(tasks: dict[str, Task]) -> str:
    """What is asked and what is held out, in a few words."""
    if not tasks:
        return 'no task'
    words = [f'{task.name} ({len(task.prompts)} questions, '
             f'{sum(map(task.is_heldout, range(len(task.prompts))))} held out)' for task in tasks.values()]
    return ' and '.join(words)


class Trained:
    """The model of a checkpoint as one replica, with its codec and its tasks. See `load_model`."""

    def __init__(self, checkpoint: dict[str, Any], path: Path, device: str, seed: int | None,
                 meta_path: Path | None) -> None:
        self.path = path
        self.codec, self.tasks = codec_of(checkpoint, path, meta_path)
        model = build_model(checkpoint, path)
        self.config, self.num_params = model.config, model.get_num_params()
        self.iteration, self.trained_on = checkpoint['iter_num'], checkpoint['config'].get('dataset')
        self.digest = checkpoint.get('data')    # digest of that dataset; None for nanoGPT's checkpoints
        self.device = choose_device(device)
        # The dtype of the run, to repeat the run's own evaluation. A CPU has no float16.
        asked = checkpoint['config'].get('dtype', 'auto')
        asked = 'auto' if asked == 'float16' and self.device.type != 'cuda' else asked
        self.dtype = choose_dtype(asked, self.device, self.config.n_embd)
        self.replicas = Replicas([model], self.device)
        seed = checkpoint['config'].get('seed', 1337) if seed is None else seed
        self.seeds = torch.tensor([seed], device=self.device)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (1, T, B) -> logits (1, V, T, B)"""
        with autocast(self.device, self.dtype):
            return self.replicas.forward(tokens)

    def ask(self, name: str) -> tuple[Task, np.ndarray, dict[int, str]]:
        """Ask every prompt of a task `NUM_SAMPLES` times, with the random draws of the run's own evaluation.

        -> (task, number of right answers (P,), {index of a prompt: a wrong answer})
        A checkpoint that names no tasks (nanoGPT's) is asked the paper's questions. Raises `UserError` if the
        vocabulary lacks a character of the task.
        """
        task = self.tasks.get(name) or TASKS[name]()
        evaluator = Evaluator(self.forward, self.codec, {name: task}, self.config.block_size, self.seeds)
        completions = evaluator.sample(name, self.iteration)
        right = evaluator.right(name, completions)
        wrong = {i: self.codec.decode(tokens) for i, tokens, ok in
                 zip(completions.prompt.tolist(), completions.tokens.tolist(), right) if not ok}
        return task, right[completions.row[0].cpu().numpy()].sum(-1), wrong

    def about(self) -> dict[str, str | int]:
        """What both eval scripts say about the checkpoint, at the top of their tables and their JSON."""
        return {'checkpoint': str(self.path), 'iteration': self.iteration, 'parameters': self.num_params}


def ask(model: Trained, prompts: Sequence[str], max_new_tokens: int = 30, temperature: float = TEMPERATURE,
        top_k: int | None = TOP_K) -> list[str]:
    """What a model writes after each prompt, up to the end of the line, without trailing blanks.

    By default it takes nearly always the most likely characters, as in an evaluation. The seed that the model
    was loaded with determines the draws; a prompt that is given twice gets two separate draws. Raises
    `UserError` for a character that the model does not know, for a missing or empty prompt, and if
    `max_new_tokens` or `temperature` is not above 0.
    """
    if isinstance(prompts, str) or not all(prompts) or not prompts:
        raise UserError(f'expected a list of prompts, none of them empty, got {prompts!r}')
    if max_new_tokens < 1 or not temperature > 0:
        raise UserError(f'expected max_new_tokens and temperature above 0, got {max_new_tokens} and '
                        f'{temperature}')
    tokens = [model.codec.encode(prompt) for prompt in prompts]
    completions = generate(model.forward, tokens, model.seeds, rng.SAMPLES, num_samples=1,
                           max_new_tokens=max_new_tokens, block_size=model.config.block_size,
                           temperature=temperature, top_k=top_k, stop=model.codec.stoi.get('\n'))
    said = [model.codec.decode(row) for row in completions.tokens.tolist()]
    return [said[row].split('\n')[0].rstrip(' ') for row in completions.row[0, :, 0].tolist()]


def totals(task: Task, right: np.ndarray) -> dict[str, tuple[int, int]]:
    """{group: (right answers, answers asked for)} of the groups of a task that are not empty"""
    return {group: (int(right[members].sum()), NUM_SAMPLES * len(members))
            for group, members in task.groups().items() if members}
