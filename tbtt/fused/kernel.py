"""The fused step: the kernel of step.c on torch's memory, with one seed per thread, or with the batches of
one seed shared by all threads."""
import ctypes
import threading
import time
from collections.abc import Callable, Iterator

import torch

from model import GPTConfig
from tbtt import rng
from tbtt.batches import Batches
from tbtt.config import Config
from tbtt.device import num_threads, one_thread
from tbtt.fused.build import NotHere, build
from tbtt.replicas import Replicas

CACHE = 8 * 2**20     # bytes that a thread uses for a tile; more do not fit into a cache, and BLAS is faster
MERGE = 2**22         # with more windows in the dataset, duplicates in a batch are not looked for
LAUNCH = 0.25         # seconds that a launch should take
TEXT = 2**18          # most starts in a launch, where the kernel gets the text of windows instead of starts
LANES = 16            # windows in a tile, as in step.c
FEW = 16              # tiles of a forward pass per thread: with fewer, another thread is not worth starting

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class Job(ctypes.Structure):
    """`struct job` of step.c."""
    _fields_ = [
        *((name, POINTER) for name in ('data', 'starts')),
        *((name, LONG) for name in ('stride', 'micro_stride', 'num_steps', 'num_micro', 'batch')),
        ('text', POINTER), ('text_stride', LONG), ('text_micro_stride', LONG),
        *((name, POINTER) for name in ('lr', 'params', 'exp_avg', 'exp_avg_sq', 'step', 'losses')),
        ('loss_stride', LONG), ('gradient', POINTER),
        *((name, ctypes.c_double) for name in ('beta1', 'beta2', 'weight_decay', 'grad_clip')),
        *((name, POINTER) for name in ('distinct', 'counts', 'places', 'workspace')),
        ('threads', INT), ('num_distinct', INT), ('num_targets', LONG),
        *((name, INT) for name in ('arrived', 'round', 'taken'))]


def shape_of(model: GPTConfig) -> dict[str, int]:
    """The constants of step.c by name."""
    return {'V': model.vocab_size, 'T': model.block_size, 'C': model.n_embd, 'H': model.n_head,
            'L': model.n_layer, 'F': model.mlp_expansion * model.n_embd, 'BIAS': int(model.bias)}


def check_fits(model: GPTConfig) -> None:
    """Raise `NotHere` for a model that the kernel does not support, or that does not fit into the cache."""
    if model.dropout:
        raise NotHere('it does not support dropout')
    if model.tanh_gelu:
        raise NotHere('it has the exact GELU only, not that by tanh')
    V, T, C, H, L, F, _ = shape_of(model).values()
    weights = L * (4 * C + 2 * F) * C + V * C
    tile = LANES * T * (L * (7 * C + 2 * F + H * T) + 7 * C + F + V)
    if 4 * (2 * weights + tile) > CACHE:
        raise NotHere(f'the model is too large for it: a tile of {LANES} windows and the weights take '
                      f'{4 * (2 * weights + tile) / 2**20:.0f} MB, and {CACHE / 2**20:.0f} are the limit')


class Memory:
    """`size` bytes, zeroed, at an address that is a multiple of 64."""

    def __init__(self, size: int) -> None:
        self.memory = torch.zeros(size + 64, dtype=torch.uint8)
        self.address = -(-self.memory.data_ptr() // 64) * 64


class Workspace(Memory):
    """Scratch memory for a job of up to `threads` threads. windows: in the dataset. batch: windows in a
    batch, over all micro-steps."""

    def __init__(self, library: ctypes.CDLL, threads: int, windows: int, batch: int) -> None:
        super().__init__(library.workspace_bytes(threads))
        self.drawn = torch.zeros(2, batch, dtype=torch.int32)
        self.places = torch.full((windows,), -1, dtype=torch.int32) if windows <= MERGE else None


def in_threads(work: Callable[[int, int], None], threads: int) -> None:
    """Run work(i, n) in n threads at the same time, i = 0 in this one. n is less than `threads` if the system
    grants fewer. An error in one of them, such as out of memory, is raised here."""
    go, others, granted, errors = threading.Event(), [], [1], []

    def wait_and_work(i: int) -> None:
        go.wait()
        try:
            work(i, granted[0])
        except BaseException as error:    # also Ctrl-C, which is raised below when all threads have ended
            errors.append(error)

    try:
        for i in range(1, threads):
            others.append(threading.Thread(target=wait_and_work, args=(i,), daemon=True))
            others[-1].start()
            granted[0] += 1
    except RuntimeError:    # the system grants no more threads
        others.pop()
    go.set()
    wait_and_work(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]


class Kernel:
    """The fused step of R replicas of a model.

    batches: what it trains on; config: the settings of a run. flags: extra compiler flags. Raises
    `NotHere`, whose text says why, if the kernel does not support this model or cannot be built.
    """

    def __init__(self, replicas: Replicas, batches: Batches, config: Config,
                 flags: tuple[str, ...] = ()) -> None:
        model = replicas.template.config
        check_fits(model)
        self.library = build(shape_of(model), flags)
        for name in ('workspace_bytes', 'model_bytes', 'num_params'):
            getattr(self.library, name).restype = LONG
        pieces = *3 * [POINTER], *4 * [LONG], POINTER
        for name, arguments in {'train': (ctypes.POINTER(Job), INT), 'make': 3 * [POINTER],
                                'infer': pieces, 'token_losses': pieces,
                                'infer_at': (*4 * [POINTER], *2 * [LONG], POINTER),
                                'draw': (POINTER, *3 * [LONG], POINTER)}.items():
            getattr(self.library, name).argtypes, getattr(self.library, name).restype = arguments, None
        if self.library.num_params() != replicas.flat.shape[1]:
            raise NotHere('its weights are laid out differently')
        self.batches, self.config, self.vocab_size = batches, config, model.vocab_size
        self.is_text = batches.by_line or batches.fresh    # the kernel gets text, not starts
        self.steps = 1
        self.workspaces, self.models = {}, []

    def workspace(self, name: str | int, threads: int) -> Workspace:
        """The workspace of this name, created at first use."""
        if name not in self.workspaces:
            batch = self.config.batch_size * self.config.gradient_accumulation_steps
            self.workspaces[name] = Workspace(self.library, threads, len(self.batches.data), batch)
        return self.workspaces[name]

    def job(self, r: int, workspace: Workspace, state: tuple, windows: torch.Tensor, lr: torch.Tensor,
            losses: torch.Tensor, gradient: torch.Tensor | None = None) -> Job:
        """The `Job` of replica r. windows: starts (steps, micro-steps, R, B), or text (..., R, T + 1, B)"""
        config, (params, exp_avg, exp_avg_sq, step) = self.config, state[:4]
        source, stride, micro_stride = ('starts', 'stride', 'micro_stride')
        if self.is_text:
            source, stride, micro_stride = ('text', 'text_stride', 'text_micro_stride')
        tensors = {
            'data': self.batches.data, source: windows[:, :, r], 'lr': lr, 'params': params[r],
            'exp_avg': exp_avg[r], 'exp_avg_sq': exp_avg_sq[r], 'step': step[r], 'losses': losses[:, r],
            'gradient': None if gradient is None else gradient[r], 'distinct': workspace.drawn[0],
            'counts': workspace.drawn[1], 'places': workspace.places}
        numbers = {
            stride: windows.stride(0), micro_stride: windows.stride(1), 'num_steps': windows.shape[0],
            'num_micro': windows.shape[1], 'batch': windows.shape[-1], 'loss_stride': losses.stride(0),
            'beta1': config.beta1, 'beta2': config.beta2, 'weight_decay': config.weight_decay,
            'grad_clip': config.grad_clip, 'workspace': workspace.address, 'threads': 1}
        return Job(**numbers, **{name: x.data_ptr() for name, x in tensors.items() if x is not None})

    def launch(self, state: tuple, starts: torch.Tensor, lr: torch.Tensor,
               gradient: torch.Tensor | None = None) -> torch.Tensor:
        """Take all steps of `starts`, (steps, micro-steps, R, B) or as `Batches.draw` gives them. With
        `gradient` (R, parameters), the gradient is written there and nothing is updated. -> losses
        (steps, R)"""
        R, threads = starts.shape[2], num_threads()
        with one_thread():
            windows = self.batches.cut(starts).contiguous() if self.is_text else starts
        losses = torch.empty(len(starts), R)
        rest = R - R % threads    # these are trained by one thread each, later ones by all together

        def train_seeds(i: int, granted: int) -> None:
            for r in range(i, rest, granted):
                job = self.job(r, self.workspace(i, 1), state, windows, lr, losses, gradient)
                self.library.train(job, 0)

        def train_together(i: int, granted: int) -> None:
            shared.threads = granted
            self.library.train(shared, i)

        in_threads(train_seeds, threads if rest else 0)
        for r in range(rest, R):
            shared = self.job(r, self.workspace('shared', threads), state, windows, lr, losses, gradient)
            in_threads(train_together, threads)
        return losses

    def __call__(self, state: tuple, starts: torch.Tensor, lr: torch.Tensor) -> Iterator[torch.Tensor]:
        """Train, overwriting `state`. Yields losses (steps, R) about every quarter of a second."""
        first = 0
        while first < len(starts):
            begin = time.perf_counter()
            losses = self.launch(state, starts[first:first + self.steps], lr[first:first + self.steps])
            seconds = time.perf_counter() - begin
            yield losses
            first += len(losses)
            self.steps = min(max(1, int(self.steps * LAUNCH / seconds)), 1000)
            if self.is_text:
                self.steps = min(self.steps, max(1, TEXT // starts[0].numel()))

    def draw(self, seeds: torch.Tensor, first: int, last: int, batch_size: int) -> torch.Tensor:
        """The same as `Batches.draw`; in a tenth of the time if windows may start anywhere in the text."""
        if not self.batches.plain:
            return self.batches.draw(seeds, first, last, batch_size)
        states = rng.chain(seeds, rng.BATCHES, torch.arange(first, last)[:, None])    # (iterations, R)
        starts = torch.empty(*states.shape, batch_size, dtype=torch.int64)
        num_windows = len(self.batches.data) - self.batches.block_size
        self.library.draw(states.data_ptr(), states.numel(), batch_size, num_windows, starts.data_ptr())
        return starts

    def gradient(self, state: tuple, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of one step. starts (micro-steps, R, B) -> gradient (R, parameters), losses (R,)"""
        gradient = torch.empty_like(state[0])
        losses = self.launch(state, starts[None], torch.zeros(1), gradient)
        return gradient, losses[0]

    def made(self, params: torch.Tensor) -> list[int]:
        """Addresses of the `struct model` (step.c) of each replica, filled from params (R, parameters)."""
        while len(self.models) < len(params):
            self.models.append(Memory(self.library.model_bytes()))
        for model, weights in zip(self.models, params):
            self.library.make(model.address, self.workspace(0, 1).address, weights.data_ptr())
        return [model.address for model in self.models[:len(params)]]

    def forward(self, params: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """params (R, parameters); tokens (R, T, B), or (T, B) for all replicas -> logits (R, V, T, B)"""
        T, B = tokens.shape[-2:]
        logits = torch.empty(len(params), self.vocab_size, T, B)
        return self.in_pieces(self.library.infer, params, tokens, T, logits)

    def losses(self, params: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The loss of each token after the first, in nats; 0 where the token is negative. params
        (R, parameters); text (R, T + 1, B), or (T + 1, B) for all replicas -> (R, T, B)"""
        T, B = text.shape[-2] - 1, text.shape[-1]
        return self.in_pieces(self.library.token_losses, params, text, T, torch.empty(len(params), T, B))

    def in_pieces(self, work: Callable, params: torch.Tensor, tokens: torch.Tensor, T: int,
                  found: torch.Tensor) -> torch.Tensor:
        """Let `work`, a function of the library, fill found (R, ..., B) for T columns of tokens, with as many
        threads as are worth starting. -> found"""
        R, B = len(params), tokens.shape[-1]
        tokens = tokens.to(torch.int32).contiguous().expand(R, -1, B)
        tiles, models = -(-B // LANES), self.made(params)

        def run(i: int, granted: int) -> None:
            for r, model in enumerate(models):
                work(self.workspace(i, 1).address, model, tokens[r].data_ptr(), T, B, tiles * i // granted,
                     tiles * (i + 1) // granted, found[r].data_ptr())

        in_threads(run, min(num_threads(), tiles, max(1, R * tiles // FEW)))
        return found

    def last(self, params: torch.Tensor, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The logits of `forward` at one position of each window, with the same bits, for a tenth of the work
        or less. tokens (R, T, B), position (R, B) -> logits (R, V, B)"""
        R, T, B = tokens.shape
        tokens, position = tokens.to(torch.int32).contiguous(), position.to(torch.int32).contiguous()
        logits = torch.empty(R, self.vocab_size, B)
        for r, model in enumerate(self.made(params)):
            self.library.infer_at(self.workspace(0, 1).address, model, tokens[r].data_ptr(),
                                  position[r].data_ptr(), T, B, logits[r].data_ptr())
        return logits
