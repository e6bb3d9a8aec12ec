"""Which device, and in which arithmetic."""
import ctypes
import sys

import torch

from tbtt.cli import UserError


def choose_device(name, local_rank=0):
    """'auto' or a torch device -> torch.device; of several GPUs the one of this rank. Raises `UserError` where it is not
    there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        device = torch.device(f'cuda:{local_rank}' if name == 'cuda' else name)
        torch.zeros(1, device=device).item()    # fails where there is nothing to compute with
        if device.type == 'cuda':
            torch.cuda.set_device(device)    # streams, graphs and NCCL take the current device
        if device.type == 'cpu':
            keep_freed_memory()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device={name!r} is not there: {str(error).splitlines()[0]}') from error
    return device


def keep_freed_memory():
    """Have glibc keep memory that is freed. It would give the temporaries of a step back to the system and get them again,
    page by page, zeroed, at the next: up to a third of an evaluation's time. Without glibc this does nothing."""
    libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if hasattr(libc, 'mallopt'):
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3    # of malloc.h
        for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**30), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, size)


WIDE = 256    # features from which a step is bound by products of matrices, which bfloat16 speeds up on a CPU


def choose_dtype(name: str, device: torch.device, n_embd: int = 0) -> torch.dtype:
    """The dtype of autocast: for 'auto' bfloat16 on a GPU that has it, float16 on one that has not; on a CPU bfloat16 for
    a model of WIDE features or more where the processor multiplies in it, else float32."""
    if name != 'auto':
        return getattr(torch, name)
    if device.type == 'cpu' and n_embd >= WIDE and multiplies_bfloat16():
        return torch.bfloat16
    if device.type != 'cuda':
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def multiplies_bfloat16() -> bool:
    """Does this CPU have AVX512-BF16? Those with AMX have it too."""
    supported = getattr(torch.cpu, '_is_avx512_bf16_supported', None)    # not in every torch
    return supported is not None and supported()


def autocast(device, dtype):
    """The context of a forward pass in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
