"""The same work done the obvious way, as in nanoGPT: bench.py compares our speed with it, and the tests our
results.

A plain (B, T, C) model, one Python slice per row of a batch, torch's own AdamW and clipping with the host in
between, and one prompt and one sample per call.
"""
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad_and_value

from model import GPT, GPTConfig
from tbtt.config import Config
from tbtt.dataset import Codec
from tbtt.device import autocast
from tbtt.engine import token_losses
from tbtt.tasks import Task


class Attention(nn.Module):
    """Causal self-attention by torch's fused kernel."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)"""
        q, k, v = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
                   for part in self.c_attn(x).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.c_proj(y.transpose(1, 2).flatten(2)), self.dropout, self.training)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout, hidden = config.dropout, config.mlp_expansion * config.n_embd
        self.gelu = 'tanh' if config.tanh_gelu else 'none'
        self.c_fc = nn.Linear(config.n_embd, hidden, config.bias)
        self.c_proj = nn.Linear(hidden, config.n_embd, config.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)"""
        x = F.gelu(self.c_fc(x), approximate=self.gelu)
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        # In nanoGPT's order: the states of its optimizer are in the same order.
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)"""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """The model of model.py under the same weight names, in nanoGPT's layout.

    Takes the model_args of a checkpoint. `mlp_expansion` among them is ours; nanoGPT itself would refuse the
    name.
    """

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self.config = config = GPTConfig(**model_args)
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
            ln_f=nn.LayerNorm(config.n_embd, bias=config.bias)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T) -> logits (B, T, V)"""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.transformer.wte(tokens) + self.transformer.wpe(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of targets y (B, T), 0-dim."""
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())

    def optimizer(self, config: Config) -> torch.optim.AdamW:
        """AdamW with nanoGPT's two groups: parameters with two axes decay, parameters with one do not."""
        matrices, vectors = ([p for p in self.parameters() if (p.dim() > 1) == decays]
                             for decays in (True, False))
        groups = [{'params': matrices, 'weight_decay': config.weight_decay},
                  {'params': vectors, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


class PlainLoop:
    """Our model and our step for one seed, compiled, without the axis of replicas: it shows what that axis
    costs. weights: {name: tensor}."""

    def __init__(self, template: GPT, weights: dict[str, torch.Tensor], config: Config) -> None:
        self.template, self.config = template, config
        means, squares = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
        self.state = [weights, means, squares, torch.zeros(1)]
        self.compiled = torch.compile(self.step, dynamic=False)

    def __call__(self, windows: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """One step on windows (T + 1, B), written over the state. -> loss, 0-dim"""
        loss, (weights, *moments, steps) = self.compiled(*self.state, windows, lr)
        for old, new in zip(self.state, (weights, *moments)):
            torch._foreach_copy_(list(old.values()), list(new.values()))
        self.state[3].copy_(steps)
        return loss

    def step(self, weights: dict, means: dict, squares: dict, steps: torch.Tensor, windows: torch.Tensor,
             lr: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """-> the loss on windows (T + 1, B), and the new weights, means, squares and steps"""
        config = self.config

        def mean_loss(weights: dict) -> torch.Tensor:
            return token_losses(functional_call(self.template, weights, (windows[:-1],)), windows[1:]).mean()

        gradients, loss = grad_and_value(mean_loss)(weights)
        norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        clip = (config.grad_clip / (norm + 1e-6)).clamp(max=1) if config.grad_clip else 1.0
        steps = steps + 1
        new = {}, {}, {}
        for name, gradient in gradients.items():
            gradient = gradient * clip
            mean = means[name].lerp(gradient, 1 - config.beta1)
            square = squares[name] * config.beta2 + (1 - config.beta2) * gradient.square()
            deviation = square.sqrt() / (1 - config.beta2 ** steps).sqrt() + 1e-8
            decay = 1 - lr * config.weight_decay * (gradient.dim() > 1)
            new[0][name] = weights[name] * decay - lr / (1 - config.beta1 ** steps) * mean / deviation
            new[1][name], new[2][name] = mean, square
        return loss, (*new, steps)


def slice_batch(data: torch.Tensor, starts: Iterable[int],
                block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One Python slice per row. -> inputs and targets (B, T)"""
    x = torch.stack([data[i:i + block_size] for i in starts])
    return x, torch.stack([data[i + 1:i + 1 + block_size] for i in starts])


def slow_step(model: NanoGPT, optimizer: torch.optim.Optimizer, data: torch.Tensor, starts: list[int],
              lr: float, config: Config, dtype: torch.dtype = torch.float32) -> float:
    """One step with the forward pass under autocast to `dtype`; the host waits for the loss."""
    for group in optimizer.param_groups:
        group['lr'] = lr
    device = next(model.parameters()).device
    x, y = (t.to(device) for t in slice_batch(data, starts, config.block_size))
    with autocast(device, dtype):
        loss = model.loss(x, y)
    loss.backward()
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def slow_losses(model: NanoGPT, data: torch.Tensor, batches: Iterable) -> float:
    """Mean loss over batches, each a list of starts. With batches drawn at random, this is nanoGPT's
    estimate."""
    model.eval()
    device = next(model.parameters()).device
    losses = [model.loss(*(x.to(device) for x in slice_batch(data, starts, model.config.block_size))).item()
              for starts in batches]
    return sum(losses) / len(losses)


@torch.no_grad()
def slow_generate(model: NanoGPT, prompt: list[int], max_new_tokens: int, temperature: float,
                  top_k: int) -> list[int]:
    """One sample, as nanoGPT's generate. Token ids -> new token ids"""
    device, block_size = next(model.parameters()).device, model.config.block_size
    tokens = torch.tensor([prompt], device=device)
    for _ in range(max_new_tokens):
        logits = model(tokens[:, -block_size:])[:, -1] / temperature
        least = torch.topk(logits, min(top_k, logits.shape[1]))[0][:, -1:]
        drawn = torch.multinomial(logits.masked_fill(logits < least, -torch.inf).softmax(1), 1)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens[0, len(prompt):].tolist()


def slow_score(model: NanoGPT, task: Task, codec: Codec, num_samples: int, temperature: float,
               top_k: int) -> list[int]:
    """Ask every prompt, each sample in its own call. -> number of right answers per prompt"""
    model.eval()

    def sample(prompt: str) -> str:
        return codec.decode(slow_generate(model, codec.encode(prompt), task.max_new_tokens, temperature,
                                          top_k))

    return [sum(task.mark(i, sample(prompt)) for _ in range(num_samples))
            for i, prompt in enumerate(task.prompts)]
