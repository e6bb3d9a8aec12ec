"""Batched sampling of all replicas, prompts and samples at once; equal contexts are computed only once."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tbtt.rng import gumbel

STEPS = 20    # steps whose noise is drawn at once, which takes as long as the noise of one step


class Completions(NamedTuple):
    """The N distinct completions of R replicas x P prompts x S samples."""
    tokens: torch.Tensor     # (N, max_new_tokens or fewer) int64
    replica: torch.Tensor    # (N,)
    prompt: torch.Tensor     # (N,)
    row: torch.Tensor        # (R, P, S): index of each sample among the N; (R, P, S + 1) with `most_probable`


def next_logits(forward: Callable, text: torch.Tensor, length: torch.Tensor, replica: torch.Tensor,
                num_replicas: int, block_size: int, max_tokens: int) -> torch.Tensor:
    """Logits of the token after each context.

    text (N, L) int64, length (N,) and replica (N,), sorted by replica. Contexts longer than the block are
    cropped to their last `block_size` tokens, as nanoGPT does. -> (N, V) float32
    """
    device, num_rows = text.device, len(text)
    start = (length - block_size).clamp(min=0)
    T = min(block_size, int(length.max()))
    window = text.gather(1, (start[:, None] + torch.arange(T, device=device)).clamp(max=text.shape[1] - 1))
    first = torch.searchsorted(replica, torch.arange(num_replicas, device=device))
    slot = torch.arange(num_rows, device=device) - first[replica]
    num_slots = int(slot.max()) + 1
    contexts = torch.zeros(num_replicas, T, num_slots, dtype=torch.int32, device=device)
    contexts[replica, :, slot] = window.int()
    position = length - start - 1
    if getattr(forward, 'last', None):    # computes only these logits, so max_tokens does not apply
        positions = contexts.new_zeros(num_replicas, num_slots)
        positions[replica, slot] = position.int()
        return forward.last(contexts, positions)[replica, :, slot]
    step = max(1, max_tokens // T)
    if num_slots <= step:
        return forward(contexts)[replica, :, position, slot].float()
    logits = None
    for begin in range(0, num_slots, step):
        piece = forward(contexts[..., begin:begin + step])    # (R, V, T, slots)
        if logits is None:
            logits = torch.empty(num_rows, piece.shape[1], device=device)
        here = (slot >= begin) & (slot < begin + step)
        logits[here] = piece[replica[here], :, position[here], slot[here] - begin].float()
    return logits


@torch.no_grad()
def generate(forward: Callable, prompts: list[list[int]], seeds: torch.Tensor, *keys: int, num_samples: int,
             max_new_tokens: int, block_size: int, temperature: float, top_k: int | None,
             stop: int | None = None, max_tokens: int = 2**20, most_probable: bool = False) -> Completions:
    """Sample completions.

    forward: (R, T, B) tokens -> (R, V, T, B) logits; if it has `last`, as `ForwardPass` of tbtt/engine.py
    may, `last` is called instead. prompts: P lists of token ids. seeds: (R,) int64; with `keys` they
    determine every draw. stop: id of the token that ends a completion, which is then filled up with this
    token; when all completions have ended, generation stops early. max_tokens: largest number of tokens per
    replica in one forward pass. most_probable: after its samples each prompt gets one more completion, which
    always takes the most probable token; this does not change the samples.
    """
    device, R, P, S = seeds.device, len(seeds), len(prompts), num_samples
    longest = max(map(len, prompts))
    width = longest + max_new_tokens
    text = np.array([prompt + [0] * (width - len(prompt)) for prompt in prompts])    # faster in NumPy
    text = torch.from_numpy(text).to(device)
    length = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat(R)
    text, replica = text.repeat(R, 1), torch.arange(R, device=device).repeat_interleave(P)
    prompt = torch.arange(P, device=device).repeat(R)
    tokens = torch.empty(R * P, 0, dtype=torch.int64, device=device)
    over = torch.zeros(R * P, dtype=torch.bool, device=device)
    # index of each sample's context so far
    row = torch.arange(R * P, device=device).repeat_interleave(S + most_probable)
    sample = torch.arange(P * S, device=device)
    for step in range(max_new_tokens):
        going = (~over).nonzero()[:, 0]
        logits = next_logits(forward, text[going], length[going], replica[going], R, block_size, max_tokens)
        vocab_size = logits.shape[1]
        if len(going) < len(over):
            found, logits = logits, logits.new_full((len(over), vocab_size), -torch.inf)
            logits[:, stop], logits[going] = 0.0, found
        logits, candidates = logits.topk(min(top_k or vocab_size, vocab_size))
        if step % STEPS == 0:
            steps = torch.arange(step, min(step + STEPS, max_new_tokens), device=device)[:, None, None, None]
            ranks = torch.arange(logits.shape[1], device=device)
            noise = gumbel(seeds[:, None, None], *keys, steps, sample[:, None], ranks).unflatten(2, (P, S))
            noise = F.pad(noise, (0, 0, 0, int(most_probable)))    # (steps, R, P, samples, ranks)
        choice = (logits[row] / temperature + noise[step % STEPS].flatten(0, 2)).argmax(1)
        drawn = candidates[row, choice]
        distinct, row = torch.unique(row * vocab_size + drawn, return_inverse=True)
        parent, drawn = distinct // vocab_size, distinct % vocab_size
        text, length, replica, prompt = text[parent], length[parent], replica[parent], prompt[parent]
        tokens, over = torch.cat([tokens[parent], drawn[:, None]], 1), over[parent]
        text[torch.arange(len(text), device=device), length] = drawn
        length = length + 1
        if stop is not None:
            over = over | (drawn == stop)
            if over.all():
                break
    return Completions(tokens, replica, prompt, row.view(R, P, -1))
