"""What a sweep will take, before it is started: time and memory of its jobs."""
import time

import torch

from tbtt.dataset import Dataset
from tbtt.device import choose_dtype
from tbtt.engine import Engine
from tbtt.device import bytes_of_replica
from tbtt.replicas import Replicas

COMPILED = 0.5    # of an eager step's time; measured between 0.3 and 0.6 for the paper's one-layer models


class Estimates:
    """Estimates for a sweep on a device. A step is timed once for each shape of model, eager, with one seed."""

    def __init__(self, sweep, device):
        self.sweep, self.device = sweep, torch.device(device)
        self.steps = {}
        torch.set_num_threads(1)    # as many as a worker has

    def dataset(self, run):
        self.sweep.prepare(run)
        config = run.config()
        return Dataset(config.dataset, config.block_size)

    def memory(self, run):
        """Bytes of one seed at its peak."""
        return bytes_a_replica(run.config(), self.dataset(run).meta['vocab_size'])

    def replicas_that_fit(self):
        """On a GPU: the seeds of the largest run that its memory holds, whatever else uses it."""
        total = torch.cuda.get_device_properties(0).total_memory
        return max(1, int(0.8 * total / max(self.memory(run) for run in self.sweep.runs)))

    def step(self, run):
        """Seconds of a compiled step of one seed, guessed from three eager ones."""
        config, dataset = run.config(), self.dataset(run)
        args = config.model_args(dataset.meta['vocab_size'])
        shape = (*args.items(), config.batch_size, config.gradient_accumulation_steps)
        if shape not in self.steps:
            engine = Engine(Replicas.from_seeds(args, [0], self.device), dataset.train, [0], config, self.device,
                            choose_dtype(config.dtype, self.device))
            for _ in engine.run(0, 1):    # warm-up
                pass
            begin = time.perf_counter()
            for _, losses in engine.run(1, 4):
                losses.tolist()
            self.steps[shape] = COMPILED * (time.perf_counter() - begin) / 3
        return self.steps[shape]

    def table(self, jobs, workers):
        """The jobs as text, a line each, and what they sum up to."""
        width = max((len(str(job)) for job in jobs), default=0)
        lines, total, largest = [], 0.0, 0.0
        for job in jobs:
            seconds = len(job.seeds) * job.run.config().max_iters * self.step(job.run)
            megabytes = len(job.seeds) * self.memory(job.run) / 2**20
            total, largest = total + seconds, max(largest, megabytes)
            lines.append(f'{job!s:<{width}}  {len(job.seeds):3} seed(s)  about {duration(seconds):>8}  {megabytes:7,.0f} MB')
        lines.append(f'{len(jobs)} jobs, {workers} at a time: about {duration(total / workers)}, up to '
                     f'{workers * largest:,.0f} MB on this machine; finished ones are counted too')
        return '\n'.join(lines)


def duration(seconds):
    """Rounded to what an estimate can tell: 40 s, 12 min, 3.4 h."""
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'
