"""Several processes started by torchrun, one a GPU: each trains seeds of its own, or they share batches.

    torchrun --standalone --nproc_per_node=4 train_with_eval.py config/train_math_mini_14.py --num_seeds=32

Processes with seeds of their own train without a word to each other. They only agree at the start, where what
one is refused stops all, and wait for each other at the end, for torchrun ends the others when one fails.
"""
import datetime
import os
import signal
import sys
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from tbtt.cli import UserError
from tbtt.config import Config

PATIENCE = datetime.timedelta(days=365)    # one may be done long before the others; torchrun sees who died


class Ranks:
    """This process among `size`, numbered `rank`, on its machine `local`; by default one process alone.

    split: the processes train the same seeds, each on its share of every batch.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, split: bool = False) -> None:
        self.rank, self.size, self.local, self.split = rank, size, local, split

    @classmethod
    def from_environment(cls, config: Config) -> 'Ranks':
        """As torchrun set it. Raises `UserError` where a batch has to be split and does not divide."""
        rank, size, local = (int(os.environ.get(name, default)) for name, default in
                             (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0)))
        split = config.num_seeds < size
        if split and config.batch_size % size:
            raise UserError(f'batch_size={config.batch_size} does not divide among {size} processes')
        return cls(rank, size, local, split)

    @property
    def leader(self) -> bool:
        """Is this the process of rank 0, which alone prints and writes what all share?"""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Does this process write the folders of its seeds?"""
        return self.leader or not self.split

    def init(self, device: torch.device) -> None:
        """Join the others. On GPUs shares of a batch travel by NCCL; all else is agreed on the CPU."""
        if self.size > 1:
            nccl = self.split and device.type == 'cuda'
            dist.init_process_group('cpu:gloo,cuda:nccl' if nccl else 'gloo', timeout=PATIENCE)

    def shutdown(self, status: int) -> int:
        """Wait until all processes are here, however long that takes, and end this one with the exit status
        of the run: that of an interruption where there was one, else 1 only where all of its seeds diverged.
        A process alone only returns its status."""
        if self.size == 1:
            return status
        for number in (signal.SIGINT, signal.SIGTERM):    # all is saved; handlers in Python would not run
            signal.signal(number, signal.SIG_DFL)
        statuses = torch.zeros(self.size, dtype=torch.int64)
        statuses[self.rank] = status
        try:
            dist.all_reduce(statuses)
            dist.destroy_process_group()
            status = int(max(statuses) if max(statuses) > 128 else min(statuses))
        except RuntimeError:    # another process died: whoever started it says so
            pass
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by way of Python's own end: threads of Gloo may still hold tensors there, and abort the process
        # when they let go of them (https://github.com/pytorch/pytorch/pull/179291).
        os._exit(status)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.largest(0)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers. All have to ask."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        try:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise UserError(f'another process of this run is gone: {str(error).splitlines()[0]}') from error
        return int(found)

    def agree(self, number: int) -> int:
        """The largest of the numbers of processes that go in step; of one that goes alone its own."""
        return self.largest(number) if self.split else number

    def together(self, action: Callable[[], None]) -> None:
        """Do something in all processes. What one of them raises ends all."""
        error = None
        try:
            action()
        except (UserError, OSError) as failure:
            error = failure
        if self.largest(int(error is not None)):
            raise error or UserError('another process of this run was refused, and says why')

    def shard_seeds(self, seeds: Iterable[int]) -> list[int]:
        """The seeds of this process."""
        return list(seeds) if self.split else list(seeds)[self.rank::self.size]

    def shard_batch(self, starts: torch.Tensor) -> torch.Tensor:
        """The share of a batch (..., B) of this process."""
        return starts[..., self.rank::self.size] if self.split else starts

    def all_reduce(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Tensors (R, ...), all of one dtype -> their means over the processes, in one message."""
        joined = torch.cat([x.reshape(len(x), -1) for x in tensors], 1)
        dist.all_reduce(joined)
        pieces = joined.div_(self.size).split([x[0].numel() for x in tensors], 1)
        return [piece.reshape(x.shape) for piece, x in zip(pieces, tensors)]
