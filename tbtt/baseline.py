"""The same work the obvious way, as nanoGPT does it: what bench.py times ours against and what the tests hold it to.

A plain (B, T, C) model, a Python slice a row of a batch, torch's own AdamW and clipping with the host in between, and one
prompt, one sample a call.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad_and_value

from model import GPTConfig
from tbtt.device import autocast
from tbtt.engine import token_losses


class SlowBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, hidden = config.n_embd, config.mlp_expansion * config.n_embd
        self.n_head, self.dropout = config.n_head, config.dropout
        self.ln_1, self.ln_2 = (nn.LayerNorm(C, bias=config.bias) for _ in range(2))
        self.attn = nn.ModuleDict(dict(c_attn=nn.Linear(C, 3 * C, config.bias), c_proj=nn.Linear(C, C, config.bias)))
        self.mlp = nn.ModuleDict(dict(c_fc=nn.Linear(C, hidden, config.bias), c_proj=nn.Linear(hidden, C, config.bias)))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (u.view(B, T, self.n_head, -1).transpose(1, 2) for u in self.attn.c_attn(self.ln_1(x)).split(C, dim=2))
        dropout = self.dropout if self.training else 0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + F.dropout(self.attn.c_proj(y.transpose(1, 2).reshape(B, T, C)), dropout)
        return x + F.dropout(self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)))), dropout)


class SlowGPT(nn.Module):
    """The model of model.py under the same names of weights, in the layout of nanoGPT: tokens (B, T) -> (B, T, V)."""

    def __init__(self, model_args):
        super().__init__()
        self.config = config = GPTConfig(**model_args)
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd), wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList([SlowBlock(config) for _ in range(config.n_layer)]),
            ln_f=nn.LayerNorm(config.n_embd, bias=config.bias)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        x = self.transformer.wte(tokens) + self.transformer.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


class PlainLoop:
    """Our model and our step for one seed without an axis of replicas, compiled: what that axis costs is measured against
    this. weights: {name: tensor}."""

    def __init__(self, template, weights, config):
        self.template, self.config = template, config
        self.state = [weights, *({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2)), torch.zeros(1)]
        self.compiled = torch.compile(self.step, dynamic=False)

    def __call__(self, text, rate):
        """A step on text (T + 1, B), written over the state. -> loss, 0-dim"""
        loss, (weights, *moments, steps) = self.compiled(*self.state, text, rate)
        for old, new in zip(self.state, (weights, *moments)):
            torch._foreach_copy_(list(old.values()), list(new.values()))
        self.state[3].copy_(steps)
        return loss

    def step(self, weights, means, squares, steps, text, rate):
        config = self.config

        def mean_loss(weights):
            return token_losses(functional_call(self.template, weights, (text[:-1],)), text[1:]).mean()

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
            decay = 1 - rate * config.weight_decay * (gradient.dim() > 1)
            new[0][name] = weights[name] * decay - rate / (1 - config.beta1 ** steps) * mean / deviation
            new[1][name], new[2][name] = mean, square
        return loss, (*new, steps)


def slow_batch(data, starts, block_size):
    """A Python slice a row. -> inputs and targets (B, T)"""
    x = torch.stack([data[i:i + block_size] for i in starts])
    y = torch.stack([data[i + 1:i + 1 + block_size] for i in starts])
    return x, y


def slow_optimizer(model, config):
    """AdamW with decay on matrices and embeddings only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{'params': matrices, 'weight_decay': config.weight_decay}, {'params': others, 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def slow_loss(model, x, y):
    """Mean cross-entropy, 0-dim."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def slow_step(model, optimizer, data, starts, rate, config, dtype=torch.float32):
    """One step, its forward pass under autocast to `dtype`; the host waits for its loss. -> float"""
    for group in optimizer.param_groups:
        group['lr'] = rate
    device = next(model.parameters()).device
    x, y = (t.to(device) for t in slow_batch(data, starts, config.block_size))
    with autocast(device, dtype):
        loss = slow_loss(model, x, y)
    loss.backward()
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def slow_losses(model, data, batches):
    """Mean loss over batches, each a list of starts: nanoGPT's estimate, where the batches are drawn at random. -> float"""
    model.eval()
    device = next(model.parameters()).device
    losses = [slow_loss(model, *(t.to(device) for t in slow_batch(data, starts, model.config.block_size))).item()
              for starts in batches]
    return sum(losses) / len(losses)


@torch.no_grad()
def slow_generate(model, prompt, max_new_tokens, temperature, top_k):
    """One sample: nanoGPT's generate. prompt: list of token ids -> list of new ids"""
    device, block_size = next(model.parameters()).device, model.config.block_size
    tokens = torch.tensor([prompt], device=device)
    for _ in range(max_new_tokens):
        logits = model(tokens[:, -block_size:])[:, -1] / temperature
        least = torch.topk(logits, min(top_k, logits.shape[1]))[0][:, -1:]
        drawn = torch.multinomial(logits.masked_fill(logits < least, -torch.inf).softmax(1), 1)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens[0, len(prompt):].tolist()


def slow_score(model, task, codec, num_samples, temperature, top_k):
    """Every prompt, every sample on its own. -> right answers, a list with one number a prompt"""
    model.eval()
    return [sum(task.mark(i, codec.decode(slow_generate(model, codec.encode(prompt), task.max_new_tokens, temperature,
                                                        top_k))) for _ in range(num_samples))
            for i, prompt in enumerate(task.prompts)]
