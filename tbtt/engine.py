"""The training step of R replicas: forward, backward, clipping and AdamW on the device; eager, compiled or captured."""
import math
import shutil

import torch
from torch.func import functional_call

from tbtt import draws
from tbtt.command import UserError
from tbtt.dataset import windows
from tbtt.evaluate import token_losses


def learning_rate(config, iteration):
    """Linear warm-up, cosine decay, then constant: nanoGPT's schedule."""
    if not config.decay_lr:
        return config.learning_rate
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / (config.warmup_iters + 1)
    if iteration > config.lr_decay_iters:
        return config.min_lr
    done = (iteration - config.warmup_iters) / max(1, config.lr_decay_iters - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (config.learning_rate - config.min_lr)


class Engine:
    """Trains replicas. Between two evaluations the host only launches: data, batch indices and learning rates of the
    whole stretch are on the device before it starts.

    State, all (R, ...) float32 on the device: the weights `replicas.flat`, AdamW's `mean` and `square` of the same
    shape, and `steps` (R, 1), the optimizer's steps so far.
    """

    def __init__(self, replicas, data, seeds, config, device, dtype):
        self.replicas, self.config, self.device, self.dtype = replicas, config, device, dtype
        self.data = data.to(device)
        self.num_windows = len(data) - config.block_size
        self.seeds = torch.tensor(seeds, device=device)
        self.mean, self.square = torch.zeros_like(replicas.flat), torch.zeros_like(replicas.flat)
        self.steps = torch.zeros(len(seeds), 1, device=device)
        # AdamW decays matrices and embeddings, not the gains of layer norms and biases.
        self.decay = torch.cat([torch.full((shape.numel(),), config.weight_decay * (len(shape) > 1))
                                for shape in replicas.shapes]).to(device)

    def losses(self, params, starts):
        """starts (R, B): where the windows of a batch start in the data. -> (R,) mean loss of each replica"""
        x, y = windows(self.data, starts, self.config.block_size)
        with autocast(self.device, self.dtype):
            logits = functional_call(self.replicas.template, params, (x,))
        return token_losses(logits, y).mean((-2, -1))

    def step(self, starts, rate):
        """One step of every replica. starts (micro-steps, R, B); rate: learning rate, 0-dim. -> (R,) loss before it"""
        ...

    def run(self, first, last):
        """Train from iteration `first` to `last`. Yields (steps done, losses (steps, R)) after each launch; the losses
        may still be under way on a GPU."""
        config = self.config
        micro = config.gradient_accumulation_steps
        starts = draws.batch_starts(self.seeds, first, last, micro * config.batch_size, self.num_windows)
        starts = starts.unflatten(-1, (micro, config.batch_size)).movedim(-2, 1)    # (iterations, micro, R, B)
        rates = torch.tensor([learning_rate(config, t) for t in range(first, last)], device=self.device)
        self.replicas.template.train()
        for t, (batch, rate) in enumerate(zip(starts.unbind(0), rates.unbind(0)), first + 1):
            yield t, self.step(batch, rate)[None]
