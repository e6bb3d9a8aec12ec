"""
Run trainings of all kinds on one folder, kill, stop, continue and interrupt them at random, and check what
they leave.

    python tests/chaos.py --minutes 30 --seed 0 --out results/chaos

Several trainings work at the same time on the folder of one run of four seeds, and on the same seeds: single
trainings, joint trainings, pairs of processes as torchrun starts them, and sweeps. Some are killed from
outside at any moment. Some are killed from within: before a file is opened, renamed or deleted, and before it
is flushed, whole or cut in half as after a power cut. Some are stopped and continued, interrupted once or
twice, or held still while others ask for the seeds that they hold.

After each round, every folder has to load, and no evaluation that was ever printed or on the disk may be
missing. A process may take at most a minute once it is left alone. A refused process may not change a byte.
When all seeds are done, their results and weights are compared with those of an undisturbed run. `--seed`
draws the same rounds again, as far as the timing of processes allows. The exit status is 1 if anything went
wrong.
"""
import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

import tbtt.prepare
from conftest import HERE, TINY, contents, options, run_script
from tbtt.atomic import COMMIT
from tbtt.cli import UserError
from tbtt.config import Config
from tbtt.dataset import Dataset
from tbtt.layout import LATEST, folder_of_seed
from tbtt.provenance import provenance
from tbtt.run_folder import Busy, RunFolder
from tbtt.sweep import launch

SCRIPT = 'train_with_eval.py'
# Eleven evaluations, among them several that are the best so far, in about a second.
SETTINGS = dict(TINY, max_iters=20, eval_interval=2, keep_checkpoints=4, n_embd=16, batch_size=64,
                learning_rate=0.03, min_lr=0.003)
SEEDS = range(1, 5)
PATIENCE = 60    # seconds for an undisturbed process
STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}    # exit statuses of a process that saved its state
KILLED = {-signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM}


# Processes that kill themselves.

class Moments:
    """Counts the moments just before files below `folder` change, and kills this process at number `last`."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last, self.count = str(Path(folder).resolve()), last, 0
        self.fsync, os.fsync = os.fsync, self.flush
        sys.addaudithook(self.look)

    def look(self, event: str, args: tuple) -> None:
        writes = event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'):
            if isinstance(args[0], (str, os.PathLike)) and os.path.abspath(args[0]).startswith(self.folder):
                self.moment()

    def flush(self, descriptor: int) -> None:
        """Replaces os.fsync: a process that dies before the flush may leave only half of the file."""
        about = os.fstat(descriptor)
        if stat.S_ISREG(about.st_mode):    # folders are flushed too
            self.moment(lambda: os.ftruncate(descriptor, about.st_size // 2))
        self.moment()
        self.fsync(descriptor)

    def moment(self, first: Callable = lambda: None) -> None:
        self.count += 1
        if self.count == self.last:
            first()
            os.kill(os.getpid(), signal.SIGKILL)


# Processes.

def forked(log: Path, prepare: Callable, script: str, args: tuple, settings: dict) -> int:
    """Run a script in a child of this process, which has torch already: a tenth of the time of a new process.
    prepare: called in the child before the script. -> process id"""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, name in ((1, 'stdout'), (2, 'stderr')):
            os.dup2(descriptor, number)
            setattr(sys, name, open(number, 'w', buffering=1, closefd=False))
        signal.signal(signal.SIGINT, signal.SIG_DFL)    # as tbtt/startup.py has it in a new process
        tqdm.set_lock(threading.RLock())    # tqdm's own is shared: a killed child may never free it
        prepare()
        status = run_script(script, *args, **settings)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class ForkedPopen:
    """Replaces the subprocess.Popen with which a sweep starts a training: the training runs in a child of
    this process."""

    def __init__(self, command: list, stdout: io.BufferedWriter, env: dict[str, str],
                 preexec_fn: Callable | None, **_: object) -> None:
        def prepare() -> None:
            os.setsid()
            os.environ.update(env)
            if preexec_fn:
                preexec_fn()
        _, script, *args = map(str, command)
        self.pid, self.returncode = forked(Path(stdout.name), prepare, script, tuple(args), {}), None

    def wait(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def forked_run(command: list[str], **_: object) -> subprocess.CompletedProcess:
    """Replaces the subprocess.run with which a sweep prepares its data."""
    _, script, *args = command
    with tempfile.NamedTemporaryFile() as log:
        child = forked(Path(log.name), lambda: None, script, tuple(args), {})
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(command, status, stderr=Path(log.name).read_text())


@contextlib.contextmanager
def forked_sweeps() -> Iterator[None]:
    """Inside it, sweeps in this process train in its children, which need not import torch again."""
    stand_in = types.SimpleNamespace(Popen=ForkedPopen, run=forked_run, DEVNULL=subprocess.DEVNULL)
    launch.subprocess = tbtt.prepare.subprocess = stand_in
    try:
        yield
    finally:
        launch.subprocess = tbtt.prepare.subprocess = subprocess


class Training:
    """A running training or other script. fresh: in a new interpreter; else in a child of this process. All
    its output is in `log`."""

    def __init__(self, log: Path, settings: dict, prepare: Callable = lambda: None, fresh: bool = False,
                 script: str = SCRIPT, args: tuple = ()) -> None:
        self.log, self.status = Path(log), None
        self.log.write_text('')
        if fresh:
            with open(log, 'wb') as file:
                self.pid = subprocess.Popen([sys.executable, HERE / script, *args, *options(settings)],
                                            stdout=file, stderr=subprocess.STDOUT, start_new_session=True).pid
        else:
            self.pid = forked(log, prepare, script, args, settings)

    def ended(self) -> int | None:
        """-> exit status, negative for a signal; None while it lives"""
        if self.status is None:
            child, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if child else None
        return self.status

    def wait(self, timeout: float = 120) -> int:
        """-> exit status"""
        end = time.monotonic() + timeout
        while self.ended() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f'no end after {timeout} s: {self.said()}')
            time.sleep(0.005)
        return self.status

    def says(self, words: str, timeout: float = 120) -> bool:
        """Wait until it has printed these words or ended. -> has it printed them?"""
        end = time.monotonic() + timeout
        while words not in self.said() and self.ended() is None and time.monotonic() < end:
            time.sleep(0.005)
        return words in self.said()

    def said(self) -> str:
        return self.log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.ended() is None:
            os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop it, and wait until it stands still: it may be writing."""
        self.kill(signal.SIGSTOP)
        self.wait_for_stop()

    def wait_for_stop(self) -> None:
        while Path(f'/proc/{self.pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'T':
            assert self.ended() is None, self.said()
            time.sleep(0.005)

    def told(self) -> set[int]:
        """The iterations whose evaluations it has printed."""
        return {int(t) for t in re.findall(r'^iter +(\d+): .*loss train', self.said(), re.M)}


def rank_of_two(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells the first or the second of two processes."""
    return dict(RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# Comparing runs.

def tensors(value: object, name: str = '') -> dict[str, bytes]:
    """{place: bytes} of every tensor in nested dicts."""
    if isinstance(value, torch.Tensor):
        return {name: value.contiguous().numpy().tobytes()}
    items = value.items() if isinstance(value, dict) else ()
    return {place: found for key, inner in items for place, found in tensors(inner, f'{name}/{key}').items()}


def pieces(folder: Path) -> dict[str, bytes]:
    """{place: bytes} of everything that has to agree: results.csv, answers.npz, and all numbers in the
    checkpoints (not the folder's name)."""
    found = {}
    for path, content in contents(folder).items():
        if path.endswith('.pt'):
            checkpoint = torch.load(Path(folder) / path, weights_only=True)
            found |= {path + place: value for place, value in tensors(checkpoint).items()}
            scores = [checkpoint[key] for key in ('iter_num', 'best_val_loss', 'best')]
            found[path + ' scores'] = repr(scores).encode()
        elif not path.endswith(('run.json', '.lock')):    # run.json has times; locks are empty
            found[path] = content or b''
    return found


def difference(one: Path, other: Path) -> int:
    """How many bytes differ between two runs; all bytes of a file that only one run has count."""
    a, b = pieces(one), pieces(other)
    both = [(a.get(place, b''), b.get(place, b'')) for place in a.keys() & b.keys()]
    missing = [{**a, **b}[place] for place in a.keys() ^ b.keys()]
    return (sum(abs(len(x) - len(y)) + sum(map(int.__ne__, x, y)) for x, y in both)
            + sum(len(content) + 1 for content in missing))


# The chaos.

class Actor:
    """One or two processes that train some seeds, and what will happen to them.

    kind: 'single', 'joint', 'pair' (two processes, as torchrun starts them) or 'sweep'. fate: (name, seconds
    from the start).
    """

    def __init__(self, kind: str, seeds: range, processes: list[Training], fate: tuple[str, float]) -> None:
        self.kind, self.seeds, self.processes, self.fate = kind, seeds, processes, fate
        self.began, self.stopped, self.left_alone = time.monotonic(), False, None

    def ended(self) -> bool:
        return all([process.ended() is not None for process in self.processes])

    def statuses(self) -> list[int | None]:
        return [process.status for process in self.processes]

    def signal(self, number: int) -> None:
        for process in self.processes:
            process.kill(number)

    def act(self, draw: random.Random) -> None:
        """Do to the processes what is due by now."""
        name, at = self.fate
        age = time.monotonic() - self.began
        if name == 'stop' and not self.stopped and age > at:
            self.signal(signal.SIGSTOP)
            self.stopped = True
        elif name == 'stop' and self.stopped and age > at + 1:
            self.signal(signal.SIGCONT)
            self.fate = ('alone', 0)
        elif name in ('kill', 'int', 'term', 'twice') and age > at:
            number = {'kill': signal.SIGKILL, 'term': signal.SIGTERM}.get(name, signal.SIGINT)
            draw.choice(self.processes).kill(number) if name == 'kill' else self.signal(number)
            self.fate = ('int', age + draw.uniform(0, 0.2)) if name == 'twice' else ('alone', 0)
        if self.fate[0] in ('alone', 'within') and self.left_alone is None:
            self.left_alone = time.monotonic()
        # torchrun ends the others when one of its processes fails.
        if self.kind == 'pair' and any(status not in (None, 0) for status in self.statuses()):
            if self.fate[0] != 'over':
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGTERM)
                self.fate, self.left_alone = ('over', 0), time.monotonic()

    def hangs(self) -> bool:
        return self.left_alone is not None and time.monotonic() - self.left_alone > PATIENCE


class Chaos:
    """Rounds on the seeds of one run in `root`, compared with an undisturbed run. Counts what happens."""

    kinds = ('single', 'joint', 'joint', 'pair')

    def __init__(self, root: Path, data: Path, draw: random.Random, kinds: tuple[str, ...] = kinds,
                 **settings: object) -> None:
        self.root, self.draw, self.kinds = Path(root), draw, kinds
        self.settings = SETTINGS | dict(dataset=data) | settings
        self.run = self.root / 'sweeps' / 'chaos' / 'train_math_mini_14'
        self.dataset = Dataset(str(data), Config().block_size)
        self.count, self.faults = Counter(), []
        self.rows, self.logs, self.processes = {seed: [] for seed in SEEDS}, 0, []
        self.write_sweep()
        whole = self.root / 'whole'
        self.seconds = self.left_alone(whole)
        self.expected = {seed: pieces(folder_of_seed(whole, seed)) for seed in SEEDS}
        self.whole = whole

    def write_sweep(self) -> None:
        """Write the sweep file whose only run is the run that all processes work on."""
        shared = {**self.settings, 'seed': SEEDS[0], 'num_seeds': len(SEEDS)}
        lines = [f'{name} = {value!r}' for name, value in shared.items() if name != 'dataset']
        self.sweep = self.root / 'sweep_chaos.py'
        self.sweep.write_text('\n'.join(["base = 'config/train_math_mini_14.py'", *lines, '']))
        shutil.copytree(self.settings['dataset'], self.root / 'sweeps' / 'chaos' / 'data' / 'as_math')

    def left_alone(self, folder: Path) -> float:
        """Train the undisturbed run to compare with. -> its seconds"""
        begin = time.monotonic()
        training = self.training(folder, SEEDS, {})
        assert training.wait() == 0, training.said()
        return time.monotonic() - begin

    def place(self, folder: Path, seeds: range) -> dict:
        """The settings of a training of some seeds: resume what exists, else start from scratch."""
        out_dir = folder_of_seed(folder, seeds[0]) if len(seeds) == 1 else folder
        begun = any((folder_of_seed(folder, seed) / name).exists()
                    for seed in seeds for name in (LATEST, COMMIT))
        return self.settings | dict(out_dir=out_dir, seed=seeds[0], num_seeds=len(seeds),
                                    init_from='resume' if begun else 'scratch')

    def training(self, folder: Path, seeds: range, environment: dict, moment: int | None = None,
                 fresh: bool = False) -> Training:
        def prepare() -> None:
            os.environ.update(environment)
            if moment is not None:
                Moments(folder, moment)
        return self.process(self.place(folder, seeds), prepare, fresh)

    def process(self, *args: object, **kwargs: object) -> Training:
        self.logs += 1
        self.processes.append(Training(self.root / f'{self.logs}.log', *args, **kwargs))
        return self.processes[-1]

    def actor(self, kinds: tuple[str, ...]) -> Actor:
        """Start one or two processes on some of the seeds."""
        draw, kind = self.draw, self.draw.choice(kinds)
        first = draw.randrange(len(SEEDS))
        seeds = SEEDS[first:first + 1] if kind == 'single' else SEEDS[:4] if kind == 'sweep' else draw.choice(
            [SEEDS, SEEDS[:2], SEEDS[1:3], SEEDS[2:], SEEDS[1:]])
        fate = draw.choice(4 * ['within'] + 2 * ['kill'] + ['stop', 'int', 'term', 'twice'])
        at = draw.uniform(0, self.seconds)
        moment = draw.randint(1, draw.choice([40, 200, 1000])) if fate == 'within' else None
        self.count[f'{kind} started'] += 1
        if kind == 'sweep':
            fate, at = ('alone' if fate == 'within' else fate), draw.uniform(0, 15)
            args = (self.sweep, f'--sweeps_dir={self.root / "sweeps"}', f'--replicas={draw.randint(1, 4)}')
            processes = [self.process({}, fresh=True, script='sweep.py', args=args)]
        elif kind == 'pair':
            port, doomed = free_port(), draw.randrange(2)
            processes = [self.training(self.run, seeds, rank_of_two(rank, port),
                                       moment if rank == doomed else None) for rank in range(2)]
        else:
            processes = [self.training(self.run, seeds, {}, moment, fresh=draw.random() < 0.03)]
        return Actor(kind, seeds, processes, (fate, at))

    def round(self) -> None:
        """Several actors at once, or one that is held still while another asks for the same seeds."""
        self.count['rounds'] += 1
        if self.draw.random() < 0.3:
            actors = self.held_still()
        else:
            actors = []
            for _ in range(self.draw.randint(1, 4)):
                actors.append(self.actor(self.kinds))
                pause = time.monotonic() + self.draw.choice([0, 0, self.draw.uniform(0, self.seconds)])
                while time.monotonic() < pause:
                    self.watch(actors)
        while not all([actor.ended() for actor in actors]):
            self.watch(actors)
        self.judge(actors)

    def watch(self, actors: list[Actor]) -> None:
        for actor in actors:
            if not actor.ended():
                actor.act(self.draw)
                if actor.hangs():
                    self.count['hangs'] += 1
                    self.fault(actor, f'hangs: {actor.statuses()}')
                    actor.signal(signal.SIGKILL)
        time.sleep(0.005)

    def held_still(self) -> list[Actor]:
        """A training that asks for seeds that a stopped process holds is refused at once and changes
        nothing."""
        holder = self.actor(tuple(kind for kind in self.kinds if kind != 'sweep'))
        holder.fate = ('held', 0)
        begin = time.monotonic()
        while not holder.ended() and 'from iteration' not in holder.processes[0].said():
            time.sleep(0.002)
            if time.monotonic() - begin > 20:
                break
        time.sleep(self.draw.uniform(0, self.seconds / 2))
        holder.signal(signal.SIGSTOP)
        time.sleep(0.01)
        before = contents(self.run)
        other = self.actor(tuple(kind for kind in self.kinds if kind in ('single', 'joint')))
        other.fate, other.left_alone = ('alone', 0), time.monotonic()
        while not other.ended():
            self.watch([other])
        if other.statuses()[0] in (2, Busy.status):
            self.count['refused by one held still'] += 1
            after = contents(self.run)
            if after != before:
                changed = {path for path in before.keys() | after.keys()
                           if before.get(path, 0) != after.get(path, 0)}
                self.fault(other, f'was refused, and changed {sorted(changed)}')
        if self.draw.random() < 0.4:
            holder.signal(signal.SIGKILL)
        holder.signal(signal.SIGCONT)
        holder.fate = ('alone', 0)
        return [holder, other]

    def judge(self, actors: list[Actor]) -> None:
        """All processes have ended: check how, and what they left."""
        for actor in actors:
            for process in actor.processes:
                self.count['kills'] += process.status == -signal.SIGKILL
                self.count['interruptions'] += process.status in STOPPED | {-signal.SIGINT, -signal.SIGTERM}
                self.count['refusals'] += process.status == Busy.status
                known = {0, Busy.status} | STOPPED | KILLED
                # It found no run yet, or the other process of the pair was refused.
                fair = process.status == 2 and ('another' in process.said() or 'no run in' in process.said())
                if process.status not in known and not (fair or actor.kind == 'sweep'):
                    self.fault(actor, f'ended with {process.status}')
                if 'Traceback' in process.said() and 'KeyboardInterrupt' not in process.said():
                    self.fault(actor, 'shows a traceback')
        self.look_at_folders(actors)

    def look_at_folders(self, actors: list[Actor]) -> None:
        """Does every folder load, with every evaluation that it ever had or that a process printed?"""
        for seed in SEEDS:
            settings = self.place(self.run, SEEDS[seed - 1:seed])
            texts = {name: str(settings[name]) for name in ('compile', 'dataset', 'out_dir')}
            config = Config(**settings | texts)
            try:
                (one,), = RunFolder(config, self.dataset).peek()
            except (UserError, OSError) as error:
                self.fault(None, f'seed {seed} does not load: {error}')
                continue
            rows = one.csv.splitlines()[1:]
            gone = [row for row in self.rows[seed] if row not in rows]
            there = {int(row.split(',')[0]) for row in rows}
            told = {t for actor in actors for rank, process in enumerate(actor.processes)
                    if seed in actor.seeds[rank::len(actor.processes)] for t in process.told()}
            if gone or told - there:
                self.count['lost evaluations'] += len(gone) + len(told - there)
                self.fault(None, f'seed {seed} lost {gone} and {sorted(told - there)}')
            self.rows[seed] = rows

    def left(self) -> bool:
        """Is anything left to train?"""
        last = self.settings['max_iters']
        return any(not rows or int(rows[-1].split(',')[0]) < last for rows in self.rows.values())

    def finish(self) -> None:
        """Train the run to its end, compare it, and delete it for a new one."""
        actor = Actor('joint', SEEDS, [self.training(self.run, SEEDS, {})], ('alone', 0))
        while not actor.ended():
            self.watch([actor])
        self.judge([actor])
        if actor.statuses() != [0]:
            self.fault(actor, f'the end: {actor.statuses()}')
        for seed in SEEDS:
            differ = difference(folder_of_seed(self.whole, seed), folder_of_seed(self.run, seed))
            if differ or '"finished": true' not in (folder_of_seed(self.run, seed) / 'run.json').read_text():
                self.count['differing bytes'] += max(1, differ)
                self.fault(None, f'seed {seed}: {differ} bytes differ from a run that nobody disturbed')
        self.count['runs'] += 1
        shutil.rmtree(self.run)
        self.rows = {seed: [] for seed in SEEDS}
        if not self.faults:
            for process in self.processes:
                process.log.unlink()
            self.processes = []

    def fault(self, actor: Actor | None, text: str) -> None:
        who = f'{actor.kind} of {list(actor.seeds)}: ' if actor else ''
        self.faults.append(f'round {self.count["rounds"]}: {who}{text}')
        said = [process.said()[-3000:] for process in actor.processes] if actor else []
        print(self.faults[-1], *said, sep='\n', flush=True)

    def figures(self) -> dict[str, int]:
        names = ('rounds', 'runs', 'kills', 'interruptions', 'refusals', 'refused by one held still', 'hangs',
                 'differing bytes', 'lost evaluations',
                 *(f'{kind} started' for kind in sorted(set(self.kinds))))
        return {name: self.count[name] for name in names} | {'faults': len(self.faults)}

    def report(self) -> str:
        return ', '.join(f'{name} {number}' for name, number in self.figures().items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--seed', type=int, default=0, help='of the rounds')
    parser.add_argument('--out', help='writes the figures to OUT.json and OUT.txt')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        torch.set_num_threads(1)
        assert run_script('data/as_math/prepare.py', max_operand=4, heldout='1,3',
                          out_dir=f'{root}/data') == 0
        kinds = ('single', 'joint') * 6 + ('pair',) * 4 + ('sweep',)
        chaos = Chaos(Path(root), Path(root) / 'data', random.Random(args.seed), kinds, max_iters=40)
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end:
            while chaos.left() and time.monotonic() < end:
                chaos.round()
            chaos.finish()
            print(chaos.report(), flush=True)
    if args.out:
        command = f'python tests/chaos.py --minutes {args.minutes:g} --seed {args.seed}'
        about = {**provenance(torch.device('cpu')), 'command': command, **chaos.figures()}
        Path(f'{args.out}.json').write_text(json.dumps(about, indent=1) + '\n')
        Path(f'{args.out}.txt').write_text(f'{command}    ({about["hardware"]}; torch {torch.__version__})\n'
                                           f'{chaos.report()}\n')
    sys.exit(1 if chaos.faults else 0)


if __name__ == '__main__':
    main()
