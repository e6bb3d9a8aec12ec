"""Several processes started by torchrun, one a GPU: seeds are dealt out to them; fewer seeds than processes share batches.

    torchrun --standalone --nproc_per_node=4 train_with_eval.py config/train_math_mini_14.py --num_seeds=32
"""
import os

import torch
import torch.distributed as dist

from tbtt.cli import UserError


class Ranks:
    """This process among `size`, numbered `rank`, on its machine `local`; by default one process alone.

    split: the processes train the same seeds, each on its share of every batch.
    """

    def __init__(self, rank=0, size=1, local=0, split=False):
        self.rank, self.size, self.local, self.split = rank, size, local, split

    @classmethod
    def from_environment(cls, config):
        """As torchrun set it. Raises `UserError` where a batch has to be split and does not divide."""
        rank, size, local = (int(os.environ.get(name, default)) for name, default in
                             (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0)))
        split = config.num_seeds < size
        if split and config.batch_size % size:
            raise UserError(f'batch_size={config.batch_size} does not divide among {size} processes')
        return cls(rank, size, local, split)

    @property
    def leader(self):
        return self.rank == 0

    @property
    def writes(self):
        """Does this process write the folders of its seeds?"""
        return self.leader or not self.split

    def join(self, device):
        if self.size > 1:
            dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')

    def leave(self):
        """Once all processes are here."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

    def deal(self, seeds):
        """The seeds of this process."""
        return list(seeds) if self.split else list(seeds)[self.rank::self.size]

    def share(self, starts):
        """The share of a batch (..., B) of this process."""
        return starts[..., self.rank::self.size] if self.split else starts

    def mean(self, *tensors):
        """Tensors (R, ...), all of one dtype -> their means over the processes, in one message."""
        joined = torch.cat([x.reshape(len(x), -1) for x in tensors], 1)
        dist.all_reduce(joined)
        pieces = joined.div_(self.size).split([x[0].numel() for x in tensors], 1)
        return [piece.reshape(x.shape) for piece, x in zip(pieces, tensors)]

    def wait(self):
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, number, device):
        """The largest of the processes' numbers, where they go in step."""
        if not self.split:
            return number
        largest = torch.tensor(number or 0, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest) or None
