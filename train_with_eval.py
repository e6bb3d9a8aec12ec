"""
Train a GPT, or many seeds of it at once, and ask it every `eval_interval` steps what it has learned.

    python train_with_eval.py config/train_math_mini_14.py
    python train_with_eval.py config/train_math_mini_14.py --seed=7 --out_dir=another
    python train_with_eval.py config/train_math_mini_14.py --init_from=resume

Settings come from the defaults below, then from config files in their order, then from --key=value; a later
value wins. With --init_from=resume, settings that are not given are those of the run. Writes into out_dir:
results.csv (one row per evaluation), answers.npz (the answers at each evaluation), ckpt.pt (the latest
checkpoint, complete for a resume), ckpt_best_math.pt, ckpt_best_facts.pt and ckpt_best_combined.pt (each the
first checkpoint with the highest score), run.json (what made the run). With --num_seeds=R above 1, each seed
has such a folder below out_dir.

From Python, with the same settings (docs/library.md):

    from train_with_eval import train
    results = train('config/train_math_mini_14.py', seed=7, out_dir='another')
"""
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import torch

from tbtt import gpt2
from tbtt.config import FIELDS, Config, add_settings, load_config
from tbtt.dataset import Dataset
from tbtt.device import choose_device, choose_dtype, describe_shortage, is_out_of_memory, tokens_per_pass
from tbtt.distributed import Ranks
from tbtt.engine import Engine
from tbtt.evaluate import Evaluator
from tbtt.progress import Callback, Reporter, scores_line
from tbtt.provenance import provenance
from tbtt.replicas import Replicas
from tbtt.resume import with_settings_of_run
from tbtt.results import RunResults, load_results
from tbtt.run_folder import RunFolder
from tbtt.seed_folder import SeedFolder


def read_settings() -> Config:
    """The settings of the config files, overridden by those of the command line, and checked."""
    parser = Parser(__doc__, usage='%(prog)s [config ...] [--key=value ...]')
    parser.add_argument('config', nargs='*', help='config files, such as config/train_math_mini_14.py')
    parser.add_argument('--download', action='store_true', help='fetch the weights of --init_from=gpt2, '
                        'gpt2-medium, ... from the Hugging Face hub if they are not on this machine')
    add_settings(parser)
    args = parser.parse_args()
    config = resolve(args.config, {name: getattr(args, name) for name in FIELDS}, args.defaults)
    config.download = args.download
    return config


def resolve(files: Sequence[str | Path], settings: dict[str, Any], defaults: str | None = None) -> Config:
    """As `load_config`. A run that is resumed keeps the settings that are not given."""
    config = load_config(files, settings, defaults, say=print)
    if config.init_from == 'resume':    # a config file's max_iters counts, even the default
        config = with_settings_of_run(config, how_long=not files)
    return config


def next_multiple(n: int, step: int) -> int:
    """The first multiple of `step` above n."""
    return (n // step + 1) * step


class Trainer:
    """Trains the seeds of a run on one device. quiet, callback: see `train`. weights: the state dict that new
    seeds start from; with None their weights are drawn at random."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device, dtype: torch.dtype,
                 ranks: Ranks, quiet: bool = False, callback: Callback | None = None,
                 weights: dict[str, torch.Tensor] | None = None) -> None:
        self.config, self.dataset, self.device, self.dtype, self.ranks = config, dataset, device, dtype, ranks
        self.quiet, self.callback, self.weights = quiet or not ranks.leader, callback, weights

    def build(self, folder: RunFolder, seeds: list[SeedFolder]) -> tuple[Engine, Evaluator]:
        """-> the engine of these seeds, continuing from their state in the folder, and their evaluator"""
        numbers = [seed.seed for seed in seeds]
        model_args = self.config.model_args(self.dataset.meta['vocab_size'])
        replicas = Replicas.from_seeds(model_args, numbers, self.device)
        for r in range(len(numbers)) if self.weights else ():
            replicas.load(r, self.weights)
        engine = Engine(replicas, self.dataset.train, numbers, self.config, self.device, self.dtype,
                        self.ranks, self.dataset.newline)
        engine.load(folder.states(seeds, engine.snapshot()))
        max_tokens = tokens_per_pass(replicas.template.config, len(numbers), self.device)
        return engine, Evaluator.of_run(engine.forward, self.dataset, self.config, engine.seeds, max_tokens)

    def prepare(self, folder: RunFolder, report: Reporter, engine: Engine, first: int) -> None:
        """Compile the step, open the logs, start the folder, and print what will be trained."""
        with report.if_slow('the step is being compiled: on a busy machine that takes a minute'):
            engine.prepare()
        report.logs.open(folder)
        num_params, made_by = engine.replicas.template.get_num_params(), provenance(self.device)
        dtype = str(self.dtype).removeprefix('torch.')
        folder.start(num_params=num_params, step=engine.mode, dtype=dtype, **made_by)
        report.start(first, f'{folder.path}: {num_params:,} parameters, {len(engine.seeds)} seed(s), '
                            f'from iteration {first} to {self.config.max_iters} on {made_by["hardware"]}; '
                            f'the step is {engine.mode}, in {dtype}')

    def is_due(self, iteration: int) -> bool:
        """Is there an evaluation at this iteration?"""
        return iteration % self.config.eval_interval == 0 or iteration == self.config.max_iters

    def train(self) -> int:
        """Evaluate, record, report, and train until the next evaluation, in a loop. -> exit status"""
        config, ranks = self.config, self.ranks
        with (Reporter(config, self.quiet, self.callback) as report,
              RunFolder(config, self.dataset, ranks, report.say) as folder):
            for seeds, t, last in folder.legs():    # a single leg if all seeds are at the same iteration
                engine, evaluate = self.build(folder, seeds)
                self.prepare(folder, report, engine, t)
                while True:
                    if self.is_due(t) and not folder.has(t):
                        self.dataset.check_unchanged()
                        with engine.measuring():
                            found = evaluate(t)
                        written = folder.record(t, engine.snapshot(), found)
                        report.evaluation(t, folder.healthy(found.rows), written)
                    stop = ranks.agree(report.signal)
                    if t >= last or folder.all_diverged or stop:
                        break
                    for t, losses in engine.run(t, min(last, next_multiple(t, config.eval_interval))):
                        folder.watch(t, losses)
                        report.step(t, losses)
                        if report.signal and not ranks.split:    # processes that share batches stop together
                            break
                if not folder.has(t):
                    folder.record(t, engine.snapshot())    # interrupted between two evaluations
                if stop:
                    break
            folder.flush()
            report.logs.open(folder)    # they may lack evaluations even if nothing was left to train
        return self.end(folder, report.signal)

    def end(self, folder: RunFolder, number: int) -> int:
        """Print how the run ended, if no evaluation shows it. number: the signal that stopped it. -> exit
        status"""
        if folder.going():
            print(f'stopped after iteration {folder.iteration}, saved in {folder.path}: '
                  f'continue with --init_from=resume', file=sys.stderr)
            return 128 + number
        diverged = all(seed.diverged is not None for seed in folder.seeds)
        if self.ranks.leader and (diverged or not folder.started):
            print(folder.describe_end())
        return int(diverged)

    def evaluate_once(self) -> int:
        """Print the scores of the run, or of fresh weights, and write nothing. -> exit status"""
        folder = RunFolder(self.config, self.dataset, self.ranks)
        for seeds in folder.peek():
            _, evaluate = self.build(folder, seeds)
            print(scores_line(evaluate(seeds[0].iteration).rows))
        return 0


def train_config(config: Config, quiet: bool = False, callback: Callback | None = None) -> int:
    """Train, or with `eval_only` evaluate once. -> exit status. Raises `UserError` if memory runs out."""
    ranks = Ranks.from_environment(config)
    device = choose_device(config.device, ranks.local)
    dataset, weights = Dataset(config.dataset, config.block_size), None
    if config.init_from not in ('scratch', 'resume'):
        config, weights = gpt2.begin(config, dataset.meta['vocab_size'])
    dtype = choose_dtype(config.dtype, device, config.n_embd)
    trainer = Trainer(config, dataset, device, dtype, ranks, quiet, callback, weights)
    try:
        if config.eval_only:
            return trainer.evaluate_once()
        ranks.init(device)
        return ranks.shutdown(trainer.train())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # After the `except` block: the error is gone, and with it the memory that it kept alive.
    raise UserError(describe_shortage(config, dataset.meta['vocab_size'], device))


def train(*configs: str | Path, quiet: bool = False, callback: Callback | None = None,
          **settings: object) -> RunResults | None:
    """Train from Python. Settings by name override the config files, which are read in their order. -> the
    results, or None with `eval_only`, which prints scores and writes nothing

    quiet: print no lines for steps and evaluations. callback(iteration, rows) is called after an evaluation
    is on the disk. rows: a dict for each seed, with its number as `seed` and the columns of results.csv that
    apply. An exception that it raises ends the training; everything up to that evaluation is kept.
    Ctrl-C ends the training after the current step, and `train` returns the results so far;
    `init_from='resume'` continues.
    Raises `UserError`, with the line that the script would print.
    """
    config = resolve(configs, settings)
    train_config(config, quiet, callback)
    return None if config.eval_only else load_results(config.out_dir)


def main() -> int:
    """Train as the command line says. -> exit status"""
    return train_config(read_settings())


if __name__ == '__main__':
    run(main)
