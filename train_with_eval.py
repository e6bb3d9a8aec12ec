"""
Train a GPT, or many seeds of it at once, and ask it every `eval_interval` steps what it has learned.

    python train_with_eval.py config/train_math_mini_14.py
    python train_with_eval.py config/train_math_mini_14.py --seed=7 --out_dir=another
    python train_with_eval.py config/train_math_mini_14.py --init_from=resume

Settings are the defaults below, then config files in their order, then --key=value. Writes into out_dir: results.csv (a
row an evaluation), ckpt.pt (the latest, complete for going on), ckpt_best_math.pt, ckpt_best_facts.pt and
ckpt_best_combined.pt (each the first with the highest score), run.json (what made the run). With --num_seeds=R above 1
there is such a folder for each seed below out_dir.
"""
import time

import torch

from tbtt.command import Parser, UserError, run
from tbtt.config import FIELDS, add_settings, load_config
from tbtt.dataset import Dataset
from tbtt.device import autocast, choose_device, choose_dtype
from tbtt.engine import Engine
from tbtt.evaluate import Evaluator, Losses
from tbtt.logs import wanted
from tbtt.progress import Interruption, Progress, scores_line
from tbtt.replicas import Replicas
from tbtt.run import RunFolder, provenance


def read_settings():
    parser = Parser(__doc__)
    parser.add_argument('config', nargs='*', help='config files, such as config/train_math_mini_14.py')
    add_settings(parser)
    args = parser.parse_args()
    return load_config(args.config, {name: getattr(args, name) for name in FIELDS})


def main():
    config = read_settings()
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    dataset = Dataset(config.dataset, config.block_size)
    log_kinds = wanted(config)
    seeds = list(range(config.seed, config.seed + config.num_seeds))
    replicas = Replicas.from_seeds(config.model_args(dataset.meta['vocab_size']), seeds, device)
    engine = Engine(replicas, dataset.train, seeds, config, device, dtype)

    def forward(tokens):
        with autocast(device, dtype):
            return replicas.forward(tokens)

    evaluator = Evaluator(forward, dataset.codec, dataset.tasks, config.block_size, engine.seeds)
    losses = Losses(forward, config.block_size, config.batch_size, config.eval_iters, engine.seeds)
    splits = {name: getattr(dataset, name).to(device) for name in ('train', 'val')}

    def evaluate(iteration):
        """One row of results a replica."""
        measured = {'train': losses(splits['train'], iteration)}
        same = torch.equal(dataset.train, dataset.val)
        measured['val'] = measured['train'] if same else losses(splits['val'], iteration)
        return [{'iter': iteration, **row, 'train_loss': float(train), 'val_loss': float(val)}
                for row, train, val in zip(evaluator.rows(iteration), *measured.values())]

    if config.eval_only:
        for seed, row in zip(seeds, evaluate(0)):
            print(f'seed {seed}: {scores_line(row)}')
        return 0

    folder = RunFolder(config, dataset.meta)
    ...


if __name__ == '__main__':
    run(main)
