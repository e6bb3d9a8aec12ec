"""Run the jobs of a sweep: one job, many on this machine, or many on a Ray cluster.

The state of a sweep is only in its run folders. A process that takes a job looks there first, resumes what
was begun, and waits if another process holds the folder's lock. So a retry is a resume, and engines can be
mixed.
"""
import ctypes
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tbtt.cli import UserError, study_package
from tbtt.config import ROOT, Config
from tbtt.layout import folder_of_seed
from tbtt.run_folder import Busy, is_taken
from tbtt.seed_folder import begun, finished
from tbtt.sweep.plan import Job, Run

RETRIES = 10    # of a job whose machine was lost
WAIT = 2.0    # seconds between two looks at whether another process still holds a folder
Ended = Iterator[tuple[Job, str | None]]    # jobs as they end, and what went wrong, in one line


def unfinished(job: Job, config: Config) -> list[int]:
    """The seeds of a job that are not `finished` by the settings `config`."""
    return [seed for seed in job.seeds if not finished(folder_of_seed(job.folder, seed), config)]


def done(job: Job) -> bool:
    """Is nothing left to do? False if `unfinished` raises: then `do` will report the error."""
    try:
        return not unfinished(job, job.run.config())
    except UserError:
        return False


class Children:
    """The training processes that run on this machine, and whether they are to stop."""

    def __init__(self) -> None:
        self.lock, self.running, self.stopping = threading.Lock(), set(), False

    def run(self, command: list[str], log: Path, env: dict[str, str]) -> tuple[int, str]:
        """Run a command to its end, and append its output to the file `log`. -> exit status, last line"""
        with self.lock:
            if self.stopping:
                return 128 + signal.SIGTERM, 'stopped'
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, 'ab') as file:
                size = file.tell()
                # In a new session: Ctrl-C at the shell reaches only the sweep, which tells its children
                # once.
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

    def stop(self) -> None:
        """Tell all processes to save their state and end, and let no new one begin."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                process.send_signal(signal.SIGTERM)


libc = ctypes.CDLL(None) if sys.platform == 'linux' else None


def die_with_parent() -> None:
    """Called in a child before its command starts: it will get SIGTERM when its parent is gone. Otherwise an
    orphan could keep the lock of a run from its retry."""
    PR_SET_PDEATHSIG = 1    # of <sys/prctl.h>
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def train(job: Job, seeds: list[int], children: Children, env: dict[str, str]) -> tuple[int, str]:
    """Train seeds of a job, and all seeds between them, from the start or from where they are.
    -> exit status, last line of output"""
    folders = [folder_of_seed(job.folder, seed) for seed in seeds]
    place = {'out_dir': folders[0] if len(seeds) == 1 else job.folder, 'seed': seeds[0],
             'num_seeds': seeds[-1] - seeds[0] + 1}
    command = [sys.executable, str(ROOT / 'train_with_eval.py'), job.run.base]
    command += [f'--{name}={value}' for name, value in {**job.run.settings, **place}.items()]
    # Seeds in between count too, and may be finished: the folder of all these seeds is then not new.
    if any(begun(folder_of_seed(job.folder, seed)) for seed in range(seeds[0], seeds[-1] + 1)):
        command.append('--init_from=resume')
    name = folders[0].name if len(seeds) == 1 else f'seeds_{seeds[0]}-{seeds[-1]}'
    status, line = children.run(command, job.folder / f'{name}.log', env)
    return status, line.removeprefix('error: ') if status >= 0 else killed_by(-status)


def killed_by(number: int) -> str:
    """A message about a process that was ended by a signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:    # real-time signals have no names
        return f'killed by signal {number}'
    return f'killed by signal {number} ({name}{"; out of memory?" if name == "SIGKILL" else ""})'


def do(job: Job, children: Children, env: dict[str, str], tell: Callable[[str], None] = print) -> str | None:
    """Train what is left of a job, and wait for other processes that train it.
    -> None, or what went wrong, in one line"""
    try:
        return train_left(job, children, env, tell)
    except (UserError, OSError) as error:
        return str(error)


def train_left(job: Job, children: Children, env: dict[str, str], tell: Callable[[str], None]) -> str | None:
    """Train a job until none of its seeds is left, and wait for seeds that other processes train.
    -> None, or what went wrong, in one line"""
    config, waited_for = job.run.config(), None
    while left := unfinished(job, config):
        before = begun_among(job)
        status, line = train(job, left, children, env)
        if status == Busy.status:
            if line != waited_for:
                tell(f'{job} waits: {line}')
            waited_for = line
            wait_for(left, job, children)    # the other process may finish them
        elif status == 2 and begun_among(job) != before:
            continue    # another process began it at the same moment
        elif status:
            return line
        elif unfinished(job, config):
            return f'{job.folder} did not finish'
    return None


def wait_for(seeds: list[int], job: Job, children: Children) -> None:
    """Wait until no other process trains any of these seeds, or until the sweep is to stop."""
    time.sleep(WAIT)
    while any(is_taken(folder_of_seed(job.folder, seed)) for seed in seeds) and not children.stopping:
        time.sleep(WAIT)


def begun_among(job: Job) -> list[int]:
    """The seeds of a job whose folders already hold something of a run."""
    return [seed for seed in job.seeds if begun(folder_of_seed(job.folder, seed))]


def local(jobs: list[Job], prepare: Callable[[Run], None], environments: list[dict[str, str]],
          children: Children, tell: Callable[[str], None] = print) -> Ended:
    """Run jobs, as many at a time as there are `environments`, each job in one of them."""
    free = queue.Queue()
    for environment in environments:
        free.put(environment)

    def one(job: Job) -> str | None:
        environment = free.get()
        try:
            prepare(job.run)
            return do(job, children, environment, tell)
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


def check_address(address: str | None) -> None:
    """Raise `UserError` if nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = (address or '').removeprefix('ray://').rpartition(':')
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError, ValueError) as error:
            raise UserError(f'no Ray cluster at {address}: {error}') from None


def wants_gpu(job: Job) -> bool:
    """Would a job train on a GPU if there is one?"""
    return job.run.config().device.split(':')[0] in ('auto', 'cuda')


def on_ray(jobs: list[Job], prepare: Callable[[Run], None], address: str | None, threads: int) -> Ended:
    """Run jobs as tasks of a Ray cluster. Each task gets `threads` cores, and a GPU if the cluster has any
    and the job wants one. All machines must see the folder of the sweep and the project at the same paths. A
    task whose machine is lost is retried on another machine."""
    os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0')
    ray = study_package('ray')
    try:
        ray.init(address=address, include_dashboard=False if address is None else None,
                 logging_level='warning', log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f'cannot connect to the Ray cluster at {address} '
                        f'({" ".join(str(error).split())[:200]}): if it uses tokens, set RAY_AUTH_MODE=token '
                        'and put its token into ~/.ray/auth_token or RAY_AUTH_TOKEN') from None
    root = str(ROOT)

    # An inner function is sent by value, and the job as bytes: a worker finds this project only when the
    # function runs.
    def task(job: bytes) -> str | None:
        sys.path.insert(0, root)
        from tbtt.sweep import launch
        return launch.do(pickle.loads(job), launch.Children(), {'OMP_NUM_THREADS': str(threads)})

    remote = ray.remote(num_cpus=threads, max_retries=RETRIES)(task)
    has_gpus = ray.cluster_resources().get('GPU', 0) >= 1    # this machine may have none
    try:
        waiting = {}
        for job in jobs:
            try:
                prepare(job.run)
            except (UserError, OSError) as error:
                yield job, str(error)
            else:
                num_gpus = int(has_gpus and wants_gpu(job))
                waiting[remote.options(num_gpus=num_gpus).remote(pickle.dumps(job))] = job
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            try:
                error = ray.get(done)
            except ray.exceptions.RayError as failure:
                error = ' '.join(str(failure).split())[:300]
            yield waiting.pop(done), error
    finally:
        ray.shutdown()
