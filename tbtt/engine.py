"""The training step of R replicas: forward, backward, clipping and AdamW on the device; eager, compiled or captured."""
import math

import torch
from torch.func import functional_call, grad_and_value

from tbtt import draws
from tbtt.checkpoint import pack_optimizer, unpack_optimizer
from tbtt.dataset import windows
from tbtt.device import autocast
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

    State, float32 on the device: the weights `replicas.flat` and AdamW's `mean` and `square`, all (R, parameters), and
    `steps` (R, 1), the optimizer's steps so far.
    """

    def __init__(self, replicas, data, seeds, config, device, dtype):
        self.replicas, self.config, self.device, self.dtype = replicas, config, device, dtype
        self.data = data.to(device)
        self.seeds = torch.tensor(seeds, device=device)
        self.mean, self.square = torch.zeros_like(replicas.flat), torch.zeros_like(replicas.flat)
        self.steps = torch.zeros(len(seeds), 1, device=device)
        # AdamW decays matrices and embeddings, not the gains of layer norms and the biases.
        self.decay = torch.cat([torch.full((shape.numel(),), config.weight_decay * (len(shape) > 1))
                                for shape in replicas.shapes]).to(device)
        self.path = 'eager'
        self.step = self.eager_step

    def gradient(self, flat, starts):
        """Mean gradient and loss over micro-batches. flat (R, P), starts (micro-steps, R, B) -> (R, P), (R,)"""
        def loss(params, x, y):
            with autocast(self.device, self.dtype):
                logits = functional_call(self.replicas.template, params, (x,))
            losses = token_losses(logits, y).mean((-2, -1))
            return losses.sum(), losses    # replicas share no weight: the gradient of the sum is that of each

        gradient = losses = 0
        for batch in starts.unbind(0):
            x, y = windows(self.data, batch, self.config.block_size)
            named, (_, each) = grad_and_value(loss, has_aux=True)(self.replicas.named(flat), x, y)
            gradient = gradient + torch.cat([named[name].flatten(1) for name in self.replicas.names], 1)
            losses = losses + each
        return gradient / len(starts), losses / len(starts)

    def eager_step(self, flat, mean, square, steps, starts, rate):
        """One step of every replica, in place. rate: learning rate, 0-dim. -> (R,) loss before it"""
        config = self.config
        gradient, losses = self.gradient(flat, starts)
        if config.grad_clip:
            norm = gradient.norm(dim=1, keepdim=True)
            gradient = gradient * (config.grad_clip / (norm + 1e-6)).clamp(max=1)
        steps += 1
        flat.mul_(1 - rate * self.decay)
        mean.lerp_(gradient, 1 - config.beta1)
        square.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
        deviation = square.sqrt() / (1 - config.beta2 ** steps).sqrt() + 1e-8
        flat.sub_(rate / (1 - config.beta1 ** steps) * mean / deviation)
        return losses

    def run(self, first, last):
        """Train from iteration `first` to `last`. Yields (steps done, losses (steps, R)) after each launch; on a GPU the
        losses may still be under way."""
        config, micro = self.config, self.config.gradient_accumulation_steps
        starts = draws.batch_starts(self.seeds, first, last, micro * config.batch_size,
                                    len(self.data) - config.block_size)
        starts = starts.unflatten(-1, (micro, -1)).movedim(-2, 1).contiguous()    # (iterations, micro-steps, R, B)
        rates = torch.tensor([learning_rate(config, t) for t in range(first, last)], device=self.device)
        self.replicas.template.train()
        for t, (batch, rate) in enumerate(zip(starts.unbind(0), rates.unbind(0)), first + 1):
            losses = self.step(self.replicas.flat, self.mean, self.square, self.steps, batch, rate)
            yield t, losses[None]

    def prepare(self):
        """Choose the path of the step. To be called once, before `run`."""

    def snapshot(self):
        """A copy of the state on the CPU. -> function r -> (weights, optimizer) of one replica, as a checkpoint's"""
        flat, mean, square, steps = (x.to('cpu', copy=True) for x in (self.replicas.flat, self.mean, self.square,
                                                                      self.steps))
        return lambda r: (self.replicas.state_dict(flat[r]),
                          pack_optimizer(self.replicas, self.config, mean[r], square[r], steps[r].item()))

    def load(self, checkpoints):
        """Take up the state of the replicas from their checkpoints, a list of R."""
        for r, checkpoint in enumerate(checkpoints):
            self.replicas.load(r, checkpoint['model'])
            self.mean[r], self.square[r], self.steps[r] = unpack_optimizer(self.replicas, checkpoint['optimizer'])
