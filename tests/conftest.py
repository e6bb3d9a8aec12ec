"""What the tests share: prepared datasets, a small trained run, and functions that run scripts in this
process or in a new one."""
import atexit
import gc
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'    # before torch is loaded; processes started here inherit it
if 'PYTEST_XDIST_WORKER' not in os.environ:    # one cache for all processes, not the user's
    os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='tbtt_cache_')
    atexit.register(shutil.rmtree, os.environ['XDG_CACHE_HOME'], ignore_errors=True)

import filelock
import hypothesis
import pytest
import torch

from tbtt.config import Config
from tbtt.dataset import Codec, Dataset, read_meta
from tbtt.engine import Engine
from tbtt.replicas import Replicas

torch.set_num_threads(1)
# In the background, a shell makes the tests and all processes that they start ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile('tests', deadline=None)    # a test may be slow on a busy machine
hypothesis.settings.load_profile('tests')

HERE = Path(__file__).resolve().parents[1]
DATASETS = {'as_math': 'math', 'facts_char': 'facts', 'both_math_and_facts': 'both',
            'facts_skewed': 'facts_skewed', 'both_skewed': 'both_skewed'}
# A run of three evaluations in a second.
TINY = dict(device='cpu', compile=False, max_iters=20, eval_interval=10, log_interval=10, batch_size=16,
            warmup_iters=2, lr_decay_iters=20)
# A run that learns most of a small grid in five seconds, in a shape that nanoGPT supports.
LEARNS = dict(TINY, max_iters=300, eval_interval=50, batch_size=128, block_size=8, n_embd=48, n_head=4,
              mlp_expansion=4, min_lr=1e-3, warmup_iters=20, lr_decay_iters=300)


# The project's folders, for a download without .git. Other folders are the user's and are not searched.
FOLDERS = ('analysis', 'config', 'data', 'docs', 'reference', 'results', 'runs', 'tbtt', 'tests')
SUFFIXES = ('.py', '.md', '.txt', '.toml', '.cff', '')


def project_files(root: Path = HERE) -> list[Path]:
    """The files of the project, relative to `root`: the files that git tracks or, in a download without .git,
    the files in the project's folders that are not in .gitignore. What a user trained, prepared or swept in
    the same place is left out."""
    if (root / '.git').exists() and shutil.which('git'):
        done = subprocess.run(['git', '-C', root, 'ls-files', '-z'], capture_output=True, text=True)
        if done.returncode == 0:
            return [Path(name) for name in done.stdout.split('\0') if name and (root / name).is_file()]
    ignored = [line.rstrip('/') for line in (root / '.gitignore').read_text().splitlines()]
    top = [path for path in root.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    below = [path for name in FOLDERS for path in (root / name).rglob('*') if path.is_file()]
    found = [path.relative_to(root) for path in sorted([*top, *below])]
    return [path for path in found
            if not any((Path('/') / part).match(pattern) for part in (path, *path.parents)
                       for pattern in ignored)]


def copy_project(target: Path, leave_out: tuple[str, ...] = (), root: Path = HERE) -> Path:
    """The project's files without those in the folders `leave_out`. -> target"""
    for path in project_files(root):
        if path.parts[0] not in leave_out:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, target / path)
    return target


FORKING = ('test_crash.py', 'test_distributed.py', 'test_properties.py', 'test_sweep.py',
           'test_capacity_bits.py', 'test_controls.py', 'test_sweep_plan.py', 'test_sweep_state.py')
# The first test waits half a minute. The others compile, and share the import of torch's compiler.
LONGEST = ('test_a_ray_cluster_loses_a_node_and_nothing_else',
           'test_a_compiled_step_gives_the_losses_of_an_eager_one',
           'test_every_mode_gives_the_losses_of_every_other_over_200_steps',
           'test_the_compiled_gradient_of_many_tokens_has_the_same_bits_every_time',
           'test_the_plain_loop_takes_the_same_steps')


@pytest.hookimpl(tryfirst=True)    # before slow tests are left out
def pytest_collection_modifyitems(items):
    """Tests that fork run first: once other tests have started threads in a process, a fork may deadlock.
    The longest tests come where the share of the second process of --dist worksteal begins, so that none is
    left to the end."""
    items.sort(key=lambda item: item.path.name not in FORKING)
    longest = sorted((item for item in items if item.name in LONGEST),
                     key=lambda item: LONGEST.index(item.name))
    others = [item for item in items if item.name not in LONGEST]
    at = max(sum(item.path.name in FORKING for item in others),
             len(items) // int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1)))
    items[:] = others[:at] + longest + others[at:]
    found = set()
    for item in items:
        test = item.path, getattr(item, 'originalname', None)
        if test in found and item.get_closest_marker('slow_after_first'):
            item.add_marker('slow')
        found.add(test)


def pytest_collection_finish():
    """Everything imported by now stays alive: the garbage collector need not look at it again, nor touch it
    in forked processes."""
    gc.collect()
    gc.freeze()


class Result(NamedTuple):
    status: int
    out: str
    err: str


def options(settings):
    return [f'--{name}={value}' for name, value in settings.items()]


def run_script(script, *args, root=HERE, **settings):
    """Run a script in this process, as python would. -> exit status"""
    argv, path = sys.argv, list(sys.path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = [str(script), *options(settings), *map(str, args)]
    try:
        runpy.run_path(str(root / script), run_name='__main__')
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv, sys.path[:] = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def start(script, *args, cwd, root=HERE, **settings):
    """Start a script in a new process. -> Popen"""
    return subprocess.Popen([sys.executable, root / script, *options(settings), *map(str, args)], cwd=cwd,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def shell(script, *args, cwd, root=HERE, **settings):
    """Run a script in a new process to its end. -> Result"""
    process = start(script, *args, cwd=cwd, root=root, **settings)
    out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)


def contents(folder):
    """{path: bytes, or None for a folder} of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(Path(folder).rglob('*'))}


def load(path):
    return torch.load(path, weights_only=True)


def equal_weights(one, other):
    """Are two state dicts equal bit for bit?"""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def tiny_config(**settings):
    return Config(**{'device': 'cpu', 'compile': 'False', 'batch_size': 16, 'warmup_iters': 2,
                     'lr_decay_iters': 50, **settings}).check()


def new_engine(data, vocab_size, config, dtype=torch.float32, newline=None):
    """An engine on the CPU, ready to train the seeds of `config`."""
    seeds = list(range(config.seed, config.seed + config.num_seeds))
    replicas = Replicas.from_seeds(config.model_args(vocab_size), seeds)
    engine = Engine(replicas, data, seeds, config, torch.device('cpu'), dtype, newline=newline)
    engine.prepare()
    return engine


def train(engine, first, last):
    """-> (iterations, R) losses"""
    return torch.cat([losses.clone() for _, losses in engine.run(first, last)])


def checkpoints(engine):
    """{path: checkpoint} of all replicas, with what an engine needs."""
    snapshot, args = engine.snapshot(), vars(engine.replicas.template.config)
    return {f'seed {r}': {**snapshot(r), 'model_args': args} for r in range(len(engine.seeds))}


def weights(engine, r=0):
    """One replica's state dict."""
    return engine.snapshot()(r)['model']


def shared(factory, name, make):
    """A folder filled by make(folder): the first test process that asks for it makes it, while the others
    wait. factory: pytest's tmp_path_factory. -> a copy of the folder for this process"""
    root = factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        root = root.parent    # the folder that all processes share
    folder, made = root / 'shared' / name, root / f'shared {name} is made'
    with filelock.FileLock(root / f'shared {name}.lock'):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)    # left by an attempt that failed
            make(folder)
            made.touch()
    return shutil.copytree(folder, factory.mktemp(name) / name)


@pytest.fixture
def command(capsys):
    """command(script, *args, **settings) -> Result of the script, run in this process."""
    def run(script, *args, root=HERE, **settings):
        capsys.readouterr()
        status = run_script(script, *args, root=root, **settings)
        return Result(status, *capsys.readouterr())
    return run


@pytest.fixture(scope='session')
def datasets(tmp_path_factory):
    """{name: folder} of all datasets, prepared with the default options."""
    root = tmp_path_factory.mktemp('datasets')
    for name in DATASETS:
        assert run_script(f'data/{name}/prepare.py', out_dir=root / name) == 0
    return {name: root / name for name in DATASETS}


@pytest.fixture(scope='session')
def math_data(datasets):
    return Dataset(datasets['as_math'], 9)


@pytest.fixture(scope='session')
def facts_data(datasets):
    return Dataset(datasets['facts_char'], 24)


@pytest.fixture(scope='session')
def both_codec(datasets):
    """The codec with the characters of both tasks."""
    meta = read_meta(datasets['both_math_and_facts'] / 'meta.pkl')
    return Codec(meta['stoi'], meta['itos'])


@pytest.fixture(scope='session')
def small_math(tmp_path_factory):
    """The folder of an arithmetic dataset that is learned quickly: operands to 4, one pair held out."""
    folder = tmp_path_factory.mktemp('small') / 'small_math'
    assert run_script('data/as_math/prepare.py', max_operand=4, heldout='1,3', out_dir=folder) == 0
    return folder


@pytest.fixture(scope='session')
def learned(small_math, tmp_path_factory):
    """The folder of a run that has learned most of `small_math`."""
    def make(folder):
        assert run_script('train_with_eval.py', dataset=small_math, out_dir=folder, **LEARNS) == 0
    return shared(tmp_path_factory, 'learned', make)


@pytest.fixture
def copy_of_learned(learned, tmp_path):
    """A copy of the folder `learned` that a test may change."""
    return shutil.copytree(learned, tmp_path / 'run')
