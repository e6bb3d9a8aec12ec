"""
Train every combination of a sweep file's axes with many seeds each, and write one table of the results.

    python sweep.py config/sweep_quick.py
    python sweep.py config/sweep_capacity.py --dry_run
    python sweep.py config/sweep_capacity.py --base=math --n_embd=10,14,20,28 --weight_decay=0.0 --num_seeds=6
    python sweep.py config/sweep_capacity.py --shard=3/64             (one of 64 tasks of an array scheduler)
    python sweep.py config/sweep_capacity.py --engine=ray --address=auto

A sweep file names a base config, the axes, and the settings that all runs share. --key=value sets the values
of an axis (separated by commas; for an option of prepare.py, by blanks) or any setting. Writes
sweeps/NAME/RUN/seed_S/, as train_with_eval.py does, and sweeps/NAME/summary.csv, one row per seed. After an
interruption call it again: finished seeds are skipped, interrupted ones are resumed.
"""
import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tbtt.cli import Parser, UserError, join_values, run    # first: it names missing packages

import torch
from tqdm import tqdm

from tbtt.device import choose_device
from tbtt.sweep.estimate import Estimates
from tbtt.sweep.launch import Children, check_address, done, local, on_ray
from tbtt.sweep.plan import ON_CPU, Job, Sweep, shard
from tbtt.sweep.summary import summarise, write_summary


def read_arguments() -> tuple[argparse.Namespace, dict[str, str]]:
    """-> the options of this script, and all other options as {name: text of --name=text}"""
    parser = Parser(__doc__)
    parser.add_argument('sweep', help='a sweep file, such as config/sweep_quick.py')
    parser.add_argument('--dry_run', action='store_true',
                        help='list the runs, with estimates, and train nothing')
    parser.add_argument('--engine', choices=('local', 'ray'), default='local', help='(default: local)')
    parser.add_argument('--address',
                        help='address of the Ray cluster: auto or HOST:PORT (default: a new one '
                        'on this machine)')
    parser.add_argument('--shard', type=shard, default=(0, 1), metavar='I/N',
                        help='only part I of N; the first part is 0')
    parser.add_argument('--workers', type=count,
                        help='processes at a time (default: one per core, or one per GPU)')
    parser.add_argument('--replicas', type=count,
                        help=f'seeds trained together (default: {ON_CPU}; on a GPU as many as fit)')
    parser.add_argument('--sweeps_dir', default='sweeps', help='where sweeps are (default: sweeps)')
    args, rest = parser.parse_known_args(join_values(sys.argv[1:], parser))
    settings = {}
    for text in rest:
        name, equals, value = text.removeprefix('--').partition('=')
        if not (text.startswith('--') and equals):
            parser.error(f'expected --key=value or --key value, got {text}')
        settings[name] = value
    return args, settings


def count(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    if int(text) < 1:
        raise UserError(f'expected a whole number of at least 1, got {text}')
    return int(text)


def gpus_of(sweep: Sweep) -> list[dict[str, str]]:
    """-> for each GPU that jobs may use, the environment of a process on it; [] if they train on a CPU"""
    kinds = {run.config().device for run in sweep.runs}
    if kinds == {'auto'} and torch.cuda.is_available():
        seen = os.environ.get('CUDA_VISIBLE_DEVICES')
        names = seen.split(',') if seen else map(str, range(torch.cuda.device_count()))
        return [{'CUDA_VISIBLE_DEVICES': name} for name in names]
    return [{}] if any(choose_device(kind).type == 'cuda' for kind in kinds) else []


def report(sweep: Sweep, failures: list[tuple[Job, str]]) -> None:
    """Print the failures, write the table, and print how many seeds of the whole sweep, all shards together,
    are finished. The failures come first, because writing the table may fail."""
    for job, error in failures:
        print(f'failed: {job}: {error} (see {job.folder})', file=sys.stderr)
    if sweep.folder.is_dir():
        path = sweep.folder / 'summary.csv'
        seeds = write_summary(path, summarise(sweep))
        if seeds:
            print(f'wrote {os.path.relpath(path)}: {seeds} seeds')
    every = sweep.jobs(1)
    print(f'{sum(map(done, every))} of {len(every)} seeds finished')


def main() -> int:
    """Run the jobs. -> 1 if one failed, 128 + the signal if the sweep was stopped, else 0"""
    args, settings = read_arguments()
    check_address(args.address)
    sweep = Sweep(args.sweep, settings, args.sweeps_dir)
    gpus = gpus_of(sweep)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = args.workers or len(gpus) or cores
    # Threads of each worker, whatever the number of jobs: more threads sum in another order.
    threads = max(1, cores // workers)
    with tempfile.TemporaryDirectory() as scratch:
        estimates = Estimates(sweep, 'cuda' if gpus else 'cpu', Path(scratch))
        jobs = sweep.jobs(args.replicas or (estimates.seeds_together() if gpus else ON_CPU), args.shard)
        workers = min(workers, max(1, len(jobs)))
        if args.dry_run:
            print(estimates.table(jobs, workers))
            return 0

    todo = [job for job in jobs if not done(job)]
    print(f'{sweep.folder}: {len(sweep.runs)} runs of {sweep.num_seeds} seed(s), {len(jobs)} jobs here, '
          f'{len(jobs) - len(todo)} finished already')
    children = Children()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environments = [{'OMP_NUM_THREADS': str(threads)} | (gpus[k % len(gpus)] if gpus else {})
                    for k in range(workers)]
    if args.engine == 'ray':
        ending = on_ray(todo, sweep.prepare, args.address, threads if args.workers else 1)
    else:
        ending = local(todo, sweep.prepare, environments, children, lambda line: tqdm.write(line, sys.stderr))
    failures = []
    try:
        with tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit='job', disable=None) as bar:
            for job, error in ending:
                bar.update()
                bar.write(f'failed: {job}: {error}' if error else f'done: {job}', sys.stderr)
                if error:
                    failures.append((job, ' '.join(error.split())))
    except (KeyboardInterrupt, SystemExit) as stop:
        ending.close()
        print('stopped: the running jobs were saved; the same command continues', file=sys.stderr)
        return stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
    finally:
        report(sweep, failures)
    return int(bool(failures))


if __name__ == '__main__':
    run(main)
