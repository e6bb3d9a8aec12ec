"""nanoGPT as far as the tests need it, written the plain way: tokens (B, T) -> logits (B, T, V), and its state dict."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class LayerNorm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, n_head, bias):
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        heads = []
        for h in range(self.n_head):
            part = slice(h * C // self.n_head, (h + 1) * C // self.n_head)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(C / self.n_head)
            seen = torch.ones(T, T).tril().bool()
            heads.append(scores.masked_fill(~seen, float('-inf')).softmax(-1) @ v[..., part])
        return self.c_proj(torch.cat(heads, -1))


class MLP(nn.Module):
    def __init__(self, width, hidden, bias):
        super().__init__()
        self.c_fc = nn.Linear(width, hidden, bias=bias)
        self.c_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width, n_head, hidden, bias):
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(width, bias), LayerNorm(width, bias)
        self.attn = Attention(width, n_head, bias)
        self.mlp = MLP(width, hidden, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Takes the model_args of a checkpoint. `mlp_expansion` is ours: nanoGPT's own would refuse the name."""

    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout=0.0, mlp_expansion=4):
        super().__init__()
        self.block_size = block_size
        blocks = [Block(n_embd, n_head, mlp_expansion * n_embd, bias) for _ in range(n_layer)]
        self.transformer = nn.ModuleDict(dict(wte=nn.Embedding(vocab_size, n_embd), wpe=nn.Embedding(block_size, n_embd),
                                              h=nn.ModuleList(blocks), ln_f=LayerNorm(n_embd, bias)))
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        x = self.transformer.wte(tokens) + self.transformer.wpe(torch.arange(tokens.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))

    def loss(self, x, y):
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())

    def optimizer(self, learning_rate, betas, weight_decay):
        """AdamW over nanoGPT's two groups: what has two axes decays, what has one does not."""
        unique = [p for _, p in self.named_parameters()]
        groups = [dict(params=[p for p in unique if p.dim() >= 2], weight_decay=weight_decay),
                  dict(params=[p for p in unique if p.dim() < 2], weight_decay=0.0)]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def slice_batch(data, starts, block_size):
    """One slice a row. -> inputs and targets (B, T)"""
    x = torch.stack([data[i:i + block_size] for i in starts.tolist()])
    return x, torch.stack([data[i + 1:i + 1 + block_size] for i in starts.tolist()])
