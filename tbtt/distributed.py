"""Several processes started by torchrun, one per GPU: each trains its own seeds, or all share each batch.

    torchrun --standalone --nproc_per_node=4 train_with_eval.py config/train_math_mini_14.py --num_seeds=32

Processes with their own seeds exchange nothing while they train. They agree only at the start, where an error
in one stops all. They wait for each other at the end, because torchrun ends the others when one fails.
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

PATIENCE = datetime.timedelta(days=365)    # a process may end long before others; torchrun sees if one dies


class Ranks:
    """This process: number `rank` of `size`, number `local` on its machine; by default a single process.

    split: the processes train the same seeds, each on its share of every batch.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, split: bool = False) -> None:
        self.rank, self.size, self.local, self.split = rank, size, local, split

    @classmethod
    def from_environment(cls, config: Config) -> 'Ranks':
        """As torchrun set it. Raises `UserError` if a batch must be split but does not divide evenly."""
        rank, size, local = (int(os.environ.get(name, default)) for name, default in
                             (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0)))
        split = config.num_seeds < size
        if split and config.batch_size % size:
            raise UserError(f'batch_size={config.batch_size} does not divide among {size} processes')
        return cls(rank, size, local, split)

    @property
    def leader(self) -> bool:
        """Is this the process of rank 0, the only one that prints and writes what all share?"""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Does this process write the folders of its seeds?"""
        return self.leader or not self.split

    def init(self, device: torch.device) -> None:
        """Join the others. GPUs that share batches exchange by NCCL; all else goes by Gloo on the CPU."""
        if self.size > 1:
            nccl = self.split and device.type == 'cuda'
            dist.init_process_group('cpu:gloo,cuda:nccl' if nccl else 'gloo', timeout=PATIENCE)

    def shutdown(self, status: int) -> int:
        """Wait for all processes, however long that takes, and end this one with the exit status of the run:
        the status of an interruption if there was one, else 1 only if all seeds of the run diverged. A single
        process just returns its status."""
        if self.size == 1:
            return status
        for number in (signal.SIGINT, signal.SIGTERM):    # all is saved; Python handlers would not run
            signal.signal(number, signal.SIG_DFL)
        statuses = torch.zeros(self.size, dtype=torch.int64)
        statuses[self.rank] = status
        try:
            dist.all_reduce(statuses)
            dist.destroy_process_group()
            status = int(max(statuses) if max(statuses) > 128 else min(statuses))
        except RuntimeError:    # another process died: torchrun says so
            pass
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by Python's normal exit: threads of Gloo may still hold tensors then, and abort the process when
        # they release them (https://github.com/pytorch/pytorch/pull/179291).
        os._exit(status)

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.largest(0)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers. All processes must call this."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        try:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise UserError(f'another process of this run is gone: {str(error).splitlines()[0]}') from error
        return int(found)

    def agree(self, number: int) -> int:
        """The largest of the processes' numbers if they share batches, else this process's own number."""
        return self.largest(number) if self.split else number

    def together(self, action: Callable[[], None]) -> None:
        """Run `action` in all processes. An error that it raises in one of them stops all."""
        error = None
        try:
            action()
        except (UserError, OSError) as failure:
            error = failure
        if self.largest(int(error is not None)):
            raise error or UserError('another process of this run stopped; its output says why')

    def shard_seeds(self, seeds: Iterable[int]) -> list[int]:
        """The seeds of this process."""
        return list(seeds) if self.split else list(seeds)[self.rank::self.size]

    def shard_batch(self, starts: torch.Tensor) -> torch.Tensor:
        """This process's share of a batch (..., B)."""
        return starts[..., self.rank::self.size] if self.split else starts

    def all_reduce(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Tensors (R, ...), all of one dtype -> their means over the processes, in one message."""
        joined = torch.cat([x.reshape(len(x), -1) for x in tensors], 1)
        dist.all_reduce(joined)
        pieces = joined.div_(self.size).split([x[0].numel() for x in tensors], 1)
        return [piece.reshape(x.shape) for piece, x in zip(pieces, tensors)]
