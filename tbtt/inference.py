"""A trained model at the shell: the options that name a checkpoint, and what is needed to ask it."""
import argparse
from pathlib import Path

import torch

from tbtt.checkpoint import build_model, codec_of, read_checkpoint
from tbtt.cli import UserError
from tbtt.device import autocast, choose_device, choose_dtype
from tbtt.evaluate import NUM_SAMPLES, Evaluator
from tbtt.replicas import Replicas
from tbtt.tasks import KINDS


def add_options(parser, ckpt):
    """--out_dir, --ckpt, --device and --seed. ckpt: the default checkpoint in the folder of the run."""
    parser.add_argument('--out_dir', default='out', help='folder of the run (default: out)')
    parser.add_argument('--ckpt', default=ckpt, help=f'checkpoint in that folder (default: {ckpt})')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps, ... (default: auto)')
    parser.add_argument('--seed', type=seed_number, help='of the samples (default: that of the run)')


def find_checkpoints(folder, ckpt):
    """The folders of one seed each: the folder itself, or those `seed_*` below it. Raises `UserError` where one of these lacks
    the checkpoint."""
    folder = Path(folder)
    seeds = sorted(folder.glob('seed_*'))
    if not seeds or (folder / ckpt).exists():
        return [folder]
    for seed in seeds:
        if not (seed / ckpt).exists():
            raise UserError(f'no checkpoint {seed / ckpt}: train it first, or name another with --ckpt')
    return seeds


def seed_number(text):
    """argparse type of a seed."""
    seed = int(text)
    if not 0 <= seed < 2**31:
        raise argparse.ArgumentTypeError(f'expected a whole number from 0 to {2**31 - 1}, got {text}')
    return seed


class Trained:
    """The model of a checkpoint as one replica, with its codec and its tasks."""

    def __init__(self, args):
        folder = Path(args.out_dir)
        self.path = folder / args.ckpt
        seeds = sorted(folder.glob('seed_*'))
        if seeds and not self.path.exists():
            raise UserError(f'{folder} holds {len(seeds)} seeds: name one, such as --out_dir={seeds[0]}')
        checkpoint = read_checkpoint(self.path)
        self.codec, self.tasks = codec_of(checkpoint, self.path)
        model = build_model(checkpoint, self.path)
        self.config, self.num_params = model.config, model.get_num_params()
        self.iteration, self.trained_on = checkpoint['iter_num'], checkpoint['config'].get('dataset')
        self.digest = checkpoint.get('data')    # of that dataset; nanoGPT's checkpoints have none
        self.device = choose_device(args.device)
        # On a GPU in the arithmetic of the run, whose own evaluation this repeats.
        asked = checkpoint['config'].get('dtype', 'auto') if self.device.type == 'cuda' else 'auto'
        self.dtype = choose_dtype(asked, self.device)
        self.replicas = Replicas([model], self.device)
        seed = checkpoint['config'].get('seed', 1337) if args.seed is None else args.seed
        self.seeds = torch.tensor([seed], device=self.device)

    def forward(self, tokens):
        """Tokens (1, T, B) -> logits (1, V, T, B)"""
        with autocast(self.device, self.dtype):
            return self.replicas.forward(tokens)

    def ask(self, name):
        """Ask every prompt of a task `NUM_SAMPLES` times, with the draws of the run's own evaluation.

        -> (task, right answers (P,), wrong answers {prompt: text of one})
        A checkpoint that names no tasks (nanoGPT's) is asked the paper's. Raises `UserError` where the vocabulary lacks
        a character of the task.
        """
        task = self.tasks.get(name) or KINDS[name]()
        evaluator = Evaluator(self.forward, self.codec, {name: task}, self.config.block_size, self.seeds)
        completions = evaluator.sample(name, self.iteration)
        right = evaluator.right(name, completions)
        wrong = {i: self.codec.decode(tokens) for i, tokens, ok in
                 zip(completions.prompt.tolist(), completions.tokens.tolist(), right) if not ok}
        return task, right[completions.row[0].cpu().numpy()].sum(-1), wrong

    def about(self):
        """What both evaluators say of the checkpoint, first in their tables and in their JSON."""
        return {'checkpoint': str(self.path), 'iteration': self.iteration, 'parameters': self.num_params}


def totals(task, right):
    """{group: (right answers, questions)} of the groups of a task that are not empty"""
    return {group: (int(right[members].sum()), NUM_SAMPLES * len(members))
            for group, members in task.groups().items() if members}
