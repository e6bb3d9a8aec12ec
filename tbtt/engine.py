"""The training step of R replicas: forward, backward, clipping and AdamW on the device; eager, compiled or captured."""
import math
from typing import NamedTuple

import torch
from torch.func import functional_call, grad_and_value

from tbtt import rng
from tbtt.batches import Batches
from tbtt.checkpoint import build_model, pack_optimizer, unpack_optimizer
from tbtt.cli import UserError
from tbtt.device import autocast
from tbtt.evaluate import token_losses
from tbtt.distributed import Ranks

WORTH_COMPILING = 1000    # steps; compiling takes about as long as some thousand eager steps of the smallest model


class State(NamedTuple):
    """What a step changes; see Engine."""
    flat: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    steps: torch.Tensor
    scale: torch.Tensor
    good: torch.Tensor


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

    `state`, float32 on the device: the weights `replicas.flat` and AdamW's `mean` and `square`, all (R, parameters),
    and `steps` (R, 1), the optimizer's steps so far. For float16 also the `scale` of the loss and for how many steps it
    was `good`, (R, 1) each.
    """

    def __init__(self, replicas, data, seeds, config, device, dtype, ranks=None, newline=None):
        self.ranks = ranks or Ranks()
        self.replicas, self.config, self.device, self.dtype = replicas, config, device, dtype
        self.data = data.to(device, torch.int32)    # as wide as the numbers that the comparisons with it choose among
        self.batches = Batches(self.data, config.block_size, config.windows, config.line_order, newline)
        self.seeds = torch.tensor(seeds, device=device)
        column = torch.zeros(len(seeds), 1, device=device)
        self.state = State(replicas.flat, torch.zeros_like(replicas.flat), torch.zeros_like(replicas.flat), column,
                           column + 2.0**16, column.clone())
        # AdamW decays matrices and embeddings, not the gains of layer norms and the biases.
        self.decay = torch.cat([torch.full((shape.numel(),), config.weight_decay * (len(shape) > 1))
                                for shape in replicas.shapes]).to(device)
        self.stream = None    # of dropout, as a checkpoint left it
        self.launch, self.path = one_by_one(self.step), 'eager'

    def forward(self, tokens):
        """Tokens (R, T, B), or (T, B) for all alike -> logits (R, V, T, B), dropout off, in the arithmetic of training."""
        with autocast(self.device, self.dtype):
            return self.replicas.forward(tokens)

    def step(self, state, starts, rate):
        """One step of every replica. starts (micro-steps, R, B): where the windows of a batch start in the data, or what
        else `Batches.draw` gives for them. rate: learning rate, 0-dim. -> (R,) loss before it, State

        The new state is returned, not written over the old: in-place updates of (R, parameters) trip Inductor's fusion.
        """
        # Looked up outside of what is compiled: fused into it, each comparison with the vocabulary would look up anew.
        return self.learn(state, self.batches.cut(starts), rate)

    def learn(self, state, text, rate):
        """A step on text (micro-steps, R, T + 1, B)."""
        gradient, losses = self.gradient(state, text)
        if self.ranks.split:
            gradient, losses = self.ranks.all_reduce(gradient, losses)
        return losses, self.update(state, gradient, rate)

    def gradient(self, state, text):
        """Mean gradient and loss over the micro-batches of `text`. -> (R, parameters), (R,)"""
        def loss(params, x, y):
            with autocast(self.device, self.dtype):
                logits = functional_call(self.replicas.template, params, (x,))
            losses = token_losses(logits, y).sum((-2, -1)) / count
            scaled = losses * state.scale[:, 0] if self.dtype == torch.float16 else losses
            return scaled.sum(), losses    # replicas share no weight: the gradient of the sum is that of each

        count = (text[:, :, 1:] >= 0).sum((0, -2, -1))    # (R,) characters that are predicted
        gradient = losses = 0
        for batch in text.unbind(0):
            named, (_, each) = grad_and_value(loss, has_aux=True)(
                self.replicas.named(state.flat), batch[:, :-1].clamp(min=0), batch[:, 1:])
            gradient = gradient + torch.cat([named[name].flatten(1) for name in self.replicas.names], 1)
            losses = losses + each
        return gradient, losses

    def update(self, state, gradient, rate):
        """Clip and step by AdamW. -> State"""
        config = self.config
        if self.dtype == torch.float16:
            gradient = gradient / state.scale
        norm = gradient.norm(dim=1, keepdim=True)
        if config.grad_clip:
            gradient = gradient * (config.grad_clip / (norm + 1e-6)).clamp(max=1)
        steps = state.steps + 1
        mean = state.mean.lerp(gradient, 1 - config.beta1)
        square = state.square * config.beta2 + (1 - config.beta2) * gradient.square()
        deviation = square.sqrt() / (1 - config.beta2 ** steps).sqrt() + 1e-8
        flat = state.flat * (1 - rate * self.decay) - rate / (1 - config.beta1 ** steps) * mean / deviation
        new = State(flat, mean, square, steps, state.scale, state.good)
        if self.dtype == torch.float16:
            new = skip_overflow(state, new, norm.isfinite())
        return new

    def prepare(self):
        """Choose the fastest path that works here: `path` says which and, when it is not the best, why. To be called
        once, before `run`; leaves the state as it is."""
        config = self.config
        self.replicas.template.train()
        if config.compile == 'False':
            self.path = 'eager (compile=False)'
        elif config.compile == 'auto' and config.max_iters < WORTH_COMPILING:
            self.path = f'eager (fewer than {WORTH_COMPILING} steps are not worth compiling)'
        else:
            self.try_compiled()
        if self.ranks.split:
            self.path += f', not captured, for each batch is split over {self.ranks.size} processes'
        elif self.path == 'compiled' and self.device.type == 'cuda':
            self.try_captured()

    def try_compiled(self):
        """Compile the step, or say in `path` why it stays eager. Raises `UserError` where compile=True demands it."""
        torch._dynamo.reset()    # it gives up on a function that was compiled for several other shapes before
        try:
            # Between gradient and update of a batch that is split lies a message.
            for part in ('gradient', 'update') if self.ranks.split else ('learn',):
                setattr(self, part, torch.compile(getattr(self, part), dynamic=False))
            if self.config.windows != 'any' or self.config.line_order != 'fixed':
                self.batches.cut = torch.compile(self.batches.cut, dynamic=False)
            self.step(self.state, *self.example())
            self.path = 'compiled'
        except torch.OutOfMemoryError:
            raise
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            for part in ('learn', 'gradient', 'update'):
                vars(self).pop(part, None)    # the compiled ones, which hide the methods
            vars(self.batches).pop('cut', None)
            reason = ' '.join(str(error).split())[:200]
            if self.config.compile == 'True':
                raise UserError(f'compile=True, but this step does not compile here: {reason}') from error
            self.path = f'eager (it does not compile here: {reason})'

    def try_captured(self):
        """Capture the compiled step, or say in `path` why it is launched kernel by kernel."""
        before = State(*(x.clone() for x in self.state))
        try:
            captured = Captured(self.step, self.state, *self.example())
            for _ in captured(self.state, *self.stretch(0, captured.size)):
                pass
            if not torch.equal(self.state.steps, before.steps + captured.size + captured.warm_up):
                raise RuntimeError('a replay of the graph did not step')
            self.launch, self.path = captured, 'compiled and captured'
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.path = f'compiled (not captured: {" ".join(str(error).split())[:200]})'
        finally:
            torch._foreach_copy_(self.state, before)

    def example(self):
        """The arguments of a step but the state."""
        return next(zip(*self.stretch(0, 1)))

    def stretch(self, first, last):
        """What iterations first..last-1 train on: starts (iterations, micro-steps, R, B), or what else
        `Batches.draw` gives, and learning rates."""
        config, micro = self.config, self.config.gradient_accumulation_steps
        starts = self.batches.draw(self.seeds, first, last, micro * config.batch_size)
        rates = torch.tensor([learning_rate(config, t) for t in range(first, last)], device=self.device)
        return self.ranks.shard_batch(starts.unflatten(-1, (micro, -1)).movedim(-2, 1)).contiguous(), rates

    def run(self, first, last):
        """Train from iteration `first` to `last`. Yields (steps done, losses (steps, R)) after each launch; on a GPU the
        losses may still be under way."""
        self.replicas.template.train()
        if first % self.config.eval_interval == 0:
            share = self.ranks.rank if self.ranks.split else 0    # dealt seeds differ in the seed itself
            torch.manual_seed(int(rng.random_bits(int(self.seeds[0]), rng.DROPOUT, first, share)))
        elif self.stream is not None:
            self.random().set_state(self.stream)
        t = first
        for losses in self.launch(self.state, *self.stretch(first, last)):
            t += len(losses)
            yield t, losses

    def random(self):
        """The generator that dropout draws from."""
        if self.device.type == 'cuda':
            return torch.cuda.default_generators[self.device.index or 0]
        return torch.mps._get_default_mps_generator() if self.device.type == 'mps' else torch.default_generator

    def snapshot(self):
        """A copy of the state on the CPU. -> function r -> what a checkpoint holds of replica r: its weights, its
        optimizer and, where there are such, the state of dropout's stream and of float16's scaler"""
        state = State(*(x.to('cpu', copy=True) for x in self.state))
        stream = {'stream': self.random().get_state()} if self.config.dropout else {}
        float16 = self.dtype == torch.float16
        return lambda r: {'model': self.replicas.state_dict(state.flat[r]),
                          'optimizer': pack_optimizer(self.replicas, self.config, state.mean[r], state.square[r],
                                                      state.steps[r].item()),
                          **({'scaler': (state.scale[r].item(), state.good[r].item())} if float16 else {}), **stream}

    def load(self, checkpoints):
        """Take up the state of the replicas from their checkpoints, R as {path: checkpoint}. Raises `UserError` for one
        that is damaged."""
        for r, (path, checkpoint) in enumerate(checkpoints.items()):
            model = build_model(checkpoint, path)
            self.replicas.load(r, model.state_dict())
            self.state.mean[r], self.state.square[r], self.state.steps[r] = unpack_optimizer(
                model, checkpoint['optimizer'], path)
            self.stream = checkpoint.get('stream')
            if 'scaler' in checkpoint:
                self.state.scale[r], self.state.good[r] = checkpoint['scaler']


def skip_overflow(old, new, finite):
    """float16's loss scaling, for each replica alone: a step whose gradient overflowed changes nothing but halves the
    scale, and 2,000 good ones in a row double it (the constants of torch.amp.GradScaler). finite (R, 1) -> State"""
    good = torch.where(finite, old.good + 1, 0)
    scale = torch.where(finite, torch.where(good == 2000, old.scale * 2, old.scale), old.scale / 2)
    kept = State(*(torch.where(finite, after, before) for before, after in zip(old, new)))
    return kept._replace(scale=scale, good=good % 2000)


def in_place(step, state, starts, rate):
    """Step and write the new state over the old. -> (R,) losses"""
    losses, new = step(state, starts, rate)
    torch._foreach_copy_(state, new)
    return losses


def one_by_one(step):
    """A launch of single steps. -> function (state, starts, rates) that yields losses (1, R)"""
    def launch(state, starts, rates):
        for batch, rate in zip(starts.unbind(0), rates.unbind(0)):
            yield in_place(step, state, batch, rate)[None]
    return launch


class Captured:
    """Several steps as one CUDA graph: one launch for all their kernels. Steps that do not fill it run singly.

    Making it steps the state `warm_up` times: no allocation, compilation or handle may be left to the capture.
    """
    warm_up = 3

    def __init__(self, step, state, starts, rate, size=25):
        self.step, self.size = step, size
        self.starts, self.rates = starts.expand(size, *starts.shape).contiguous(), rate.repeat(size)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warm_up):
                in_place(step, state, starts, rate)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = torch.stack([in_place(step, state, self.starts[k], self.rates[k]) for k in range(size)])

    def __call__(self, state, starts, rates):
        whole = len(starts) - len(starts) % self.size
        for k in range(0, whole, self.size):
            self.starts.copy_(starts[k:k + self.size])
            self.rates.copy_(rates[k:k + self.size])
            self.graph.replay()
            yield self.losses.clone()
        yield from one_by_one(self.step)(state, starts[whole:], rates[whole:])
