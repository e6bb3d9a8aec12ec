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
import sys

from tbtt.cli import Parser, UserError, run    # first: it says what is missing

import torch

from tbtt.config import FIELDS, add_settings, load_config
from tbtt.dataset import Dataset
from tbtt.device import choose_device, choose_dtype, describe_shortage, is_out_of_memory, tokens_per_pass
from tbtt.engine import Engine
from tbtt.evaluate import Evaluation
from tbtt.logs import wanted
from tbtt.progress import Interruption, Progress, scores_line
from tbtt.distributed import Ranks
from tbtt.replicas import Replicas
from tbtt.run_folder import RunFolder, provenance


def read_settings():
    parser = Parser(__doc__, usage='%(prog)s [config ...] [--key=value ...]')
    parser.add_argument('config', nargs='*', help='config files, such as config/train_math_mini_14.py')
    add_settings(parser)
    args = parser.parse_args()
    return load_config(args.config, {name: getattr(args, name) for name in FIELDS}, args.defaults, say=print)


def next_multiple(n, step):
    """The first multiple of `step` above n."""
    return (n // step + 1) * step


def train(config, dataset, device, dtype, ranks):
    """Evaluate, train `eval_interval` steps without looking up, and again. -> exit status"""
    seeds = ranks.deal(range(config.seed, config.seed + config.num_seeds))
    replicas = Replicas.from_seeds(config.model_args(dataset.meta['vocab_size']), seeds, device)
    engine = Engine(replicas, dataset.train, seeds, config, device, dtype, ranks, dataset.newline)
    max_tokens = tokens_per_pass(replicas.template.config, len(seeds), device)
    evaluate = Evaluation(engine.forward, dataset, config, engine.seeds, max_tokens)
    log_kinds = wanted(config)
    folder = RunFolder(config, dataset, ranks)
    if config.eval_only:
        checkpoints, t = folder.read() if config.init_from == 'resume' else ({}, 0)
        engine.load(checkpoints)
        print(scores_line(evaluate(t)))
        return 0

    ranks.join(device)
    with folder as (checkpoints, t):
        if folder.all_diverged():
            print(f'{folder.path}: the loss was not finite at iteration {folder.seeds[0].diverged}; start anew with other '
                  f'settings, such as a smaller learning_rate')
            return 1
        if folder.evaluated(t) and t >= config.max_iters:
            print(f'{folder.path} is finished at iteration {t}: a larger max_iters would go on')
            return 0
        engine.load(checkpoints)
        engine.prepare()
        about = {'num_params': replicas.template.get_num_params(), 'step': engine.path, **provenance(device)}
        folder.begin(**about)
        logs = [kind(config) for kind in log_kinds if ranks.leader]
        interruption, progress = Interruption(), Progress(t, config, quiet=not ranks.leader)
        progress.say(f'{folder.path}: {about["num_params"]:,} parameters, {config.num_seeds} seed(s), from iteration {t} to '
                     f'{config.max_iters} on {about["hardware"]}; the step is {engine.path}, in '
                     f'{str(dtype).removeprefix("torch.")}')

        def watch(first, losses):
            """losses (steps, R) from iteration `first` on"""
            for seed in folder.check_finite(first, losses):
                progress.say(f'seed {seed.seed}: the loss is not finite at iteration {seed.diverged}; it stops there, and '
                             f'its last good checkpoint stays', always=True)

        while True:
            if (t % config.eval_interval == 0 or t == config.max_iters) and not folder.evaluated(t):
                dataset.check_unchanged()
                rows = evaluate(t)
                watch(t, torch.tensor([[row['train_loss'] for row in rows]]))
                folder.record(t, engine.snapshot(), rows, finished=t >= config.max_iters or folder.all_diverged())
                going = [row for row, seed in zip(rows, folder.seeds) if seed.diverged is None] or rows
                progress.evaluated(t, going)
                for log in logs:
                    log.log(t, going)
            if t >= config.max_iters or folder.all_diverged() or interruption.signal:
                break
            first, stretch = t, []
            for t, losses in engine.run(t, min(config.max_iters, next_multiple(t, config.eval_interval))):
                stretch.append(losses)
                progress.step(t, losses)
                if interruption.signal and not ranks.split:    # those that share batches stop together, after the stretch
                    break
            interruption.signal = ranks.agree(interruption.signal, device)
            watch(first, torch.cat(stretch))
        if not folder.evaluated(t):
            folder.record(t, engine.snapshot())    # interrupted between two evaluations
        folder.flush()
        progress.close()
        for log in logs:
            log.close()
        ranks.leave()    # all together: the leader holds the lock for the others
    if interruption.signal and t < config.max_iters:
        print(f'stopped after iteration {t}, saved in {folder.path}: --init_from=resume goes on', file=sys.stderr)
        return 128 + interruption.signal
    return int(folder.all_diverged())


def main():
    config = read_settings()
    ranks = Ranks.from_environment(config)
    device = choose_device(config.device, ranks.local)
    dtype = choose_dtype(config.dtype, device, config.n_embd)
    dataset = Dataset(config.dataset, config.block_size)
    try:
        return train(config, dataset, device, dtype, ranks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Here, where the error and with it what it kept alive is gone.
    raise UserError(describe_shortage(config, dataset.meta['vocab_size'], device))


if __name__ == '__main__':
    run(main)
