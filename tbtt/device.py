"""Choose the device and the dtype, and estimate what fits into the device's memory."""
import contextlib
import ctypes
import gc
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from model import GPTConfig
from tbtt.cli import UserError
from tbtt.config import Config

WIDE = 256    # from this width on, a step is bound by matrix products, which bfloat16 speeds up on a CPU
INDEX_BYTES = 2**24    # for batch indices that are prepared ahead; making them takes four times that
# Messages of the CPU's and the GPU's allocators and of oneDNN when memory runs out without an exception class
# for it.
OUT_OF_MEMORY = ("can't allocate memory", 'not enough memory', 'out of memory',
                 'could not create a primitive', 'Storage size calculation overflowed', 'std::bad_alloc')
GIVEN = []    # the number of threads outside of each `one_thread` that is in use
MENDED_BY = {'parameters': 'n_embd, n_layer or mlp_expansion',
             'activations': 'batch_size, block_size or n_embd',
             'indices of a batch': 'batch_size or gradient_accumulation_steps'}


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name: 'auto' or a torch device; 'cuda' is the GPU of this rank.
    Raises `UserError` if it is not available."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        device = torch.device(f'cuda:{local_rank}' if name == 'cuda' else name)
        torch.zeros(1, device=device).item()    # fails if the device cannot compute
        if device.type == 'cuda':
            torch.cuda.set_device(device)    # streams, graphs and NCCL use the current device
        if device.type == 'cpu':
            keep_freed_memory()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device={name!r} is not there: {str(error).splitlines()[0]}') from error
    return device


def keep_freed_memory() -> None:
    """Make glibc keep freed memory. Otherwise it returns the temporaries of a step to the system, and gets
    them back at the next step, page by page and zeroed: up to a third of an evaluation's time. Without glibc
    this does nothing."""
    libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if hasattr(libc, 'mallopt'):
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3    # of malloc.h
        for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**30), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, size)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch computes in one thread. While another program uses one of the cores, short
    work takes a hundred times as long in two threads that wait for each other. The fused step keeps all
    threads, because its threads can wait without harm."""
    GIVEN.append(num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(GIVEN.pop())


def num_threads() -> int:
    """The number of threads that this process was given, also within `one_thread`."""
    return GIVEN[-1] if GIVEN else torch.get_num_threads()


def choose_dtype(name: str, device: torch.device, n_embd: int = 0) -> torch.dtype:
    """The dtype of autocast. 'auto' is bfloat16 on a CUDA GPU that has it, and float16 on other CUDA GPUs. On
    a CPU that multiplies in bfloat16, it is bfloat16 for a model of WIDE features or more. Otherwise it is
    float32."""
    if name != 'auto':
        return getattr(torch, name)
    if device.type == 'cpu' and n_embd >= WIDE and multiplies_bfloat16():
        return torch.bfloat16
    if device.type != 'cuda':
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def multiplies_bfloat16() -> bool:
    """Does this CPU have AVX512-BF16? CPUs with AMX have it too."""
    supported = getattr(torch.cpu, '_is_avx512_bf16_supported', None)    # not in every torch
    return supported is not None and supported()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context of a forward pass in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def free_bytes(device: torch.device) -> float:
    """Bytes that this process could still get, on the GPU or on the machine."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    if device.type == 'mps':
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return max(0, min(free_of_machine(), free_of_process(), free_of_job()))


def free_of_machine() -> float:
    """Bytes that are free or can be freed at once. macOS does not say: there it is half of all memory."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
    except (OSError, StopIteration):
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2


def free_of_process() -> float:
    """Bytes that `ulimit -v` leaves to this process."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        return limit - int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    except OSError:    # not on macOS
        return limit


def free_of_job() -> float:
    """Bytes that a container or a scheduler such as SLURM leaves to this process and the others in it."""
    try:
        name = Path('/proc/self/cgroup').read_text().splitlines()[-1].split(':')[2]
        group = Path('/sys/fs/cgroup') / name.lstrip('/')
        return int((group / 'memory.max').read_text()) - int((group / 'memory.current').read_text())
    except (OSError, IndexError, ValueError):    # no such limit, or the word "max"
        return math.inf


def tokens_per_pass(model: GPTConfig, num_replicas: int, device: torch.device) -> int:
    """How many tokens per replica an evaluation may put through the model at once."""
    floats = (6 * model.vocab_size + (8 + 2 * model.mlp_expansion) * model.n_embd
              + 3 * model.n_head * model.block_size)
    budget = int(free_bytes(device)) // 4 if device.type == 'cuda' else 2**28
    return max(model.block_size, budget // (4 * floats * num_replicas))


def is_out_of_memory(error: BaseException) -> bool:
    """Does this exception say that memory ran out?"""
    return (isinstance(error, (torch.OutOfMemoryError, MemoryError))
            or isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY))


def bytes_of_replica(config: Config, vocab_size: int) -> dict[str, int]:
    """About how much memory the training of one replica takes at its peak: {purpose: bytes}"""
    tokens = config.batch_size * config.block_size
    params = (config.n_layer * (4 + 2 * config.mlp_expansion) * config.n_embd ** 2
              + (vocab_size + config.block_size) * config.n_embd)
    # Each parameter has a weight, a gradient and two moments, and a new copy of each after the step. An index
    # is int64, and making it takes four times that.
    features = vocab_size + config.n_layer * (8 + 2 * config.mlp_expansion) * config.n_embd
    return {'parameters': 8 * 4 * params,
            'activations': 12 * 4 * tokens * features,
            'indices of a batch': 4 * 8 * config.batch_size * config.gradient_accumulation_steps}


def replicas_that_fit(config: Config, vocab_size: int, memory: float) -> int:
    """About how many replicas could be trained together in `memory` bytes."""
    return max(0, int((0.9 * memory - 4 * INDEX_BYTES) / sum(bytes_of_replica(config, vocab_size).values())))


def describe_shortage(config: Config, vocab_size: int, device: torch.device) -> str:
    """The advice after memory ran out: how many replicas would fit, or what is too large for even one."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    free, parts = free_bytes(device), bytes_of_replica(config, vocab_size)
    # The estimate may be too optimistic, but `num_seeds` replicas are certainly too many.
    fit = min(replicas_that_fit(config, vocab_size, free), config.num_seeds // 2)
    if fit:
        return (f'out of memory with num_seeds={config.num_seeds}: about {fit} would fit; '
                'the files on disk are intact')
    largest = max(parts, key=parts.get)
    return (f'out of memory: one seed takes about {in_words(sum(parts.values()))}, of that '
            f'{in_words(parts[largest])} for its {largest}, and {in_words(free)} are free: make '
            f'{MENDED_BY[largest]} smaller; the files on disk are intact')


def in_words(num_bytes: float) -> str:
    """1234567 -> 1.2 MB"""
    power = min(4, int(math.log(max(1, num_bytes), 1000)))
    return f'{num_bytes / 1000**power:.3g} {("bytes", "kB", "MB", "GB", "TB")[power]}'
