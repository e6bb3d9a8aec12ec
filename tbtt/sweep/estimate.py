"""How much time and memory the jobs of a sweep will take, before it is started."""
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tbtt.dataset import Dataset
from tbtt.device import bytes_of_replica, choose_dtype, one_thread, replicas_that_fit
from tbtt.engine import Engine
from tbtt.fused.build import NotHere
from tbtt.fused.kernel import check_fits
from tbtt.replicas import Replicas
from tbtt.sweep.plan import Job, Run, Sweep

# Shares of an eager step's time on one thread, for the paper's one-layer models; measured: 0.3 to 0.6, and
# 0.03 to 0.06.
COMPILED, FUSED = 0.5, 0.04


class Estimates:
    """Estimates for a sweep on a device. For each shape of model, an eager step with one seed is timed once.

    scratch: a folder for data that are not prepared yet; nothing else is written.
    """

    def __init__(self, sweep: Sweep, device: str, scratch: Path) -> None:
        self.sweep, self.device, self.scratch = sweep, torch.device(device), scratch
        self.steps, self.datasets = {}, {}

    def dataset(self, run: Run) -> Dataset:
        """The data of a run, prepared in `scratch` if they are not prepared yet; read only once."""
        config = run.config()
        key = (config.dataset, config.block_size)
        if key not in self.datasets:
            folder = Path(config.dataset)
            if run.script and not (folder / 'meta.pkl').exists():
                folder = self.sweep.prepare(run, self.scratch / folder.name)
            self.datasets[key] = Dataset(str(folder), config.block_size)
        return self.datasets[key]

    def vocab_size(self, run: Run) -> int:
        """The number of characters in the vocabulary of a run's data."""
        return self.dataset(run).meta['vocab_size']

    def memory(self, run: Run) -> int:
        """Bytes of one seed at its peak."""
        return sum(bytes_of_replica(run.config(), self.vocab_size(run)).values())

    def seeds_together(self) -> int:
        """On a GPU: how many seeds of the largest run fit into its memory, whatever else uses it."""
        total = torch.cuda.get_device_properties(0).total_memory
        return max(1, min(replicas_that_fit(run.config(), self.vocab_size(run), total)
                          for run in self.sweep.runs))

    def step(self, run: Run) -> float:
        """Seconds of a step of one seed in its fastest mode, guessed from three eager steps."""
        config, dataset = run.config(), self.dataset(run)
        args = config.model_args(dataset.meta['vocab_size'])
        shape = (*args.items(), config.batch_size, config.gradient_accumulation_steps)
        if shape not in self.steps:
            with one_thread():
                replicas = Replicas.from_seeds(args, [0], self.device)
                dtype = choose_dtype(config.dtype, self.device, config.n_embd)
                engine = Engine(replicas, dataset.train, [0], config, self.device, dtype,
                                newline=dataset.newline)
                for _ in engine.run(0, 1):    # warm-up
                    pass
                begin = time.perf_counter()
                for _, losses in engine.run(1, 4):
                    losses.tolist()
                eager = (time.perf_counter() - begin) / 3
                self.steps[shape] = eager * (FUSED if is_fused(engine) else COMPILED)
        return self.steps[shape]

    def table(self, jobs: Sequence[Job], workers: int) -> str:
        """One line for each run, and the total of all jobs."""
        width = max((len(job.run.name) for job in jobs), default=0)
        lines, total, largest = [], 0.0, 0.0
        for name in dict.fromkeys(job.run.name for job in jobs):
            parts = [job for job in jobs if job.run.name == name]
            seeds = [seed for job in parts for seed in job.seeds]
            seconds = len(seeds) * parts[0].run.config().max_iters * self.step(parts[0].run)
            megabytes = max(len(job.seeds) for job in parts) * self.memory(parts[0].run) / 2**20
            total, largest = total + seconds, max(largest, megabytes)
            lines.append(f'{name + ",":<{width + 1}} seeds {min(seeds)} to {max(seeds)}  '
                         f'about {duration(seconds):>8}  {megabytes:7,.0f} MB a job')
        lines.append(f'{len(jobs)} jobs, {workers} at a time: about {duration(total / workers)}, up to '
                     f'{workers * largest:,.0f} MB on this machine; finished ones are counted too')
        return '\n'.join(lines)


def is_fused(engine: Engine) -> bool:
    """Will this engine use the fused step, as far as can be said without building it?"""
    if engine.config.compile not in ('auto', 'fused'):
        return False
    try:
        engine.check_fits_fused()
        check_fits(engine.replicas.template.config)
    except NotHere:
        return False
    return True


def duration(seconds: float) -> str:
    """A text as precise as an estimate can be: 40 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'
