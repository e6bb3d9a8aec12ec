"""Take a model apart: its residual stream after each stage, its attention weights, and the model without a
part.

A stage names a point of the residual stream: after `embedding`, `attention 1`, `MLP 1`, `attention 2`, ... A
part is what a stage adds: the attention of a layer, one of its heads, or its MLP. Hooks read and replace
activations, so that the forward pass is the model's own and nothing is computed twice.
"""
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn as nn

from model import GPT


class Part(NamedTuple):
    """What is added to the residual stream: some input features of the last linear layer before it."""
    name: str
    linear: nn.Module
    features: slice


def parts_of(model: GPT) -> list[Part]:
    """The attention and the MLP of each layer, and each head if a layer has several."""
    found = []
    for layer, block in enumerate(model.transformer.h, 1):
        found.append(Part(f'attention {layer}', block.attn.c_proj, slice(None)))
        H, D = block.attn.n_head, model.config.n_embd // block.attn.n_head
        if H > 1:
            found += [Part(f'head {layer}.{h + 1}', block.attn.c_proj, slice(h * D, (h + 1) * D))
                      for h in range(H)]
        found.append(Part(f'MLP {layer}', block.mlp.c_proj, slice(None)))
    return found


@contextlib.contextmanager
def watched(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """-> {name: (input, output)} of the modules, which forward passes within this context fill in"""
    seen, handles = {}, []
    for name, module in modules.items():
        def keep(_: nn.Module, inputs: tuple, output: torch.Tensor, name: str = name) -> None:
            seen[name] = inputs[0], output
        handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def streams(model: GPT, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tokens (..., T, B) -> {stage: residual stream (..., C, T, B)}, in the order of the stages"""
    blocks = model.transformer.h
    after = {'embedding': blocks[0].ln_1}    # the layer norm that reads the stream of each stage
    for layer, block in enumerate(blocks, 1):
        last = layer == len(blocks)
        after |= {f'attention {layer}': block.ln_2,
                  f'MLP {layer}': model.transformer.ln_f if last else blocks[layer].ln_1}
    with watched(after) as seen:
        model(tokens)
    return {stage: seen[stage][0] for stage in after}


@torch.no_grad()
def read_out(model: GPT, stream: torch.Tensor) -> torch.Tensor:
    """The logits (..., V, T, B) that the head gives for a residual stream (..., C, T, B). After the last
    stage they are the model's own, after an earlier one the logit lens (nostalgebraist 2020)."""
    return model.lm_head(model.transformer.ln_f(stream))


@torch.no_grad()
def attention_weights(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (T, B) -> (layers, heads, T, T, B): from position t to each s up to t, summing to 1 over s"""
    attentions = {str(layer): block.attn for layer, block in enumerate(model.transformer.h)}
    with watched({layer: attention.c_attn for layer, attention in attentions.items()}) as seen:
        model(tokens)
    found = []
    for layer, attention in attentions.items():
        q, k, _ = (part.unflatten(-3, (attention.n_head, -1)) for part in seen[layer][1].chunk(3, -3))
        scores = torch.einsum('hdtb,hdsb->htsb', q, k) * q.shape[1] ** -0.5
        later = torch.ones(scores.shape[1:3], dtype=torch.bool).triu(1)[..., None]
        found.append(scores.masked_fill(later, -torch.inf).softmax(2))
    return torch.stack(found)


@torch.no_grad()
def mean_inputs(model: GPT, parts: list[Part], tokens: torch.Tensor, real: torch.Tensor
                ) -> dict[str, torch.Tensor]:
    """The mean input of each part's linear layer at each position, over windows (T, B). Only tokens that are
    `real` (T, B) count. -> {name: (features, T)}"""
    with watched({part.name: part.linear for part in parts}) as seen:
        model(tokens)
    weight = real / real.sum(-1, keepdim=True).clamp(min=1)    # (T, B)
    return {part.name: (seen[part.name][0][part.features] * weight).sum(-1) for part in parts}


@contextlib.contextmanager
def replaced(part: Part, inputs: torch.Tensor) -> Iterator[None]:
    """Within this context a part's linear layer gets the same `inputs` (features, T) for every window. In
    longer windows the positions from T on get the last of them."""
    def replace(_: nn.Module, given: tuple) -> torch.Tensor:
        x = given[0].clone()    # (..., features, T, B)
        position = torch.arange(x.shape[-2]).clamp(max=inputs.shape[-1] - 1)
        x[..., part.features, :, :] = inputs[:, position, None]
        return x

    handle = part.linear.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()
