"""
Kill trainings, let them go on, and compare what they leave with what a run leaves that nobody killed.

    python tests/crash_torture.py --kills 100
    python tests/crash_torture.py --kills 100 --num_seeds 3

Every second kill is a SIGKILL from outside, at a random moment of a process of its own. The others come from within, at
one of the moments between which a writer's files change: before a file is opened, renamed or deleted, and before it is
flushed, whole or cut in half, as a power cut leaves it. A killed run is resumed, and killed again, until it ends.
Prints kills, resumes, bytes that differ and evaluations lost; the exit status is 1 where either of the last two is not 0.
Takes about two seconds a kill.
"""
import argparse
import os
import random
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo    # as every training does in the end: children need not do it again

from conftest import HERE, TINY, contents, options, run_script

SCRIPT = 'train_with_eval.py'
# Eleven evaluations, among them several that are the best so far, in about a second.
SETTINGS = dict(TINY, max_iters=20, eval_interval=2, n_embd=16, batch_size=64, learning_rate=0.03, min_lr=0.003)


# Dying within.

class Moments:
    """Counts the moments between which files below `folder` change, and dies at the `last` of them."""

    def __init__(self, folder, last):
        self.folder, self.last, self.count = str(Path(folder).resolve()), last, 0
        self.fsync, os.fsync = os.fsync, self.flush
        sync, os.sync = os.sync, lambda: (self.moment(), sync())
        sys.addaudithook(self.look)

    def look(self, event, args):
        writes = event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ('os.rename', 'os.remove', 'os.mkdir'):
            if isinstance(args[0], (str, os.PathLike)) and os.path.abspath(args[0]).startswith(self.folder):
                self.moment()

    def flush(self, descriptor):
        """In place of os.fsync: before it, half of the file may be all that is there."""
        about = os.fstat(descriptor)
        if stat.S_ISREG(about.st_mode):    # folders are flushed too
            self.moment(lambda: os.ftruncate(descriptor, about.st_size // 2))
        self.moment()
        self.fsync(descriptor)

    def moment(self, first=lambda: None):
        self.count += 1
        if self.count == self.last:
            first()
            os.kill(os.getpid(), signal.SIGKILL)


def forked(log, prepare, settings):
    """A training in a child of this process, which has torch already: a tenth of the time of a new one. prepare: called in
    the child before. -> process id"""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, name in ((1, 'stdout'), (2, 'stderr')):
            os.dup2(descriptor, number)
            setattr(sys, name, open(number, 'w', buffering=1, closefd=False))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        status = run_script(SCRIPT, **settings)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class Training:
    """A training under way. fresh: an interpreter of its own; else a child of this process. All it prints is in `log`."""

    def __init__(self, log, settings, prepare=lambda: None, fresh=False):
        self.log, self.status = Path(log), None
        if fresh:
            with open(log, 'wb') as file:
                self.pid = subprocess.Popen([sys.executable, HERE / SCRIPT, *options(settings)], stdout=file,
                                            stderr=subprocess.STDOUT).pid
        else:
            self.log.write_text('')
            self.pid = forked(log, prepare, settings)

    def ended(self):
        """-> exit status, negative for a signal; None while it lives"""
        if self.status is None:
            child, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if child else None
        return self.status

    def wait(self, timeout=120):
        """-> exit status"""
        end = time.monotonic() + timeout
        while self.ended() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f'no end after {timeout} s: {self.said()}')
            time.sleep(0.005)
        return self.status

    def says(self, words, timeout=120):
        """Wait until it has printed these words, or ended."""
        end = time.monotonic() + timeout
        while words not in self.said() and self.ended() is None and time.monotonic() < end:
            time.sleep(0.005)
        return words in self.said()

    def said(self):
        return self.log.read_text(errors='replace')

    def kill(self, number=signal.SIGKILL):
        if self.ended() is None:
            os.kill(self.pid, number)

    def began_at(self):
        """The iteration that it went on from, or None where it did not come so far."""
        found = re.search(r'from iteration (\d+) to', self.said())
        return int(found.group(1)) if found else None


# What is on the disk.

def evaluations(folder):
    """The last iteration that every seed's results hold, a change that is complete beside its place included; -1: none."""
    last = []
    for latest in [*Path(folder).glob('results.csv*'), *Path(folder).glob('seed_*/results.csv*')]:
        complete = latest.suffix == '.csv' or any(Path(folder).glob('*commit.json'))
        lines = latest.read_text().splitlines()[1:] if complete else []
        last.append(int(lines[-1].split(',')[0]) if lines else -1)
    return max(last, default=-1)


def tensors(value, name=''):
    """{place: bytes} of every tensor in nested dicts."""
    if isinstance(value, torch.Tensor):
        return {name: value.contiguous().numpy().tobytes()}
    items = value.items() if isinstance(value, dict) else ()
    return {place: found for key, inner in items for place, found in tensors(inner, f'{name}/{key}').items()}


def pieces(folder):
    """{place: bytes} of what has to agree: results.csv, and all numbers in the checkpoints (not the folder's name)."""
    found = {}
    for path, content in contents(folder).items():
        if path.endswith('.pt'):
            checkpoint = torch.load(Path(folder) / path, weights_only=True)
            found |= {path + place: value for place, value in tensors(checkpoint).items()}
            found[path + ' scores'] = repr([checkpoint[key] for key in ('iter_num', 'best_val_loss', 'best')]).encode()
        elif not path.endswith(('run.json', '.lock')):    # times; and nothing at all
            found[path] = content or b''
    return found


def difference(one, other):
    """How many bytes differ between two runs; a file that only one of them has counts whole."""
    a, b = pieces(one), pieces(other)
    return sum(abs(len(a.get(place, b'')) - len(b.get(place, b''))) + (place not in a or place not in b)
               + sum(x != y for x, y in zip(a.get(place, b''), b.get(place, b''))) for place in a.keys() | b.keys())


# The torture.

class Torture:
    """Chains of kills and resumes in `root`, against one run that is left alone. Counts what happens."""

    def __init__(self, root, settings, draw):
        self.root, self.draw = Path(root), draw
        self.kills = self.within = self.resumes = self.runs = self.differ = self.lost = 0
        self.settings = settings
        self.moments, self.seconds = self.leave_alone()

    def leave_alone(self):
        """The run to compare with. -> (moments at which one can die, seconds from its first line to its end)"""
        count = self.root / 'moments'

        def prepare():
            moments = Moments(self.root / 'whole', None)
            end, os._exit = os._exit, lambda status: (count.write_text(str(moments.count)), end(status))
        training = Training(self.root / 'whole.log', self.settings | dict(out_dir=self.root / 'whole'), prepare)
        training.says('from iteration')
        begin = time.monotonic()
        assert training.wait() == 0, training.said()
        return int(count.read_text()), time.monotonic() - begin

    def start(self, folder, moment=None, fresh=False):
        """Begin, or go on where there is anything to go on with."""
        going_on = any(folder.rglob('ckpt.pt')) or any(folder.glob('*commit.json'))    # else there is nothing yet
        settings = self.settings | dict(out_dir=folder, init_from='resume' if going_on else 'scratch')
        self.resumes += going_on
        return Training(self.root / 'part.log', settings, lambda: moment and Moments(folder, moment), fresh)

    def killed_within(self, folder, moment):
        training = self.start(folder, moment)
        training.wait()
        return training

    def killed_from_outside(self, folder, fresh=True):
        training = self.start(folder, fresh=fresh)
        if self.draw.random() < 0.9:    # else while it starts, where locks are taken and leftovers cleaned up
            training.says('from iteration')
        time.sleep(self.draw.uniform(0, self.seconds))
        training.kill()
        training.wait()
        return training

    def chain(self, kills):
        """Kill one run and let it go on, up to `kills` times, each (moment within or None); then let it end."""
        folder = self.root / f'run {self.runs}'
        self.runs += 1
        for moment in kills:
            before = evaluations(folder)
            training = self.killed_within(folder, moment) if moment else self.killed_from_outside(folder)
            self.account(training, before)
            if training.status != -signal.SIGKILL:
                break
            self.kills, self.within = self.kills + 1, self.within + (moment is not None)
        else:
            before = evaluations(folder)
            training = self.start(folder)
            training.wait()
            self.account(training, before)
        self.compare(folder, training)

    def account(self, training, before):
        """Count the evaluations that were on the disk `before` and behind the iteration that it goes on from."""
        began = training.began_at()
        if before >= 0 and began is not None and began < before:
            self.lost += (before - began) // self.settings['eval_interval']
            print(f'an evaluation at {before} was on the disk, but it went on from {began}')

    def compare(self, folder, training):
        differ = difference(self.root / 'whole', folder)
        about = [path.read_text() for path in folder.rglob('run.json')]
        marked = len(about) == self.settings.get('num_seeds', 1) and all('"finished": true' in text for text in about)
        if training.status != 0 or not marked or differ:
            self.differ += max(1, differ)
            print(f'{folder}: status {training.status}, {differ} bytes differ, finished: {marked}\n{training.said()}')

    def report(self):
        return (f'kills {self.kills} ({self.within} between the writing of files, {self.kills - self.within} at random '
                f'moments), resumes {self.resumes}, runs {self.runs}, bytes that differ {self.differ}, evaluations lost '
                f'{self.lost}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--num_seeds', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        torch.set_num_threads(1)
        assert run_script('data/as_math/prepare.py', max_operand=4, heldout='1,3', out_dir=f'{root}/data') == 0
        draw = random.Random(args.seed)
        torture = Torture(root, SETTINGS | dict(dataset=f'{root}/data', num_seeds=args.num_seeds), draw)
        print(f'{torture.moments} moments in a run at which files change', flush=True)
        while torture.kills < args.kills:
            # The outer ones are random, the inner ones go through all moments of a run evenly.
            inside = [1 + (torture.within * 37 + i * 61) % torture.moments for i in range(2)]
            torture.chain([inside[0], None, inside[1], None][:args.kills - torture.kills])
            print(torture.report(), flush=True)
    sys.exit(1 if torture.differ or torture.lost else 0)


if __name__ == '__main__':
    main()
