"""How the jobs of a sweep get done: one job, many on this machine, many on a Ray cluster.

The state of a sweep lies in its run folders alone: whoever takes a job looks there first, resumes what was begun, and
waits where another process holds the folder's lock. So a retry is a resume, and engines can be mixed.
"""
import ctypes
import dataclasses
import os
import pickle
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import filelock

from tbtt.cli import UserError, study_package
from tbtt.config import ROOT
from tbtt.atomic import COMMIT, put_in_place
from tbtt.results import read_info
from tbtt.run_folder import BUSY, LATEST, LOCK, check_unchanged

RETRIES = 10    # of a job whose machine was lost
WAIT = 2.0    # seconds between two looks at a folder that another process holds
MOVING = '.moving.lock'    # in the folder of a run: held by whoever moves seeds there


def finished(folder, config):
    """Is the run of one seed in this folder done, at `max_iters` or because its loss was no longer finite? Raises
    `UserError` where it was made with other settings than `config`, as a resume would."""
    info = read_info(folder)
    if not info.get('finished'):
        return False
    recorded = info.get('config', {})
    if type(info.get('iter_num')) is not int or not isinstance(recorded, dict):
        raise UserError(f'{folder}/run.json: damaged (iter_num or config): delete it or train the run anew')
    asked = dataclasses.asdict(config)
    check_unchanged(recorded, {name: asked[name] for name in asked.keys() - {'seed', 'num_seeds'}}, folder)
    return info['iter_num'] >= config.max_iters or info.get('diverged') is not None


def done(job):
    """Is nothing left to do? Where the folders cannot say, that is for `do` to report."""
    try:
        return all_finished(job.folder, job.seeds, job.run.config())
    except UserError:
        return False


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
    try:
        return train_left(job, children, env)
    except (UserError, OSError) as error:
        return str(error)


def train_left(job, children, env):
    config = job.run.config()
    job.folder.mkdir(parents=True, exist_ok=True)
    while left := unfinished(job, config):
        with filelock.FileLock(job.folder / MOVING):    # no folder changes its place while one is chosen
            folder, seeds = where_next(job, left)
            complete = all_finished(folder, seeds, config)
            moved = complete and (not range_of(folder) or move_up(folder, job.folder, config))
        if complete:
            time.sleep(0 if moved else WAIT)
            continue
        error = train(job, folder, seeds, children, env)
        if error and BUSY in error:
            time.sleep(WAIT)    # whoever has it may finish it
        elif error and (folder.exists() or unfinished(job, config) == left):
            return error    # where it is gone, another job has finished and moved it
        elif not error and not all_trained(job, folder, seeds, config):
            return f'{folder} did not finish'
    return None


def unfinished(job, config):
    return [seed for seed in job.seeds if not finished(job.folder / f'seed_{seed}', config)]


def all_trained(job, folder, seeds, config):
    """Are all finished, in the folder that they were trained in or where another job has moved them since?"""
    return all(finished(seed_folder(folder, seed), config) or finished(job.folder / f'seed_{seed}', config)
               for seed in seeds)


def where_next(job, left):
    """Which folder to train in next, and which seeds, when `left` are not finished. -> folder, seeds"""
    groups = [folder for folder in sorted(job.folder.glob('seeds_*-*'))
              if folder.is_dir() and set(range_of(folder)) & set(left)]
    if groups:    # begun, perhaps with other seeds than this job's, or finished and not yet moved
        return groups[0], range_of(groups[0])
    settle(job.folder)
    if job.whole and len(job.seeds) > 1 and len(left) == len(job.seeds) and can_be_joint(job):
        return job.folder, job.seeds
    singles = [seed for seed in left if begun(job.folder / f'seed_{seed}')]
    if singles or len(left) == 1:
        seed = (singles or left)[0]
        return job.folder / f'seed_{seed}', (seed,)
    last = next(seed for seed in left if seed + 1 not in left)    # what is finished in between is not trained again
    if last == left[0]:
        return job.folder / f'seed_{last}', (last,)
    return job.folder / f'seeds_{left[0]}-{last}', range(left[0], last + 1)


def can_be_joint(job):
    """Can the seeds of a whole run go on as one? Only where none was begun, or these and no others up to the same
    iteration: fewer or more seeds may have been asked for before, or parts of them trained on their own."""
    here = {folder for folder in job.folder.glob('seed_*') if begun(folder)}
    ours = {job.folder / f'seed_{seed}' for seed in job.seeds}
    return not here or here == ours and len({read_info(folder).get('iter_num') for folder in here}) == 1


def settle(folder):
    """Finish a change that a crash left half made in the folder of a whole run: a seed of it that goes on alone would not
    look there."""
    if any(folder.glob(f'*{COMMIT}')):
        try:
            with filelock.FileLock(folder / LOCK, timeout=0):
                for commit in folder.glob(f'*{COMMIT}'):
                    put_in_place(commit)
        except filelock.Timeout:
            pass    # it is under way, and so are the locks of its seeds


def all_finished(folder, seeds, config):
    return all(finished(seed_folder(folder, seed), config) for seed in seeds)


def seed_folder(folder, seed):
    """Where a seed's files are in a folder that is trained in: of its own seed, of a group, or of a whole run."""
    return folder if folder.name == f'seed_{seed}' else folder / f'seed_{seed}'


def range_of(folder):
    """seeds_1337-1344 -> range of its seeds, empty for a folder of somebody else's"""
    match = re.fullmatch(r'seeds_(\d+)-(\d+)', folder.name)
    return range(int(match[1]), int(match[2]) + 1) if match else range(0)


def move_up(group, run, config):
    """The finished seeds of a group go where those of a run belong. What is finished there already stays; what is only
    begun there makes way, unless a process has it. -> is nothing left to move?"""
    waiting = [folder for folder in sorted(group.glob('seed_*'))
               if not finished(run / folder.name, config) and not move(folder, run / folder.name)]
    if not any(group.glob('seed_*')):
        shutil.rmtree(group, ignore_errors=True)
    return not waiting


def move(folder, place):
    """Move a finished seed to its place. -> has that been possible?"""
    if not place.exists():
        folder.rename(place)
        return True
    aside = place.with_name(f'.{place.name}.replaced')
    try:
        with filelock.FileLock(place / LOCK, timeout=0):
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
            folder.rename(place)
    except filelock.Timeout:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


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
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f'no Ray cluster at {address} lets us in ({" ".join(str(error).split())[:200]}): one with tokens '
                        f'wants RAY_AUTH_MODE=token, and its own in ~/.ray/auth_token or RAY_AUTH_TOKEN') from None
    root = str(ROOT)

    # A function in a function travels by value, and the job as bytes: a worker finds this project only when it runs.
    def task(job):
        sys.path.insert(0, root)
        from tbtt.sweep import launch
        return launch.do(pickle.loads(job), launch.Children(), {'OMP_NUM_THREADS': str(threads)})

    remote = ray.remote(num_cpus=threads, num_gpus=num_gpus, max_retries=RETRIES)(task)
    try:
        waiting = {}
        for job in jobs:
            try:
                prepare(job.run)
            except (UserError, OSError) as error:
                yield job, str(error)
            else:
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
