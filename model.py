"""
The GPT of nanoGPT: learned positions, pre-norm blocks, exact GELU, no biases, head tied to the embedding.

Inside, activations are laid out as (..., C, T, B): features first, the batch last. The paper's models are 14 to
56 features wide while a batch holds hundreds of windows, so every elementwise loop runs over a long contiguous
axis instead of a short one. Leading axes of the parameters, where there are any, are carried along by broadcasting.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = False
    mlp_expansion: int = 4


def project(weight, x):
    T, B = x.shape[-2:]
    return (weight @ x.flatten(-2)).unflatten(-1, (T, B))


class LayerNorm(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))

    def forward(self, x):
        x = x - x.mean(-3, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-3, keepdim=True) + 1e-5) * self.weight[..., None, None]


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        C, T, B = x.shape[-3:]
        q, k, v = (u.unflatten(-3, (self.n_head, -1)) for u in project(self.c_attn.weight, x).split(C, dim=-3))
        scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-4) / math.sqrt(C // self.n_head)      # (..., H, T, S, B)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future[..., None], -torch.inf).softmax(-2)
        y = (weights.unsqueeze(-4) * v.unsqueeze(-3)).sum(-2)   # (..., H, D, T, B)
        return project(self.c_proj.weight, y.flatten(-4, -3))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.mlp_expansion * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.mlp_expansion * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return project(self.c_proj.weight, F.gelu(project(self.c_fc.weight, x)))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
            ln_f=LayerNorm(config.n_embd)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith('c_proj.weight') else 0.02
                nn.init.normal_(p, mean=0.0, std=std)

    def forward(self, idx):
        """idx (..., T, B) int64 -> logits (..., V, T, B)"""
        T = idx.shape[-2]
        one_hot = F.one_hot(idx, self.config.vocab_size).movedim(-1, -3).to(self.lm_head.weight.dtype)
        x = project(self.transformer.wte.weight.mT, one_hot)
        x = x + self.transformer.wpe.weight.mT[..., :T, None]
        for block in self.transformer.h:
            x = block(x)
        return project(self.lm_head.weight, self.transformer.ln_f(x))
