"""
Measure the speed of a step, an evaluation, a whole run and many seeds at once, each beside a slow twin that
does the same work the obvious way (nanoGPT's loop: a Python slice for each row, eager, one prompt per call,
the host between the steps).

    python bench.py                          (all but trace, a quarter of an hour on two CPU cores)
    python bench.py --only step,evaluation --sizes n14 --tasks math
    python bench.py --json > bench.json      (one line with hardware, versions, commit, medians and spread)
    python bench.py --only text              (a vocabulary of 50,257 beside nanoGPT's way, compiled)
    python bench.py --only trace             (minutes: traces of our datasets, and a large corpus)

Everything is warmed up and, on a GPU, synchronised; ours and its twin take turns. --full also trains the
chosen tasks and sizes, except the MLT, to their end and times that. Data are prepared in a temporary folder;
nothing else is written.
"""
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
import torch

from tbtt import baseline, figures
from tbtt.batches import texts
from tbtt.config import ROOT, Config, load_config
from tbtt.trace.corpus import Corpus
from tbtt.dataset import Dataset
from tbtt.device import autocast, choose_device, choose_dtype
from tbtt.engine import Engine
from tbtt.evaluate import NUM_SAMPLES, TEMPERATURE, TOP_K, Evaluator
from tbtt.trace.memorization import overlap
from tbtt.paper import EXPERIMENTS, MODELS, tasks_of
from tbtt.prepare import write_dataset
from tbtt.replicas import Replicas
from tbtt.text import write_text
from tbtt.provenance import provenance

SECTIONS = ('step', 'evaluation', 'replicas', 'run', 'text', 'trace')
DEFAULT = SECTIONS[:-1]
# Dense bfloat16 operations per second, from NVIDIA's datasheets.
DATASHEET = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12}
Row = dict[str, Any]                            # what was timed, with its times
Timed = tuple[Callable[[], object], int]        # a function, and how many steps or evaluations a call does


class Setup:
    """One of the paper's runs with R seeds, ready for steps and evaluations, and its slow twin with the
    weights of the first seed."""

    def __init__(self, task: str, size: str, folder: Path, device: torch.device, num_seeds: int = 1,
                 compile: str = 'auto') -> None:
        self.build(device, load_config([f'config/train_{task}_{MODELS[size]}.py'], {
            'dataset': str(folder / task), 'device': str(device), 'num_seeds': num_seeds, 'compile': compile,
            # On a CPU the large model takes four times as long in float32.
            'dtype': 'bfloat16' if size == 'MLT' and device.type == 'cpu' else 'auto'}))

    def build(self, device: torch.device, config: Config) -> None:
        """Build model, step and evaluation for these settings, and the twin."""
        self.config, num_seeds = config, config.num_seeds
        self.device, self.dtype = device, choose_dtype(config.dtype, device)
        self.dataset = Dataset(config.dataset, config.block_size)
        args = config.model_args(self.dataset.meta['vocab_size'])
        seeds = list(range(config.seed, config.seed + num_seeds))
        self.replicas = Replicas.from_seeds(args, seeds, device)
        self.slow_model = baseline.NanoGPT(**args).to(device)
        self.slow_model.load_state_dict(self.replicas.state_dict(self.replicas.flat[0]))
        self.slow_optimizer = self.slow_model.optimizer(config)
        self.engine = Engine(self.replicas, self.dataset.train, seeds, config, device, self.dtype)
        self.evaluation = Evaluator.of_run(self.engine.forward, self.dataset, config, self.engine.seeds)

    def steps(self, count: int) -> torch.Tensor:
        """Do `count` of our steps. -> losses (steps, R) of the last launch"""
        for _, losses in self.engine.run(0, count):
            pass
        return losses

    def plain_loop(self) -> baseline.PlainLoop:
        """The same model and step without the axis of replicas."""
        weights = {name: value[0].clone() for name, value in self.replicas.named(self.replicas.flat).items()}
        return baseline.PlainLoop(self.replicas.template, weights, self.config)

    def plain_steps(self, plain: baseline.PlainLoop, count: int) -> torch.Tensor:
        """Do `count` steps of a plain loop on the same batches. -> its last loss"""
        starts, rates = self.engine.stretch(0, count)
        for batch, rate in zip(starts[:, 0, 0].unbind(0), rates.unbind(0)):
            loss = plain(texts(self.engine.data, batch, self.config.block_size + 1), rate)
        return loss

    def slow_steps(self, count: int) -> float:
        """Do the same steps with the slow twin. -> its last loss"""
        self.slow_model.train()
        starts, rates = self.engine.stretch(0, count)
        for batch, rate in zip(starts[:, 0, 0].tolist(), rates.tolist()):
            loss = baseline.slow_step(self.slow_model, self.slow_optimizer, self.dataset.train, batch, rate,
                                      self.config, self.dtype)
        return loss

    def evaluate(self) -> list[dict]:
        """Do one of our evaluations, losses included. -> rows of results"""
        with self.engine.measuring():
            return self.evaluation(0).rows

    def slow_evaluate(self) -> tuple[dict[str, list[int]], float]:
        """Do the same evaluation with the slow twin. Its losses are estimated from `eval_iters` batches of
        each split, as in nanoGPT. -> ({task: right answers by prompt}, loss)"""
        with autocast(self.device, self.dtype):
            return self.slow_answers_and_loss()

    def slow_answers_and_loss(self) -> tuple[dict[str, list[int]], float]:
        """As `slow_evaluate`, in the dtype that the caller set."""
        right = {name: baseline.slow_score(self.slow_model, task, self.dataset.codec, NUM_SAMPLES,
                                           TEMPERATURE, TOP_K)
                 for name, task in self.dataset.tasks.items()}
        for data in (self.dataset.train, self.dataset.val):
            batches = torch.randint(len(data) - self.config.block_size,
                                    (self.config.eval_iters, self.config.batch_size))
            loss = baseline.slow_losses(self.slow_model, data, batches)
        return right, loss


class TextSetup(Setup):
    """As `Setup`, for the model of config/train_text.py on random tokens from GPT-2's vocabulary. Its twin is
    compiled, as nanoGPT's model is."""

    def __init__(self, folder: Path, device: torch.device, vocab_size: int = 50257, **settings: Any) -> None:
        ids = np.random.default_rng(1337).integers(vocab_size, size=100_000)
        write_text(folder / 'text', {'vocab_size': vocab_size, 'tokenizer': ''},
                   {'train': [ids], 'val': [ids[:1000]]})
        self.build(device, load_config(['config/train_text.py'], {
            'dataset': str(folder / 'text'), 'device': str(device), **settings}))
        self.slow_model.loss = torch.compile(self.slow_model.loss, dynamic=False,
                                             disable=self.config.compile == 'False')


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished; on a CPU there is nothing to wait for."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], count: int, device: torch.device) -> float:
    """Wall time of one call, divided by `count`."""
    synchronise(device)
    begin = time.perf_counter()
    function()
    synchronise(device)
    return (time.perf_counter() - begin) / count


def in_turn(functions: Sequence[Timed], repeats: int, device: torch.device) -> list[dict[str, float]]:
    """Time several (function, count) in turn, `repeats` times. -> for each {'median', 'min', 'max'}, the
    milliseconds of a call divided by `count`"""
    for function, _ in functions:
        function()    # warm-up
    times = [[1e3 * seconds(function, count, device) for function, count in functions]
             for _ in range(repeats)]
    return [{'median': statistics.median(each), 'min': min(each), 'max': max(each)} for each in zip(*times)]


def step_operations(config: Config, vocab_size: int) -> int:
    """Floating-point operations of a step's matrix products: six per weight and token, and attention's."""
    tokens = config.batch_size * config.block_size * config.gradient_accumulation_steps
    C = config.n_embd
    weights = config.n_layer * (4 + 2 * config.mlp_expansion) * C * C + vocab_size * C
    return tokens * (6 * weights + 12 * config.n_layer * config.block_size * C)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, measured on this device."""
    n = 8192 if device.type == 'cuda' else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / (in_turn([(lambda: a @ b, 1)], 5, device)[0]['median'] / 1e3)


def bench_step(tasks: Sequence[str], sizes: Sequence[str], folder: Path,
               device: torch.device) -> Iterator[Row]:
    """A training step of one seed beside its twin; for the MLT also its share of the device's peak."""
    for task in tasks:
        for size in sizes:
            setup = Setup(task, size, folder, device)
            prepare = seconds(setup.engine.prepare, 1, device)
            large = size == 'MLT'
            count, slow_count = (50, 20) if device.type == 'cuda' or not large else (1, 1)
            # After the twin's steps the cache is cold for at least as long as 50 of the smallest fused steps.
            our_count = 400 if setup.engine.mode == 'fused' else count
            timed = {'ours_ms': (lambda: setup.steps(our_count), our_count),
                     'slow_ms': (lambda: setup.slow_steps(slow_count), slow_count)}
            if setup.engine.mode == 'fused':
                compiled = Setup(task, size, folder, device, compile='True')
                compiled.engine.prepare()
                timed['compiled_ms'] = (lambda: compiled.steps(count), count)
            times = in_turn(list(timed.values()), 3 if large else 5, device)
            row = {'what': f'step {size} {task}', **dict(zip(timed, times)), 'mode': setup.engine.mode,
                   'prepare_s': prepare}
            if large:
                operations = step_operations(setup.config, setup.dataset.meta['vocab_size'])
                rate = operations / (row['ours_ms']['median'] / 1e3)
                sheet = next((value for name, value in DATASHEET.items() if device.type == 'cuda'
                              and name in torch.cuda.get_device_name(device)), None)
                row |= {'tera_operations_per_s': rate / 1e12,
                        'share_of_measured_peak': rate / peak(device, setup.dtype),
                        'share_of_datasheet': sheet and rate / sheet}
            yield row


def bench_evaluation(tasks: Sequence[str], sizes: Sequence[str], folder: Path,
                     device: torch.device) -> Iterator[Row]:
    """An evaluation beside its twin, for the sizes at which the twin does not take too long."""
    for task in tasks:
        for size in sizes:
            if size in ('n14', 'n28'):
                setup = Setup(task, size, folder, device)
                setup.engine.prepare()    # the fused step has its own forward pass
                ours, obvious = in_turn([(setup.evaluate, 1), (setup.slow_evaluate, 1)], 3, device)
                yield {'what': f'evaluation {size} {task}', 'ours_ms': ours, 'slow_ms': obvious}


def bench_replicas(tasks: Sequence[str], sizes: Sequence[str], folder: Path,
                   device: torch.device) -> Iterator[Row]:
    """A step of 1 to 128 seeds at once, and what the replica axis costs for one seed; always n14 on math."""
    setup = Setup('math', 'n14', folder, device, compile='True')
    setup.engine.prepare()
    plain = setup.plain_loop()
    ours, without = in_turn([(lambda: setup.steps(200), 200),
                             (lambda: setup.plain_steps(plain, 200), 200)], 9, device)
    yield {'what': 'step n14 math, 1 seed, beside a plain loop', 'ours_ms': ours, 'slow_ms': without,
           'mode': setup.engine.mode}
    for num_seeds in (1, 8, 32, 128):
        setup = Setup('math', 'n14', folder, device, num_seeds)
        setup.engine.prepare()
        count = 100 if device.type == 'cuda' else max(1, 64 // num_seeds)
        ours, = in_turn([(lambda: setup.steps(count), count)], 5, device)
        yield {'what': f'step n14 math, {num_seeds} seeds', 'ours_ms': ours, 'mode': setup.engine.mode,
               'per_seed_ms': ours['median'] / num_seeds}


def bench_text(tasks: Sequence[str], sizes: Sequence[str], folder: Path,
               device: torch.device) -> Iterator[Row]:
    """A step with GPT-2's vocabulary beside its twin; always the model of config/train_text.py."""
    setup = TextSetup(folder, device)
    prepare = seconds(setup.engine.prepare, 1, device)
    ours, obvious = in_turn([(lambda: setup.steps(4), 4), (lambda: setup.slow_steps(4), 4)], 7, device)
    yield {'what': f'step of config/train_text.py, {setup.dataset.meta["vocab_size"]:,} tokens',
           'ours_ms': ours, 'slow_ms': obvious, 'mode': setup.engine.mode, 'prepare_s': prepare,
           'note': 'its twin is compiled too'}


def bench_run(rows: list[dict], what: str = 'n14 math') -> dict:
    """The time of a whole run, computed from its parts among the rows. Ours includes preparing the step."""
    parts = {row['what']: row for row in rows}
    step, evaluation = parts[f'step {what}'], parts[f'evaluation {what}']
    config = load_config(['config/train_math_mini_14.py'], {})
    steps, evaluations = config.max_iters, config.max_iters // config.eval_interval + 1
    whole = {key: {'median': steps * step[key]['median'] + evaluations * evaluation[key]['median']}
             for key in ('ours_ms', 'slow_ms')}
    whole['ours_ms']['median'] += 1e3 * step['prepare_s']
    return {'what': f'run {what}, {steps:,} steps and {evaluations} evaluations, from its parts', **whole}


def full_run(task: str, size: str, folder: Path, device: torch.device) -> dict:
    """Train to the end in a separate process."""
    command = [sys.executable, str(ROOT / 'train_with_eval.py'), f'config/train_{task}_{MODELS[size]}.py',
               f'--device={device}', f'--dataset={folder / task}',
               f'--out_dir={folder / "run" / task / size}']
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {'what': f'run {size} {task}, whole process',
            'ours_ms': {'median': 1e3 * (time.perf_counter() - begin)}}


def bench_trace(tasks: Sequence[str], sizes: Sequence[str], folder: Path,
                device: torch.device) -> Iterator[Row]:
    """The time of infini-gram on a large corpus, and of a trace of each dataset as a whole process."""
    yield from bench_corpus(folder)    # first: the memory of child processes is the maximum over all so far
    for task in tasks:
        args = [f'--dataset={folder / task}', f'--out_dir={folder / "traced" / task}', f'--device={device}']
        untrained = ['train_with_eval.py', f'config/train_{task}_{MODELS["n14"]}.py', '--max_iters=0',
                     '--compile=False']
        for command in (untrained, ['analysis/trace_memorization.py']):
            command[0] = str(ROOT / command[0])
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command, *args], check=True, stdout=subprocess.DEVNULL)
        yield {'what': f'trace n14 {task}, whole process',
               'ours_ms': {'median': 1e3 * (time.perf_counter() - begin)}}


class Ids:
    """The language of the random corpus: its ids stand for no text."""
    vocab_size = 50000

    def digest(self) -> str:
        """Always the same, because there is only one such language."""
        return 'ids'


def bench_corpus(folder: Path, num_tokens: int = 25_000_000, num_pairs: int = 10_000) -> Iterator[Row]:
    """Index and query a corpus of random tokens with Zipf's frequencies, in documents of 500 tokens."""
    rng = np.random.default_rng(1337)
    frequency = 1 / np.arange(1, Ids.vocab_size)
    ids = 1 + rng.choice(len(frequency), num_tokens, p=frequency / frequency.sum()).astype('<u2')
    ids[::500] = 0
    ids.tofile(folder / 'corpus.bin')
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    counter = Corpus([folder / 'corpus.bin'], Ids(), separator=0, engine='infini-gram').counter()
    passed, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = after.ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
    yield {'what': f'index {num_tokens / 1e6:g} million tokens', 'ours_ms': {'median': 1e3 * passed},
           'note': f'sorting takes {after.ru_utime - before.ru_utime:.0f} s of processor time '
                   f'and at most {memory:.0f} MB'}
    # Each pair is two bigrams of one document, rare or frequent as they are drawn.
    places = rng.integers(num_tokens // 500, size=(num_pairs, 1)) * 500 + rng.integers(1, 498, (num_pairs, 2))
    pairs = [[tuple(ids[place:place + 2].tolist()) for place in pair] for pair in places]
    times = []
    for pair in pairs:
        begin = time.perf_counter()
        assert overlap(*(counter.documents(gram) for gram in pair)) > 0
        times.append(1e3 * (time.perf_counter() - begin))
    yield {'what': f'documents with both of two bigrams, of {num_pairs:,} pairs',
           'ours_ms': {'median': statistics.median(times), 'min': min(times), 'max': max(times)},
           'note': f'{sum(times) / 1e3:.1f} s together'}


def peak_memory(device: torch.device) -> float:
    """Peak memory in megabytes: that of the process, or on a GPU that of its tensors."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)


def milliseconds(times: dict[str, float]) -> str:
    """`4.1 (3.9 to 4.3)`; whole milliseconds from 100 on."""
    median, *spread = (f'{times[key]:,.0f}' if times[key] >= 100 else f'{times[key]:.3g}'
                       for key in ('median', 'min', 'max') if key in times)
    return median + (f' ({" to ".join(spread)})' if spread else '')


def remark(row: Row) -> str:
    """The other values of a row, as text."""
    said = [row[key] for key in ('mode', 'path', 'note') if key in row]    # older files call it `path`
    if 'prepare_s' in row:
        said[0] += f' in {row["prepare_s"]:.0f} s'
    if 'per_seed_ms' in row:
        said.append(f'{row["per_seed_ms"]:.3g} ms a seed')
    if 'share_of_measured_peak' in row:
        said.append(f'{row["tera_operations_per_s"]:.3g} T operations/s, '
                    f'{100 * row["share_of_measured_peak"]:.0f}% of a large product')
    return ', '.join(said)


def show(row: Row) -> str:
    """A row as a line of the printed table."""
    twin = row.get('slow_ms')
    line = f'{row["what"]:<62} {milliseconds(row["ours_ms"]):<24}'
    if twin:
        line += f' twin {milliseconds(twin):<26} {twin["median"] / row["ours_ms"]["median"]:6.1f} times'
    if 'compiled_ms' in row:
        line += f'  compiled {milliseconds(row["compiled_ms"])}'
    return f'{line}  {remark(row)}'


def report(about: dict[str, Any]) -> str:
    """The table of docs/benchmark.md, from what --json printed."""
    rows = []
    for row in about['rows']:
        twin = row.get('slow_ms')
        against = ['', '']
        if twin:
            against = [milliseconds(twin), f'{twin["median"] / row["ours_ms"]["median"]:.1f}']
        rows.append([row['what'], milliseconds(row['ours_ms']), *against, remark(row)])
    return (f'{about["hardware"]}; torch {about["versions"]["torch"]}, Python {about["versions"]["python"]}; '
            f'commit {about["commit"]}; peak memory {about["peak_memory_mb"]:.0f} MB. Medians, smallest and '
            'largest in brackets.\n\n'
            + figures.markdown_table(['what', 'ours, ms', 'slow twin, ms', 'times faster', ''], rows))


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """argparse type: a list such as step,replicas."""
    def chosen(text: str) -> list[str]:
        for name in text.split(','):
            if name not in known:
                raise UserError(f'{name!r} is none of {", ".join(known)}')
        return text.split(',')
    return chosen


def main() -> None:
    """Prepare data, time what is asked for, and print it."""
    parser = Parser(__doc__)
    parser.add_argument('--device', default='auto', help='(default: auto)')
    parser.add_argument('--only', type=names(SECTIONS), default=DEFAULT,
                        help=f'some of {",".join(SECTIONS)} (default: {",".join(DEFAULT)})')
    parser.add_argument('--tasks', type=names(EXPERIMENTS), default=list(EXPERIMENTS),
                        help='some of math,facts,both')
    parser.add_argument('--sizes', type=names(MODELS), default=list(MODELS), help='some of n14,n28,n56,MLT')
    parser.add_argument('--full', action='store_true', help='also train tasks and sizes to their end')
    parser.add_argument('--json', action='store_true', help='one line of JSON instead of the table')
    args = parser.parse_args()
    device = choose_device(args.device)
    say = (lambda row: None) if args.json else lambda row: print(show(row), flush=True)
    about, rows = provenance(device), []
    if not args.json:
        print(f'{about["hardware"]}, torch {about["versions"]["torch"]}; '
              'milliseconds, medians (smallest to largest)')
    sections = {'step': bench_step, 'evaluation': bench_evaluation, 'replicas': bench_replicas,
                'text': bench_text, 'trace': bench_trace}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with contextlib.redirect_stdout(io.StringIO()):
            for experiment in EXPERIMENTS:
                write_dataset(folder / experiment, [task() for task in tasks_of(experiment)], seed=1337)
        for name, section in sections.items():
            if name in args.only:
                for row in section(args.tasks, args.sizes, folder, device):
                    rows.append(row)
                    say(row)
        if 'run' in args.only:
            have = {row['what'] for row in rows}
            for what in (f'{size} {task}' for task in args.tasks for size in args.sizes):
                if f'step {what}' in have and f'evaluation {what}' in have:
                    rows.append(bench_run(rows, what))
                    say(rows[-1])
        if args.full:
            for task, size in ((task, size) for task in args.tasks for size in args.sizes if size != 'MLT'):
                rows.append(full_run(task, size, folder, device))
                say(rows[-1])
    if args.json:
        print(json.dumps({**about, 'peak_memory_mb': peak_memory(device), 'rows': rows}))
    else:
        print(f'peak memory {peak_memory(device):.0f} MB')


if __name__ == '__main__':
    run(main)
