"""Tasks x model -> one row of results a replica. Evaluating leaves no trace in training: no generator is drawn from."""
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from tbtt import rng
from tbtt.config import Config
from tbtt.dataset import Codec, Dataset, windows
from tbtt.generate import Completions, generate
from tbtt.results import ENOUGH, NUM_SAMPLES, score_columns
from tbtt.tasks import Task

Forward = Callable[[torch.Tensor], torch.Tensor]
TEMPERATURE, TOP_K = 0.01, 10    # of the paper


class Evaluator:
    """All that is measured of R replicas at an iteration: what they answer to the tasks' prompts and, on splits of data,
    their losses.

    forward: (R, T, B) or (T, B) tokens -> (R, V, T, B) logits. seeds: (R,) int64 on the device of the model. max_tokens:
    largest number of tokens a replica in one forward pass. splits: {'train': (n,) tokens, ...}; num_sampled: a loss is
    exact where a split has no more windows than this.
    Raises `UserError` where the codec lacks a character of a task.
    """

    def __init__(self, forward: Forward, codec: Codec, tasks: dict[str, Task], block_size: int, seeds: torch.Tensor,
                 max_tokens: int = 2**20, splits: dict[str, torch.Tensor] | None = None, num_sampled: int = 0) -> None:
        self.forward, self.codec, self.tasks = forward, codec, tasks
        self.block_size, self.seeds, self.max_tokens = block_size, seeds, max_tokens
        self.prompts = {name: [codec.encode(prompt) for prompt in task.prompts] for name, task in tasks.items()}
        self.answers = {name: AnswerWindows(task, codec, block_size, seeds.device) for name, task in tasks.items()}
        self.splits = {name: data.to(seeds.device, torch.int32) for name, data in (splits or {}).items()}
        self.loss = Losses(forward, block_size, num_sampled, seeds, max_tokens)

    @classmethod
    def of_run(cls, forward: Forward, dataset: Dataset, config: Config, seeds: torch.Tensor,
               max_tokens: int = 2**20) -> 'Evaluator':
        """What a run measures: its dataset's tasks and both of its splits."""
        return cls(forward, dataset.codec, dataset.tasks, config.block_size, seeds, max_tokens,
                   {'train': dataset.train, 'val': dataset.val}, config.batch_size * config.eval_iters)

    def __call__(self, iteration: int) -> list[dict]:
        """-> a row of results.csv for each replica"""
        rows = [{'iter': iteration, **row} for row in self.rows(iteration)]
        done = []    # (split, its losses); by design, both splits of our datasets are the same
        for name, data in self.splits.items():
            losses = next((losses for other, losses in done if torch.equal(data, other)), None)
            if losses is None:
                losses = self.loss(data, iteration)
            done.append((data, losses))
            for row, loss in zip(rows, losses.tolist()):
                row[f'{name}_loss'] = loss
        return rows

    def sample(self, name: str, iteration: int) -> Completions:
        """Sampled answers to a task."""
        task = self.tasks[name]
        stop = None if task.stop is None else self.codec.stoi[task.stop]
        return generate(self.forward, self.prompts[name], self.seeds, rng.ANSWERS, iteration, num_samples=NUM_SAMPLES,
                        max_new_tokens=task.max_new_tokens, block_size=self.block_size, temperature=TEMPERATURE,
                        top_k=TOP_K, stop=stop, max_tokens=self.max_tokens)

    def right(self, name: str, completions: Completions) -> np.ndarray:
        """-> (N,) bool array: is each of the distinct completions right?"""
        # Replicas agree a lot: each answer is marked once.
        asked = torch.cat([completions.prompt[:, None], completions.tokens], 1)
        distinct, which = torch.unique(asked, dim=0, return_inverse=True)
        marks = [self.tasks[name].mark(i, self.codec.decode(tokens)) for i, *tokens in distinct.tolist()]
        return np.array(marks)[which.cpu().numpy()]

    def rows(self, iteration: int) -> list[dict]:
        """One dict a replica: the columns of results.csv but `iter` and the losses; what does not apply is left out."""
        rows = [{} for _ in self.seeds]
        for name, task in self.tasks.items():
            completions = self.sample(name, iteration)
            correct = self.right(name, completions)[completions.row.cpu().numpy()].sum(-1)    # (R, P)
            probability = self.answers[name].probabilities(self.forward, self.max_tokens)
            for group, members in task.groups().items():
                if members:
                    for row, right, probable in zip(rows, correct[:, members], probability[:, members]):
                        row[f'{group}_correct'] = int(right.sum())
                        row[f'{group}_total'] = NUM_SAMPLES * len(members)
                        row[f'{group}_prob'] = float(probable.mean())
                        if group == task.heldout_group:
                            row[f'{group}_answered'] = int((right >= ENOUGH).sum())
                            row[f'{group}_questions'] = len(members)
        return [row | score_columns(row) for row in rows]


class AnswerWindows:
    """The windows in which a task's right answers are predicted, each character from the block before it.

    Where prompt and answer fit the block, all characters of an answer share one window; after that the window slides,
    as it does in generation.
    """

    def __init__(self, task: Task, codec: Codec, block_size: int, device: torch.device) -> None:
        windows, places = {}, []    # (prompt, start) -> column; (column, position, token, prompt)
        for i, (prompt, answer) in enumerate(zip(task.prompts, task.answers)):
            text = codec.encode(prompt + answer)
            for at in range(len(prompt), len(text)):
                start = max(0, at - block_size)
                column = windows.setdefault((i, start), (len(windows), text[start:start + block_size]))[0]
                places.append((column, at - 1 - start, text[at], i))
        self.num_prompts = len(task.prompts)
        T = max(len(tokens) for _, tokens in windows.values())
        self.contexts = torch.tensor([tokens + [0] * (T - len(tokens)) for _, tokens in windows.values()]).T.to(device)
        self.column, self.position, self.token, self.prompt = torch.tensor(places).T.to(device)

    @torch.no_grad()
    def log_probabilities(self, forward: Forward, max_tokens: int) -> torch.Tensor:
        """Of each character of the right answers, teacher-forced at temperature 1, in the order of the prompts (`prompt` says
        whose it is). -> (R, characters) tensor"""
        T, B = self.contexts.shape
        found = []
        step = max(1, max_tokens // T)
        for begin in range(0, B, step):
            here = (self.column >= begin) & (self.column < begin + step)    # columns are in the order of the prompts too
            logits = forward(self.contexts[:, begin:begin + step])    # (R, V, T, B)
            logits = logits[:, :, self.position[here], self.column[here] - begin].float()
            found.append(logits.log_softmax(1)[:, self.token[here], torch.arange(int(here.sum()), device=logits.device)])
        return torch.cat(found, 1)

    def probabilities(self, forward: Forward, max_tokens: int) -> np.ndarray:
        """Probability of the whole right answer. -> (R, P) float64 array"""
        log_p = self.log_probabilities(forward, max_tokens)
        total = torch.zeros(len(log_p), self.num_prompts, device=log_p.device).index_add_(1, self.prompt, log_p)
        return total.cpu().double().exp().numpy()


class Losses:
    """Mean cross-entropy (nats a character) over a split of the data: over every window where there are no more than
    `num_sampled`, and over so many random ones where there are."""

    def __init__(self, forward: Forward, block_size: int, num_sampled: int, seeds: torch.Tensor,
                 max_tokens: int = 2**20) -> None:
        self.forward, self.block_size, self.seeds, self.max_tokens = forward, block_size, seeds, max_tokens
        self.num_sampled = num_sampled

    @torch.no_grad()
    def __call__(self, data: torch.Tensor, iteration: int) -> torch.Tensor:
        """data (n,) -> (R,) float64"""
        num_windows = len(data) - self.block_size
        if num_windows <= self.num_sampled:
            starts = torch.arange(num_windows, device=data.device)
        else:
            rows = torch.arange(self.num_sampled, device=data.device)
            starts = rng.integers(num_windows, self.seeds[:, None], rng.LOSSES, iteration, rows)
        total = 0
        for piece in starts.split(max(1, self.max_tokens // self.block_size), dim=-1):
            x, y = windows(data, piece, self.block_size)
            logits = self.forward(x).float()
            losses = F.cross_entropy(logits, y.long().expand(len(logits), -1, -1), reduction='none')
            total = total + losses.mean(-2).cpu().double().sum(-1)    # not every device has float64
        return total / starts.shape[-1]
