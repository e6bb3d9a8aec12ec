"""
The GPT of nanoGPT under the same weight names: learned positions, pre-norm blocks, exact GELU, head tied to
the embedding.

For readers of nanoGPT: the weights and what they compute are the same, but the axes are in another order.
nanoGPT's activations are (B, T, C). Ours are (..., C, T, B): features first and the batch last, after any
leading axes that the weights have too. The paper's models are 14 to 56 features wide, while a batch holds
hundreds of windows. So every elementwise loop runs over a long contiguous axis instead of a short one, and a
linear layer is weight @ x, one product for all positions and windows. No code here looks at the axes before
the last three: with weights (R, out, in) of R seeds, the same code computes R models at once by broadcasting.
tbtt/replicas.py uses this; a single model has no axis R.

The smallest of the paper's models, n14 on arithmetic (V = 17 characters, T = 9 positions, B = 882 windows):
    tokens                        (9, 882)        integers below 17
    one-hot columns               (17, 9, 882)    wte^T times these is the embedding
    x                             (14, 9, 882)    the residual stream; position t adds its row of wpe
    c_attn(ln_1(x))               (42, 9, 882)    queries, keys and values, 14 each
    q, k, v of the one head       (1, 14, 9, 882)
    scores, weights               (1, 9, 9, 882)  of position t and each position s up to t
    c_fc(ln_2(x))                 (14, 9, 882)    as wide as x (nanoGPT: four times); then GELU, c_proj
    logits                        (17, 9, 882)    wte times ln_f(x)
With 8 seeds at once, each of these tensors has a leading axis of 8.

Attention is computed in one of two ways. In training, small heads over few positions multiply and sum over
the batch, in loops that the compiler fuses. All other attention, and evaluation without compilation, uses
torch's fused kernel, which expects (batch, head, position, feature) and gets a copy in that order.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

MANY = 1024    # from this vocabulary size on, the embedding is an index, not a product; see docs/LOG.md


@dataclass
class GPTConfig:
    """The defaults are nanoGPT's, so the settings in its checkpoints suffice. nanoGPT has no names for the
    last two settings. GPT-2 itself uses the tanh approximation of GELU."""
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    mlp_expansion: int = 4
    tanh_gelu: bool = False


def dropout(x: torch.Tensor, p: float, on: bool = True) -> torch.Tensor:
    """F.dropout of x (any shape, fewer than 2**31 elements). A hash of an element's place and of two keys
    decides whether the element is kept. So the compiler can fuse the loops, and any number of threads can
    share them; torch's own dropout draws one number after the other on a CPU. Only the keys come from torch's
    generator."""
    if not on or not p:
        return x
    place = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    first, second = torch.randint(2**31 - 1, (2,), dtype=torch.int32, device=x.device)
    kept = hash32(hash32(place ^ first) ^ second) & 2**31 - 1 >= round(p * 2**31)
    return torch.where(kept, x / (1 - p), 0.0)


def hash32(x: torch.Tensor) -> torch.Tensor:
    """A bijection on 32 bits in int32; each output bit depends on all input bits: C. Wellons' "lowbias32"."""
    x = (x ^ x >> 16 & 2**16 - 1) * 0x7feb352d    # int32's shift repeats the sign bit: mask it
    x = (x ^ x >> 15 & 2**17 - 1) * (0x846ca68b - 2**32)
    return x ^ x >> 16 & 2**16 - 1


class Linear(nn.Linear):
    """A linear layer for features that come before positions and windows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in, T, B) -> (..., out, T, B)"""
        y = (self.weight @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
        return y if self.bias is None else y + self.bias[..., None, None]


class LayerNorm(nn.Module):
    """Over the features, axis -3."""

    def __init__(self, n_embd: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.bias = nn.Parameter(torch.zeros(n_embd)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, T, B) -> (..., C, T, B)"""
        x = x - x.mean(-3, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(-3, keepdim=True) + 1e-5) * self.weight[..., None, None]
        return x if self.bias is None else x + self.bias[..., None, None]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: float) -> torch.Tensor:
    """Queries (..., D, T, B) of the last T of S positions, keys and values (..., D, S, B)
    -> (..., D, T, B)"""
    D, T, S = q.shape[-3], q.shape[-2], k.shape[-2]
    scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-4) * D ** -0.5    # (..., T, S, B)
    scores = scores + torch.full((T, S), -torch.inf, device=q.device).triu(1 + S - T)[..., None]
    # torch's own dropout: our hashes would be computed anew for every feature of v.
    weights = F.dropout((scores - scores.logsumexp(-2, keepdim=True)).exp(), p)
    return (weights.unsqueeze(-4) * v.unsqueeze(-3)).sum(-2)


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and to earlier positions, with `n_head` heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, T, B) -> (..., C, T, B)"""
        C, T = x.shape[-3], x.shape[-2]
        parts = self.c_attn(x).split(C, dim=-3)
        q, k, v = (part.unflatten(-3, (self.n_head, -1)) for part in parts)    # (..., H, D, T, B)
        p = self.dropout if self.training else 0.0
        D = C // self.n_head
        # At 64 positions the loops take several times as long. On a GPU, tensor cores suit D >= 32.
        small = T < 32 and D * T < 4096 and not (x.is_cuda and D >= 32)
        if small and (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            # Multiply-and-sum loops over the batch, which the compiler fuses, train fastest. Positions are
            # taken in groups. A group gets only the keys up to its end, as later keys would be masked.
            group = 8 if T >= 16 else T
            y = torch.cat([attend(q[..., i:i + group, :], k[..., :i + group, :], v[..., :i + group, :],
                                  p) for i in range(0, T, group)], -2)
        else:
            # The fused kernels want four contiguous axes, (batch, H, T, D).
            leading = q.movedim(-1, -4).shape[:-3]    # (..., B)
            q, k, v = (u.movedim(-1, -4).mT.flatten(0, -4).contiguous() for u in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
            y = y.unflatten(0, leading).mT.movedim(-4, -1)
        return dropout(self.c_proj(y.flatten(-4, -3)), p)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout, self.gelu = config.dropout, 'tanh' if config.tanh_gelu else 'none'
        self.c_fc = Linear(config.n_embd, config.mlp_expansion * config.n_embd, bias=config.bias)
        self.c_proj = Linear(config.mlp_expansion * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, T, B) -> (..., C, T, B)"""
        x = F.gelu(self.c_fc(x), approximate=self.gelu)
        return dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, T, B) -> (..., C, T, B)"""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The whole model: embeddings, blocks, and the head, initialised as GPT-2 is."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        assert config.n_embd % config.n_head == 0, f'n_embd={config.n_embd}, n_head={config.n_head}'
        self.config = config
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
            ln_f=LayerNorm(config.n_embd, config.bias)))
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        self.initialise()

    def tie(self) -> None:
        """Share one weight between the embedding and the head."""
        self.transformer.wte.weight = self.lm_head.weight

    def initialise(self) -> None:
        """As GPT-2: normal, std 0.02; 0.02 / sqrt(2 * n_layer) for projections onto the residual stream."""
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith('c_proj.weight')
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def get_num_params(self) -> int:
        """The number of parameters without the position embeddings."""
        return sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel()

    def embed(self, idx: torch.Tensor) -> torch.Tensor:
        """Tokens (..., T, B) -> (..., C, T, B)"""
        weight, V = self.transformer.wte.weight, self.config.vocab_size
        if V >= MANY:
            models = torch.arange(weight.shape[:-2].numel(), device=idx.device)    # V rows each, in turn
            rows = idx + V * models.view(*weight.shape[:-2], 1, 1)
            # Bags of one token: their gradient is summed in a fixed order. That of F.embedding is not, once
            # it is compiled.
            x = F.embedding_bag(rows.flatten()[:, None], weight.flatten(0, -2), mode='sum')
            return x.unflatten(0, rows.shape).movedim(-1, -3).contiguous()
        # A product with one-hot columns: its gradient is a product too. The gradient of an index is a
        # scatter, which is serial on a CPU and has no fixed order on a GPU. Vocabularies of characters are
        # small.
        vocabulary = torch.arange(V, dtype=idx.dtype, device=idx.device)[:, None, None]
        one_hot = (idx.unsqueeze(-3) == vocabulary).to(weight.dtype)    # (..., V, T, B)
        return (weight.mT @ one_hot.flatten(-2)).unflatten(-1, idx.shape[-2:])

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """Tokens (..., T, B) of an integer type, T up to the block size -> logits (..., V, T, B)"""
        x = self.embed(idx) + self.transformer.wpe.weight.mT[..., :idx.shape[-2], None]
        x = dropout(x, self.config.dropout, self.training)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if self.config.vocab_size < MANY:
            return self.lm_head(x)
        # The same numbers, in memory as (..., T, B, V): the loss reads the logits of a token in one piece.
        return (x.flatten(-2).mT @ self.lm_head.weight.mT).mT.unflatten(-1, idx.shape[-2:])
