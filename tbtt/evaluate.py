"""Evaluate models on the tasks: one row of results per replica. No generator is drawn from, so training does
not change."""
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tbtt import rng
from tbtt.answers import Given
from tbtt.batches import NOTHING, Batches
from tbtt.config import Config
from tbtt.dataset import Codec, Dataset
from tbtt.generate import Completions, generate
from tbtt.order import order_of
from tbtt.results import ENOUGH, NUM_SAMPLES, score_columns
from tbtt.tasks import Task

TEMPERATURE, TOP_K = 0.01, 10    # of the paper


# Tokens (R, T, B) or (T, B) -> logits (R, V, T, B). If it also has `last` and `losses`, as `ForwardPass` of
# tbtt/engine.py does, these are used.
Forward = Callable[[torch.Tensor], torch.Tensor]
Row = dict[str, Any]    # of results.csv: {column: number}


class Evaluation(NamedTuple):
    """What an evaluation of R replicas found."""
    rows: list[Row]                   # per replica a row of results.csv, without columns that do not apply
    answers: list[dict[str, Given]]   # per replica {task: its answers}


class Evaluator:
    """Asks R replicas the tasks' prompts at once and, if `losses` is given, measures their losses too.

    seeds: (R,) int64 on the device of the model. max_tokens: largest number of tokens per replica in one
    forward pass. losses: iteration -> what else is measured, one dict of columns per replica. Raises
    `UserError` if the codec lacks a character of a task.
    """

    def __init__(self, forward: Forward, codec: Codec, tasks: dict[str, Task], block_size: int,
                 seeds: torch.Tensor, max_tokens: int = 2**20,
                 losses: Callable[[int], list[Row]] | None = None) -> None:
        self.forward, self.codec, self.tasks, self.losses = forward, codec, tasks, losses
        self.block_size, self.seeds, self.max_tokens = block_size, seeds, max_tokens
        self.prompts = {name: [codec.encode(prompt) for prompt in task.prompts]
                        for name, task in tasks.items()}
        self.windows = {name: AnswerWindows(task, codec, block_size, seeds.device)
                        for name, task in tasks.items()}

    @classmethod
    def of_run(cls, forward: Forward, dataset: Dataset, config: Config, seeds: torch.Tensor,
               max_tokens: int = 2**20) -> 'Evaluator':
        """An evaluator of all that a run measures."""
        return cls(forward, dataset.codec, dataset.tasks, config.block_size, seeds, max_tokens,
                   DataLosses(forward, dataset, config, seeds, max_tokens))

    def __call__(self, iteration: int) -> Evaluation:
        """The scores and the answers, and the losses if the evaluator was given `losses`."""
        rows, answers = self.ask(iteration)
        if self.losses:
            rows = [{'iter': iteration, **row, **found} for row, found in zip(rows, self.losses(iteration))]
        return Evaluation(rows, answers)

    def sample(self, name: str, iteration: int, most_probable: bool = False) -> Completions:
        """Sampled answers to a task; if asked for, each prompt's most probable answer follows its samples."""
        task = self.tasks[name]
        stop = None if task.stop is None else self.codec.stoi[task.stop]
        return generate(self.forward, self.prompts[name], self.seeds, rng.ANSWERS, iteration,
                        num_samples=NUM_SAMPLES, max_new_tokens=task.max_new_tokens,
                        block_size=self.block_size, temperature=TEMPERATURE, top_k=TOP_K, stop=stop,
                        max_tokens=self.max_tokens, most_probable=most_probable)

    def right(self, name: str, completions: Completions) -> np.ndarray:
        """-> (N,) bool array: is each of the distinct completions right?"""
        # Replicas often agree: each distinct answer is marked once.
        asked = torch.cat([completions.prompt[:, None], completions.tokens], 1)
        distinct, which = torch.unique(asked, dim=0, return_inverse=True)
        marks = [self.tasks[name].mark(i, self.codec.decode(tokens)) for i, *tokens in distinct.tolist()]
        return np.array(marks)[which.cpu().numpy()]

    def said(self, name: str, completions: Completions) -> np.ndarray:
        """The most probable answers, the last of each prompt's completions. -> (R, P, max_new_tokens) ids;
        a task that stops at a character repeats its id to the end"""
        task = self.tasks[name]
        tokens = completions.tokens.cpu().numpy()
        if task.stop is not None:
            tokens = np.pad(tokens, ((0, 0), (0, task.max_new_tokens - tokens.shape[1])),
                            constant_values=self.codec.stoi[task.stop])
        return tokens[completions.row[..., -1].cpu().numpy()]

    def ask(self, iteration: int) -> Evaluation:
        """The scores and the answers of all tasks."""
        found = Evaluation([{} for _ in self.seeds], [{} for _ in self.seeds])
        for name, task in self.tasks.items():
            completions = self.sample(name, iteration, most_probable=True)
            samples = completions.row[..., :NUM_SAMPLES].cpu().numpy()
            correct = self.right(name, completions)[samples].sum(-1)    # (R, P)
            probability = self.windows[name].probabilities(self.forward, self.max_tokens)
            for row, right, probable in zip(found.rows, correct, probability):
                row |= counts(task, right, probable)
            for answers, probable, said in zip(found.answers, probability, self.said(name, completions)):
                answers[name] = Given(probable, said)
        return Evaluation([row | score_columns(row) for row in found.rows], found.answers)


def counts(task: Task, right: np.ndarray, probability: np.ndarray) -> Row:
    """A row's columns of one task. right: (P,) number of right samples; probability: (P,) of the right
    answer."""
    row = {}
    for group, members in task.groups().items():
        if members:
            row[f'{group}_correct'] = int(right[members].sum())
            row[f'{group}_total'] = NUM_SAMPLES * len(members)
            row[f'{group}_prob'] = float(probability[members].mean())
            if group == task.heldout_group:
                row[f'{group}_answered'] = int((right[members] >= ENOUGH).sum())
                row[f'{group}_questions'] = len(members)
    return row


class AnswerWindows:
    """The windows in which a task's right answers are predicted, each character from the block before it.

    All characters of an answer that fit into the block with the prompt share one window. For later characters
    the window slides, as it does in generation.
    """

    def __init__(self, task: Task, codec: Codec, block_size: int, device: torch.device) -> None:
        windows, places = {}, []    # {(prompt, start): (window, tokens)}; [(window, position, token, prompt)]
        for i, (prompt, answer) in enumerate(zip(task.prompts, task.answers)):
            before = codec.encode(prompt)
            text = before + codec.encode(answer)
            for at in range(len(before), len(text)):
                start = max(0, at - block_size)
                window = windows.setdefault((i, start), (len(windows), text[start:start + block_size]))[0]
                places.append((window, at - 1 - start, text[at], i))
        self.num_prompts = len(task.prompts)
        T = max(len(tokens) for _, tokens in windows.values())
        padded = [tokens + [0] * (T - len(tokens)) for _, tokens in windows.values()]
        self.contexts = torch.tensor(padded).T.to(device)
        self.window, self.position, self.token, self.prompt = torch.tensor(places).T.to(device)

    @torch.no_grad()
    def log_probabilities(self, forward: Forward, max_tokens: int) -> torch.Tensor:
        """Log-probability of each character of the right answers, teacher-forced at temperature 1, in the
        order of the prompts (`prompt` says to which prompt it belongs). -> (R, characters)"""
        T, B = self.contexts.shape
        found = []
        step = max(1, max_tokens // T)
        for begin in range(0, B, step):
            # The windows are in the order of the prompts too.
            here = (self.window >= begin) & (self.window < begin + step)
            logits = forward(self.contexts[:, begin:begin + step])    # (R, V, T, B)
            logits = logits[:, :, self.position[here], self.window[here] - begin].float()
            characters = torch.arange(int(here.sum()), device=logits.device)
            found.append(logits.log_softmax(1)[:, self.token[here], characters])
        return torch.cat(found, 1)

    def log_answers(self, forward: Forward, max_tokens: int) -> np.ndarray:
        """Logarithm of the probability of the whole right answer. -> (R, P) float64 array"""
        log_p = self.log_probabilities(forward, max_tokens)
        total = torch.zeros(len(log_p), self.num_prompts, device=log_p.device)
        total.index_add_(1, self.prompt, log_p)
        return total.cpu().double().numpy()

    def probabilities(self, forward: Forward, max_tokens: int) -> np.ndarray:
        """Probability of the whole right answer. -> (R, P) float64 array"""
        return np.exp(self.log_answers(forward, max_tokens))


class Losses:
    """Mean cross-entropy (nats per character) over a split of the data: over every window if that costs no
    more than `eval_iters` random batches, else over these random batches. windows, newline: see `Batches`;
    the order of lines is that of the data."""

    def __init__(self, forward: Forward, block_size: int, batch_size: int, eval_iters: int,
                 seeds: torch.Tensor, max_tokens: int = 2**20, windows: str = 'any',
                 newline: int | None = None) -> None:
        self.forward, self.block_size, self.seeds, self.max_tokens = forward, block_size, seeds, max_tokens
        self.windows, self.newline = windows, newline
        self.num_sampled = batch_size * eval_iters

    def exact(self, data: torch.Tensor) -> bool:
        """Is the loss over data (n,) taken over every window?"""
        return len(self.batches(data).every()[0]) <= self.num_sampled

    def batches(self, data: torch.Tensor) -> Batches:
        """The windows of data (n,)."""
        return Batches(data, self.block_size, self.windows, newline=self.newline)

    @torch.no_grad()
    def __call__(self, data: torch.Tensor, iteration: int) -> torch.Tensor:
        """data (n,) -> (R,) float64"""
        batches = self.batches(data)
        starts, weights = batches.every()
        if len(starts) > self.num_sampled:
            starts = batches.sample(self.num_sampled, self.seeds[:, None], rng.LOSSES, iteration)
            weights = torch.ones(self.num_sampled, device=data.device)
        size = max(1, self.max_tokens // self.block_size)
        total = count = 0
        for piece, weight in zip(starts.split(size, dim=-1), weights.split(size)):
            text = batches.cut(piece)
            losses = self.of_windows(text)
            total = total + (losses.sum(-2) * weight).cpu().double().sum(-1)    # not every device has float64
            count = count + ((text[..., 1:, :] >= 0).sum(-2) * weight).cpu().double().sum(-1)
        return total / count

    @torch.no_grad()
    def of_windows(self, text: torch.Tensor) -> torch.Tensor:
        """Losses of windows' predicted characters, text (T + 1, N) or (R, T + 1, N) -> (R, T, N) float32"""
        of_piece = getattr(self.forward, 'losses', None) or self.of_piece
        pieces = text.split(max(1, self.max_tokens // self.block_size), dim=-1)
        return torch.cat([of_piece(piece) for piece in pieces], -1)

    def of_piece(self, text: torch.Tensor) -> torch.Tensor:
        """As `of_windows`, for windows that fit into one forward pass."""
        logits = self.forward(text[..., :-1, :].clamp(min=0)).float()
        y = text[..., 1:, :].long().expand(len(logits), -1, -1)
        return F.cross_entropy(logits, y, reduction='none', ignore_index=NOTHING)


class DataLosses:
    """The losses of a run's R replicas on its data, and what they say about the order of the lines."""

    def __init__(self, forward: Forward, dataset: Dataset, config: Config, seeds: torch.Tensor,
                 max_tokens: int) -> None:
        self.losses = Losses(forward, config.block_size, config.batch_size, config.eval_iters, seeds,
                             max_tokens, config.windows, dataset.newline)
        self.train, self.val = (data.to(seeds.device, torch.int32) for data in (dataset.train, dataset.val))
        self.same = torch.equal(dataset.train, dataset.val)    # by design, except in data/text
        learnable = config.windows == 'any' and self.losses.exact(self.train)
        self.order = order_of(dataset.train, dataset.newline, config.block_size) if learnable else None
        if self.order:
            self.find_windows(self.order.other.to(self.train))

    def find_windows(self, other: torch.Tensor) -> None:
        """Find the distinct windows of the data and of the same lines in another order; the two share many.
        `windows`: (T + 1, N); `places`: (2, n - T), which distinct window is at each place of each text."""
        texts = (self.losses.batches(data) for data in (self.train, other))
        windows = torch.cat([text.cut(text.every()[0]) for text in texts], -1)
        self.windows, places = torch.unique(windows, dim=1, return_inverse=True)
        self.places = places.view(2, -1)

    def in_both_orders(self) -> torch.Tensor:
        """The exact losses on the data, and on the same lines in another order. -> (2, R) float64"""
        losses = self.losses.of_windows(self.windows).sum(-2)
        return torch.stack([losses[:, places].cpu().double().sum(-1)
                            for places in self.places]) / (self.places.shape[1] * self.losses.block_size)

    def __call__(self, iteration: int) -> list[Row]:
        """-> one dict per replica: train_loss and val_loss; for a text of lines also order_learned and
        other_order_loss"""
        train, other = self.in_both_orders() if self.order else (self.losses(self.train, iteration), None)
        val = train if self.same else self.losses(self.val, iteration)
        rows = [{'train_loss': a, 'val_loss': b} for a, b in zip(train.tolist(), val.tolist())]
        if self.order:
            for row, loss in zip(rows, other.tolist()):
                row |= {'order_learned': self.order.learned(row['train_loss']), 'other_order_loss': loss}
        return rows
