"""Launch training steps one by one, or several at once as one CUDA graph."""
from collections.abc import Callable, Iterator

import torch

Step = Callable[..., tuple[torch.Tensor, tuple]]    # (state, starts, lr) -> (R,) losses, new state


def in_place(step: Step, state: tuple, starts: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """Step and write the new state over the old. -> (R,) losses"""
    losses, new = step(state, starts, lr)
    torch._foreach_copy_(state, new)
    return losses


def one_by_one(step: Step) -> Callable[..., Iterator[torch.Tensor]]:
    """Launch single steps. -> function (state, starts, lr) that yields losses (1, R)"""
    def launch(state: tuple, starts: torch.Tensor, lr: torch.Tensor) -> Iterator[torch.Tensor]:
        for each_starts, each_lr in zip(starts.unbind(0), lr.unbind(0)):
            yield in_place(step, state, each_starts, each_lr)[None]
    return launch


class Captured:
    """`size` steps as one CUDA graph: one launch for all their kernels. Steps that do not fill a graph run
    singly.

    starts (micro-steps, R, B), with a fresh line order (micro-steps, R, K, B), lr 0-dim: an example. The
    constructor first steps the state `warm_up` times, so that nothing is allocated or compiled and no handle
    is created during the capture.
    """
    warm_up = 3

    def __init__(self, step: Step, state: tuple, starts: torch.Tensor, lr: torch.Tensor,
                 size: int = 25) -> None:
        self.step, self.size = step, size
        self.starts, self.lr = starts.repeat(size, *[1] * starts.dim()), lr.repeat(size)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warm_up):
                in_place(step, state, starts, lr)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = torch.stack([in_place(step, state, *each) for each in zip(self.starts, self.lr)])

    def __call__(self, state: tuple, starts: torch.Tensor, lr: torch.Tensor) -> Iterator[torch.Tensor]:
        """starts (steps, micro-steps, R, B) or (..., R, K, B), lr (steps,). Yields losses (steps of a launch,
        R)"""
        whole = len(starts) - len(starts) % self.size
        for k in range(0, whole, self.size):
            self.starts.copy_(starts[k:k + self.size])
            self.lr.copy_(lr[k:k + self.size])
            self.graph.replay()
            yield self.losses.clone()
        yield from one_by_one(self.step)(state, starts[whole:], lr[whole:])


def checked(captured: Captured, state: tuple, counters: Callable[[tuple], list[torch.Tensor]],
            starts: torch.Tensor, lr: torch.Tensor) -> Captured:
    """Return `captured` if a replay from `state` changes the counters as the same steps do one by one. Leaves
    the state changed.

    counters: function of a state -> tensors that show every step, even one that float16 skips. Raises
    RuntimeError if they differ.
    """
    before = [x.clone() for x in state]
    ends = []
    for launch in (one_by_one(captured.step), captured):
        torch._foreach_copy_(state, before)
        for _ in launch(state, starts, lr):
            pass
        ends.append([x.clone() for x in counters(state)])
    if not all(torch.equal(x, y) for x, y in zip(*ends)):
        raise RuntimeError('a replay of the graph did not step')
    return captured
