"""How the jobs of a sweep get done: one job, many on this machine, many on a Ray cluster.

The state of a sweep lies in its run folders alone: whoever takes a job looks there first, resumes what was begun, and
waits where another process holds the folder's lock. So a retry is a resume, and engines can be mixed.
"""
import ctypes
import os
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from tbtt.command import UserError, study_package
from tbtt.config import ROOT
from tbtt.files import COMMIT
from tbtt.results import read_info
from tbtt.run import BUSY, LATEST

RETRIES = 10    # of a job whose machine was lost
WAIT = 2.0    # seconds between two looks at a folder that another process holds


def finished(folder, max_iters):
    """Is the run of one seed in this folder done, at `max_iters` or because its loss was no longer finite?"""
    info = read_info(folder)
    return bool(info.get('finished')) and (info['iter_num'] >= max_iters or info.get('diverged') is not None)


def begun(folder):
    """Is there something to resume?"""
    return any((folder / LATEST).exists() for folder in (folder, *folder.glob('seed_*'))) or any(folder.glob(f'*{COMMIT}'))


class Children:
    """The training processes that are under way here, and whether they shall stop."""

    def __init__(self):
        self.lock, self.running, self.stopping = threading.Lock(), set(), False

    def run(self, command, log, env):
        """Run a command to its end, its output appended to the file `log`. -> exit status, its last line"""
        with self.lock:
            if self.stopping:
                return 128 + signal.SIGTERM, 'stopped'
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, 'ab') as file:
                size = file.tell()
                # A session of its own: Ctrl-C at the shell reaches the sweep alone, which tells its children once.
                process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                                           env={**os.environ, **env}, start_new_session=True,
                                           preexec_fn=die_with_parent if sys.platform == 'linux' else None)
            self.running.add(process)
        status = process.wait()
        with self.lock:
            self.running.discard(process)
        with open(log, 'rb') as file:
            file.seek(size)
            lines = file.read().decode(errors='replace').split('\n')
        return status, next((line for line in reversed(lines) if line.strip()), f'exit status {status}')

    def stop(self):
        """Have all save what they have and end, and no other begin."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                process.send_signal(signal.SIGTERM)


libc = ctypes.CDLL(None) if sys.platform == 'linux' else None


def die_with_parent():
    """In a child, before it starts: let it be told to stop when whoever started it is gone, so that no orphan keeps a
    run's lock from its retry."""
    PR_SET_PDEATHSIG = 1    # of <sys/prctl.h>
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def train(job, folder, seeds, children, env):
    """Train seeds of a job in `folder`, from the start or on. -> None, or what went wrong as one line (with BUSY in it where
    another process has the folder)"""
    settings = {**job.run.settings, 'out_dir': folder, 'seed': seeds[0], 'num_seeds': len(seeds)}
    command = [sys.executable, str(ROOT / 'train_with_eval.py'), job.run.base]
    command += [f'--{name}={value}' for name, value in settings.items()]
    command += ['--init_from=resume'] * begun(folder)
    status, line = children.run(command, job.folder / f'{folder.name}.log', env)
    return line.removeprefix('error: ') if status else None


def do(job, children, env):
    """Train what is left of a job, wherever it was begun. -> None, or what went wrong as one line"""
    iters = job.run.config().max_iters
    while left := [seed for seed in job.seeds if not finished(job.folder / f'seed_{seed}', iters)]:
        folder, seeds = where_next(job, left)
        if not all_finished(folder, seeds, iters):
            error = train(job, folder, seeds, children, env)
            if error and BUSY in error:
                time.sleep(WAIT)    # whoever has it may finish it
                continue
            if error or not all_finished(folder, seeds, iters):
                return error or f'{folder} did not finish'
        if folder.name.startswith('seeds_'):
            move_up(folder, job.folder)
    return None


def where_next(job, left):
    """Which folder to train in next, and which seeds, when `left` are not finished. -> folder, seeds"""
    groups = [folder for folder in sorted(job.folder.glob('seeds_*-*'))
              if folder.is_dir() and set(range_of(folder)) & set(left)]
    if groups:    # begun, perhaps with other seeds than this job's, or finished and not yet moved
        return groups[0], range_of(groups[0])
    singles = [seed for seed in left if begun(job.folder / f'seed_{seed}')]
    if job.whole and len(job.seeds) > 1 and len(singles) in (0, len(job.seeds)) and len(left) == len(job.seeds):
        return job.folder, job.seeds
    if singles or len(left) == 1:
        seed = (singles or left)[0]
        return job.folder / f'seed_{seed}', (seed,)
    return job.folder / f'seeds_{left[0]}-{left[-1]}', range(left[0], left[-1] + 1)


def all_finished(folder, seeds, max_iters):
    return all(finished(seed_folder(folder, seed), max_iters) for seed in seeds)


def seed_folder(folder, seed):
    """Where a seed's files are in a folder that is trained in: of its own seed, of a group, or of a whole run."""
    return folder if folder.name == f'seed_{seed}' else folder / f'seed_{seed}'


def range_of(folder):
    """seeds_1337-1344 -> range of its seeds"""
    first, last = folder.name.removeprefix('seeds_').split('-')
    return range(int(first), int(last) + 1)


def move_up(group, run):
    """The finished seeds of a group go where those of a run belong."""
    for folder in sorted(group.glob('seed_*')):
        if not (run / folder.name).exists():
            folder.rename(run / folder.name)
    shutil.rmtree(group, ignore_errors=True)


def local(jobs, prepare, environments, children):
    """Do jobs in as many processes at a time as there are `environments`, each in one of these. Yields (job, error) as
    they end."""
    free = queue.Queue()
    for environment in environments:
        free.put(environment)

    def one(job):
        environment = free.get()
        try:
            prepare(job.run)
            return do(job, children, environment)
        except (UserError, OSError) as error:
            return str(error)
        finally:
            free.put(environment)

    with ThreadPoolExecutor(len(environments)) as pool:
        futures = {pool.submit(one, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            children.stop()
            raise


def check_address(address):
    """Raise `UserError` where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = (address or '').removeprefix('ray://').rpartition(':')
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError, ValueError) as error:
            raise UserError(f'no Ray cluster at {address}: {error}') from None


def on_ray(jobs, prepare, address, threads, num_gpus):
    """Do jobs as tasks of a Ray cluster, each with `threads` cores and `num_gpus`; all its machines see the folder of
    the sweep and the project at the same paths. A task whose machine is lost is retried on another. Yields (job, error) as
    they end."""
    os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0')
    ray = study_package('ray')
    try:
        ray.init(address=address, include_dashboard=False if address is None else None, logging_level='warning',
                 log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f'no Ray cluster at {address}: {" ".join(str(error).split())[:200]}') from None
    root = str(ROOT)

    # A function in a function travels by value, and the job as bytes: a worker finds this project only when it runs.
    def task(job):
        sys.path.insert(0, root)
        from tbtt import launch
        return launch.do(pickle.loads(job), launch.Children(), {'OMP_NUM_THREADS': str(threads)})

    remote = ray.remote(num_cpus=threads, num_gpus=num_gpus, max_retries=RETRIES)(task)
    try:
        waiting = {}
        for job in jobs:
            prepare(job.run)
            waiting[remote.remote(pickle.dumps(job))] = job
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            try:
                error = ray.get(done)
            except ray.exceptions.RayError as failure:
                error = ' '.join(str(failure).split())[:300]
            yield waiting.pop(done), error
    finally:
        ray.shutdown()
