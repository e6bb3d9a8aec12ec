"""A model taken apart: its residual stream after each stage, its attention weights, itself without a part.

A stage is what the residual stream has come to: `embedding`, `attention 1`, `MLP 1`, `attention 2`, ... A
part is what a stage adds: the attention of a layer, one of its heads, its MLP. All of it is read and
replaced by hooks, so that the forward pass is the model's own and nothing is computed twice.
"""
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn as nn

from model import GPT


class Part(NamedTuple):
    """What is added to the residual stream: some input features of the last linear layer on the way there."""
    name: str
    linear: nn.Module
    features: slice


def parts_of(model: GPT) -> list[Part]:
    """Attention and MLP of each layer; where a layer has several heads, each of these too."""
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
    """-> {name: (input, output)}, which the forward passes within it fill."""
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
    """The logits (..., V, T, B) that the head gives for a residual stream (..., C, T, B): of the last stage
    the model's own, of an earlier one the logit lens (nostalgebraist 2020)."""
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
    """What each part is on average at each position: the input of its linear layer over windows (T, B), of
    which only the tokens count that are `real` (T, B). -> {name: (features, T)}"""
    with watched({part.name: part.linear for part in parts}) as seen:
        model(tokens)
    weight = real / real.sum(-1, keepdim=True).clamp(min=1)    # (T, B)
    return {part.name: (seen[part.name][0][part.features] * weight).sum(-1) for part in parts}


@contextlib.contextmanager
def replaced(part: Part, inputs: torch.Tensor) -> Iterator[None]:
    """Within it a part says the same whatever the window: `inputs` (features, T) to its linear layer. Windows
    longer than these T go on with the last of them."""
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
