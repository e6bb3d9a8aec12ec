"""The training step of R replicas: loss, gradient, clipping and AdamW on the device; eager, compiled,
captured or fused."""
import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad_and_value

from model import MANY
from tbtt import rng
from tbtt.batches import NOTHING, Batches
from tbtt.capture import Captured, checked, one_by_one
from tbtt.checkpoint import build_model, pack_optimizer, unpack_optimizer
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.device import INDEX_BYTES, autocast, one_thread
from tbtt.distributed import Ranks
from tbtt.fused.build import NotHere
from tbtt.fused.kernel import Kernel
from tbtt.replicas import Replicas

WORTH_COMPILING = 1000      # steps; compiling takes as long as about 1,000 eager steps of the smallest model
WORTH_BUILDING = 100        # steps; the fused step is built once, in seconds
FUSED_TOLERANCE = 1e-5      # relative to the norm of the gradient; float32 itself is off by about 1e-7


class State(NamedTuple):
    """What a step changes; see Engine."""
    params: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor
    scale: torch.Tensor
    growth_tracker: torch.Tensor


def learning_rate(config: Config, iteration: int) -> float:
    """Linear warm-up, cosine decay, then constant: nanoGPT's schedule."""
    if not config.decay_lr:
        return config.learning_rate
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / (config.warmup_iters + 1)
    if iteration > config.lr_decay_iters:
        return config.min_lr
    done = (iteration - config.warmup_iters) / max(1, config.lr_decay_iters - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (config.learning_rate - config.min_lr)


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logits (R, V, T, B), targets (T, B) or (R, T, B) -> (R, T, B) cross-entropy in nats, float32, 0 where
    the target is NOTHING; for training"""
    logits = logits.float()
    if logits.shape[-3] >= MANY:
        rows = logits.flatten(-2).mT.flatten(0, 1)    # (R * T * B, V), their order in memory
        targets = targets.long().expand(len(logits), -1, -1)
        return F.cross_entropy(rows, targets.flatten(), reduction='none',
                               ignore_index=NOTHING).view_as(targets)
    vocabulary = torch.arange(logits.shape[-3], dtype=targets.dtype, device=logits.device)[:, None, None]
    # Masked, not indexed: the gradient of an index is a scatter, which no compiler vectorises.
    target = torch.where(targets.unsqueeze(-3) == vocabulary, logits, 0.0).sum(-3)
    return torch.where(targets >= 0, logits.logsumexp(-3) - target, 0.0)


def gradient_of(loss: Callable, params: dict[str, torch.Tensor],
                *batch: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """loss(params, *batch) gives a 0-dim tensor to differentiate and a second tensor. -> {name: gradient},
    the second tensor"""
    if torch.compiler.is_compiling():
        named, (_, beside) = grad_and_value(loss, has_aux=True)(params, *batch)
        return named, beside
    # The same bits. Outside of compiled code, torch.func would import the compiler, which takes longer than
    # many runs.
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        total, beside = loss(leaves, *batch)
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())))), beside.detach()


class ForwardPass:
    """An engine's forward pass, dropout off, in the arithmetic of training. `last` and `losses` compute only
    what is asked for; they are None unless the step is fused."""

    def __init__(self, engine: 'Engine') -> None:
        self.engine = engine

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (R, T, B), or (T, B) for all alike -> logits (R, V, T, B)"""
        engine = self.engine
        if engine.kernel:
            return engine.kernel.forward(engine.state.params, tokens)
        with autocast(engine.device, engine.dtype):
            return engine.replicas.forward(tokens)

    @property
    def last(self) -> Callable | None:
        """(tokens (R, T, B), position (R, B)) -> logits (R, V, B) at that position of each window"""
        return self.engine.kernel and partial(self.engine.kernel.last, self.engine.state.params)

    @property
    def losses(self) -> Callable | None:
        """text (T + 1, B) or (R, T + 1, B) -> (R, T, B), as `Losses.of_windows`"""
        return self.engine.kernel and partial(self.engine.kernel.losses, self.engine.state.params)


class Engine:
    """Trains replicas. Between two evaluations the host only launches steps: data, batch indices and learning
    rates are on the device before a stretch of steps starts.

    `state`, float32 on the device: the weights `params` (those of `replicas`) and AdamW's `exp_avg` and
    `exp_avg_sq`, all (R, parameters), and `step` (R, 1), the optimizer's steps so far. For float16 also the
    `scale` of the loss and the `growth_tracker`, the number of good steps with this scale, (R, 1) each.

    `mode` says how steps are taken and, if that is not the best mode, why.
    """

    def __init__(self, replicas: Replicas, data: torch.Tensor, seeds: list[int], config: Config,
                 device: torch.device, dtype: torch.dtype, ranks: Ranks | None = None,
                 newline: int | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.replicas, self.config, self.device, self.dtype = replicas, config, device, dtype
        self.data = data.to(device, torch.int32)    # as wide as the float32 values that it masks
        self.batches = Batches(self.data, config.block_size, config.windows, config.line_order, newline)
        self.seeds = torch.tensor(seeds, device=device)
        column = torch.zeros(len(seeds), 1, device=device)
        self.state = State(replicas.flat, torch.zeros_like(replicas.flat), torch.zeros_like(replicas.flat),
                           column, column + 2.0**16, column.clone())
        # AdamW decays matrices and embeddings, not the gains of layer norms and the biases.
        self.decay = torch.cat([torch.full((shape.numel(),), config.weight_decay * (len(shape) > 1))
                                for shape in replicas.shapes]).to(device)
        self.kernel = None
        self.step_fn, self.mode = one_by_one(self.step), 'eager'

    @property
    def forward(self) -> 'ForwardPass':
        """The forward pass of the replicas as they are when it is called."""
        return ForwardPass(self)

    def measuring(self) -> contextlib.AbstractContextManager:
        """A context for measuring: one thread if the step is fused, as torch then has only short work."""
        return one_thread() if self.kernel else contextlib.nullcontext()

    def step(self, state: State, starts: torch.Tensor, lr: torch.Tensor) -> tuple[torch.Tensor, State]:
        """One step of every replica. starts (micro-steps, R, B): where the windows of a batch start in the
        data; with a fresh line order (micro-steps, R, K, B), see `Batches.draw`. lr: learning rate, 0-dim.
        -> (R,) loss before the step, State

        The new state is returned, not written over the old one: in-place updates of (R, parameters) disturb
        Inductor's fusion.
        """
        # The lookup of the text is outside of the compiled part. Fused into it, the lookup would be repeated
        # for each comparison with the vocabulary.
        return self.learn(state, self.batches.cut(starts), lr)

    def learn(self, state: State, windows: torch.Tensor, lr: torch.Tensor) -> tuple[torch.Tensor, State]:
        """As `step`, on windows (micro-steps, R, T + 1, B)."""
        gradient, losses = self.gradient(state, windows)
        if self.ranks.split:
            # If lines end within windows, the shares may predict different numbers of characters.
            count = (windows[:, :, 1:] >= 0).sum((0, -2, -1)).to(losses.dtype)
            gradient, losses, count = self.ranks.all_reduce(gradient * count[:, None], losses * count, count)
            gradient, losses = gradient / count[:, None], losses / count
        return losses, self.update(state, gradient, lr)

    def gradient(self, state: State, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean gradient and loss over the micro-steps of `windows`. -> (R, parameters), (R,)"""
        def loss(params: dict, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if single:
                params, x = {name: value.squeeze(0) for name, value in params.items()}, x[0]
            with autocast(self.device, self.dtype):
                logits = functional_call(self.replicas.template, params, (x,))
            logits = logits[None] if single else logits
            losses = token_losses(logits, y).sum((-2, -1)) / count
            scaled = losses * state.scale[:, 0] if self.dtype == torch.float16 else losses
            return scaled.sum(), losses    # no shared weights: the sum's gradient is that of each

        # A single replica needs no axis R: a matrix product is faster than a batch of one. But its bits
        # differ, and in eager mode a replica must have the same bits alone as among others.
        single = len(state.params) == 1 and torch.compiler.is_compiling()
        count = (windows[:, :, 1:] >= 0).sum((0, -2, -1))    # (R,) characters that are predicted
        gradient = losses = 0
        for batch in windows.unbind(0):
            named, each = gradient_of(loss, self.replicas.named(state.params), batch[:, :-1].clamp(min=0),
                                      batch[:, 1:])
            gradient = gradient + torch.cat([named[name].flatten(1) for name in self.replicas.names], 1)
            losses = losses + each
        return gradient, losses

    def update(self, state: State, gradient: torch.Tensor, lr: torch.Tensor) -> State:
        """Clip the gradient and take a step of AdamW."""
        config = self.config
        if self.dtype == torch.float16:
            gradient = gradient / state.scale
        norm = gradient.norm(dim=1, keepdim=True)
        if config.grad_clip:
            gradient = gradient * (config.grad_clip / (norm + 1e-6)).clamp(max=1)
        step = state.step + 1
        exp_avg = state.exp_avg.lerp(gradient, 1 - config.beta1)
        exp_avg_sq = state.exp_avg_sq * config.beta2 + (1 - config.beta2) * gradient.square()
        deviation = exp_avg_sq.sqrt() / (1 - config.beta2 ** step).sqrt() + 1e-8
        params = state.params * (1 - lr * self.decay) - lr / (1 - config.beta1 ** step) * exp_avg / deviation
        new = State(params, exp_avg, exp_avg_sq, step, state.scale, state.growth_tracker)
        if self.dtype == torch.float16:
            new = skip_overflow(state, new, norm.isfinite())
        return new

    def prepare(self) -> None:
        """Choose the fastest mode that works here. Call this once, before `run`; the state does not change.
        Raises `UserError` if the settings demand a mode that does not work."""
        compile, steps, on_cpu = self.config.compile, self.config.max_iters, self.device.type == 'cpu'
        self.replicas.template.train()
        if compile == 'False':
            self.mode = 'eager (compile=False)'
        elif compile == 'fused' or compile == 'auto' and on_cpu and steps >= WORTH_BUILDING:
            self.try_fused()
        elif compile == 'auto' and steps < WORTH_COMPILING:
            self.mode = f'eager (fewer than {WORTH_COMPILING} steps are not worth compiling)'
        else:
            self.try_compiled()
        if self.ranks.split:
            self.mode += f', not captured, for each batch is split over {self.ranks.size} processes'
        elif self.mode == 'compiled' and self.device.type == 'cuda':
            self.try_captured()

    def try_fused(self) -> None:
        """Use the fused step if its gradient agrees with autograd's. Else use the next best mode, and say why
        in `mode`. Raises `UserError` if compile=fused demands the fused step."""
        try:
            self.check_fits_fused()
            kernel = Kernel(self.replicas, self.batches, self.config)
            error = self.error_of(kernel)
            if not error <= FUSED_TOLERANCE:
                raise NotHere(f'its gradient differs from that of autograd by {error:.1e}')
            self.kernel, self.step_fn, self.mode = kernel, kernel, 'fused'
        except NotHere as reason:
            if self.config.compile == 'fused':
                raise UserError(f'compile=fused, but the fused step is not available: {reason}') from reason
            if self.config.max_iters < WORTH_COMPILING:
                self.mode = 'eager'
            else:
                self.try_compiled()
            self.mode += f' (not fused: {reason})'

    def check_fits_fused(self) -> None:
        """Raise `NotHere` if the fused step does not do what this engine needs."""
        if self.device.type != 'cpu':
            raise NotHere(f'the device is {self.device.type}')
        if self.dtype != torch.float32:
            raise NotHere(f'dtype is {str(self.dtype).removeprefix("torch.")}, it supports float32 only')
        if self.ranks.split:
            raise NotHere(f'each batch is split over {self.ranks.size} processes')

    def error_of(self, kernel: Kernel) -> float:
        """How far the kernel's gradient is from autograd's, relative to the norm of autograd's. For one batch
        of one replica, with random weights at which every part of the model matters."""
        params = 0.3 * torch.randn(1, self.state.params.shape[1], generator=torch.Generator().manual_seed(1))
        state = self.state._replace(params=params)
        starts = self.example()[0][:, :1]
        ours, _ = kernel.gradient(state, starts)
        with one_thread():
            expected, _ = self.gradient(state, self.batches.cut(starts))
        return ((ours - expected).norm() / expected.norm().clamp(min=1e-30)).item()

    def try_compiled(self) -> None:
        """Compile the step, or say in `mode` why it stays eager. Raises `UserError` if compile=True demands
        it."""
        torch._dynamo.reset()    # it gives up on a function already compiled for several other shapes
        try:
            # For a split batch, the processes exchange a message between gradient and update.
            for part in ('gradient', 'update') if self.ranks.split else ('learn',):
                setattr(self, part, torch.compile(getattr(self, part), dynamic=False))
            if not self.batches.plain:
                self.batches.cut = torch.compile(self.batches.cut, dynamic=False)
            self.step(self.state, *self.example())
            self.mode = 'compiled'
        except torch.OutOfMemoryError:
            raise
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            for part in ('learn', 'gradient', 'update'):
                vars(self).pop(part, None)    # the compiled versions, which hide the methods
            vars(self.batches).pop('cut', None)
            reason = ' '.join(str(error).split())[:200]
            if self.config.compile == 'True':
                raise UserError(f'compile=True, but this step does not compile here: {reason}') from error
            self.mode = f'eager (it does not compile here: {reason})'

    def try_captured(self) -> None:
        """Capture the compiled step, or say in `mode` why it is launched kernel by kernel."""
        before = State(*(x.clone() for x in self.state))
        try:
            captured = Captured(self.step, self.state, *self.example())
            # An overflow of float16 does not count as a step, but changes the scale.
            self.step_fn = checked(captured, self.state,
                                   lambda state: [state.step, state.scale, state.growth_tracker],
                                   *self.stretch(0, captured.size))
            self.mode = 'compiled and captured'
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.mode = f'compiled (not captured: {" ".join(str(error).split())[:200]})'
        finally:
            torch._foreach_copy_(self.state, before)

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Example arguments of a step, without the state."""
        return next(zip(*self.stretch(0, 1)))

    def stretch(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What iterations first..last-1 train on: starts (iterations, micro-steps, R, B), with a fresh line
        order (iterations, micro-steps, R, K, B), and learning rates."""
        config, micro = self.config, self.config.gradient_accumulation_steps
        draw = (self.kernel or self.batches).draw
        starts = draw(self.seeds, first, last, micro * config.batch_size)
        lr = torch.tensor([learning_rate(config, t) for t in range(first, last)], device=self.device)
        return self.ranks.shard_batch(starts.unflatten(-1, (micro, -1)).movedim(-2, 1)).contiguous(), lr

    def stretch_size(self) -> int:
        """For how many iterations indices are prepared at once: a multiple of the steps of one launch."""
        config, launch = self.config, getattr(self.step_fn, 'size', 1)
        each = 8 * len(self.seeds) * config.batch_size * config.gradient_accumulation_steps
        each *= self.batches.num_lines if self.batches.fresh else 1
        return max(1, INDEX_BYTES // each // launch) * launch

    def run(self, first: int, last: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Train from iteration `first` to `last`. Yields (iterations done, losses (steps, R)) after each
        launch; on a GPU the losses may not be computed yet."""
        self.replicas.template.train()
        size = self.stretch_size()
        t = first
        for begin in range(first, last, size):
            launches = self.step_fn(self.state, *self.stretch(begin, min(last, begin + size)))
            while t < min(last, begin + size):
                self.seed_dropout(t)
                losses = next(launches)
                t += len(losses)
                yield t, losses

    def seed_dropout(self, iteration: int) -> None:
        """Seed the stream that the dropout of a launch draws from, by seed and iteration. So a run that is
        resumed there, on any device, does not depend on earlier draws."""
        if self.config.dropout:
            share = self.ranks.rank if self.ranks.split else 0    # separate seeds differ in seeds[0]
            torch.manual_seed(int(rng.random_bits(int(self.seeds[0]), rng.DROPOUT, iteration, share)))

    def snapshot(self) -> Callable[[int], dict]:
        """Copy the state to the CPU. -> function of r: what a checkpoint holds of replica r: its weights, its
        optimizer and, for float16, the scaler"""
        state = State(*(x.to('cpu', copy=True) for x in self.state))
        float16 = self.dtype == torch.float16
        return lambda r: {'model': self.replicas.state_dict(state.params[r]),
                          'optimizer': pack_optimizer(self.replicas, self.config, state.exp_avg[r],
                                                      state.exp_avg_sq[r], state.step[r].item()),
                          **({'scaler': (state.scale[r].item(), state.growth_tracker[r].item())}
                             if float16 else {})}

    def load(self, checkpoints: dict[str, dict]) -> None:
        """Load the state of the R replicas from their checkpoints, {path: checkpoint}. Raises `UserError` for
        a damaged checkpoint."""
        for r, (path, checkpoint) in enumerate(checkpoints.items()):
            model = build_model(checkpoint, path)
            self.replicas.load(r, model.state_dict())
            self.state.exp_avg[r], self.state.exp_avg_sq[r], self.state.step[r] = unpack_optimizer(
                model, checkpoint['optimizer'], path)
            if 'scaler' in checkpoint:
                self.state.scale[r], self.state.growth_tracker[r] = checkpoint['scaler']


def skip_overflow(old: State, new: State, finite: torch.Tensor) -> State:
    """float16's loss scaling, for each replica alone. A step whose gradient overflowed only halves the scale
    and sets `growth_tracker` to 0. 2,000 good steps in a row double the scale (the constants of
    torch.amp.GradScaler). finite (R, 1)"""
    good = torch.where(finite, old.growth_tracker + 1, 0)
    scale = torch.where(finite, torch.where(good == 2000, old.scale * 2, old.scale), old.scale / 2)
    kept = State(*(torch.where(finite, after, before) for before, after in zip(old, new)))
    return kept._replace(scale=scale, growth_tracker=good % 2000)
