"""The settings of a training run: documented defaults, replaced by config files, and these by `--key=value`.

A config file is Python code that assigns settings by name. It may build on another file: with
`base = 'config/train_math_mini_14.py'` that file is read first, and the config file states only what differs.
"""
import argparse
import ast
import contextlib
import dataclasses
import math
import os
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbtt import hub, nanogpt
from tbtt.cli import InvalidSetting, UserError, true_or_false, unknown_name
from tbtt.startup import ROOT

MOST_STEPS = 10**12
FLOAT32 = 1e38    # about the largest number that the arithmetic can hold
STARTS = ('scratch', 'resume', *hub.GPT2)    # of init_from, which may also be a folder


def setting(default: Any, doc: str, low: float | None = None, high: float | None = None,
            choices: tuple[str, ...] | None = None) -> Any:
    """A field of `Config`: its default, its text in `--help`, and the values that make sense.

    A number has both limits, `low` and `high`: a value outside is refused before anything is allocated.
    """
    return dataclasses.field(default=default, metadata=dict(doc=doc, low=low, high=high, choices=choices))


@dataclass
class Config:
    """Every setting of a run. The defaults are those of the paper's n14 (width 14) in the arithmetic task."""
    # the run
    out_dir: str = setting('out', 'folder of the run, relative to the current folder')
    dataset: str = setting('as_math', 'a name under data/, or a folder with train.bin and val.bin')
    init_from: str = setting('scratch', 'scratch; resume: continue the run in out_dir; or gpt2, '
                             'gpt2-medium, gpt2-large, gpt2-xl or a folder: finetune these weights')
    overwrite: bool = setting(False, 'replace the run that the folder already holds')
    seed: int = setting(1337, 'seed of weights, batches, dropout and evaluation', low=0, high=2**31 - 1)
    num_seeds: int = setting(1, 'seeds trained together, from `seed` on; several get a folder each below '
                             'out_dir', low=1, high=10_000)
    # the model
    n_layer: int = setting(1, 'blocks', low=1, high=1000)
    n_head: int = setting(1, 'attention heads; divides n_embd', low=1, high=1000)
    n_embd: int = setting(14, 'width', low=1, high=100_000)
    mlp_expansion: int = setting(1, 'hidden size of the MLP over n_embd', low=1, high=1000)
    block_size: int = setting(9, 'characters of context', low=1, high=10**6)
    bias: bool = setting(False, 'biases in linear layers and layer norms')
    tanh_gelu: bool = setting(False, 'approximate GELU by tanh, as GPT-2 does; otherwise it is exact')
    dropout: float = setting(0.0, 'share of activations that dropout sets to zero', low=0, high=0.999)
    # the windows of a batch
    windows: str = setting('any', 'any: anywhere in the text; line: each within one line, so that no order '
                           'of lines can be learned', choices=('any', 'line'))
    line_order: str = setting('fixed', 'fixed: lines follow each other as in the text; fresh: they are '
                              'shuffled anew for every window', choices=('fixed', 'fresh'))
    # the optimizer
    batch_size: int = setting(882, 'windows per step, or per micro-step where gradients are accumulated',
                              low=1, high=10**7)
    gradient_accumulation_steps: int = setting(1, 'micro-steps per step', low=1, high=10**6)
    max_iters: int = setting(30000, 'steps', low=0, high=MOST_STEPS)
    learning_rate: float = setting(1e-2, 'learning rate at the end of the warm-up', low=0, high=FLOAT32)
    min_lr: float = setting(1e-4, 'learning rate at the end of the decay', low=0, high=FLOAT32)
    warmup_iters: int = setting(2000, 'steps of linear warm-up', low=0, high=MOST_STEPS)
    lr_decay_iters: int = setting(25000, 'step at which the cosine decay ends', low=0, high=MOST_STEPS)
    decay_lr: bool = setting(True, 'warm-up and decay; without it the learning rate is constant')
    weight_decay: float = setting(0.0, 'weight decay of matrices and embeddings', low=0, high=FLOAT32)
    beta1: float = setting(0.9, 'of AdamW', low=0, high=0.9999999)
    beta2: float = setting(0.99, 'of AdamW', low=0, high=0.9999999)
    grad_clip: float = setting(1.0, 'largest norm of the gradient; 0: no clipping', low=0, high=FLOAT32)
    # measuring
    eval_interval: int = setting(250, 'steps between evaluations', low=1, high=MOST_STEPS)
    eval_iters: int = setting(200, 'batches per estimate of the loss, for data too large for the exact loss',
                              low=1, high=10**6)
    keep_answers: bool = setting(True, 'save in answers.npz, for each evaluation, the probability of every '
                                 'right answer and the most probable answer')
    keep_checkpoints: int = setting(0, 'keep a checkpoint (ckpt_1000.pt, ...) every so many steps; 0: '
                                    'none', low=0, high=MOST_STEPS)
    eval_only: bool = setting(False, 'evaluate once and stop; writes nothing')
    # logging
    log_interval: int = setting(250, 'steps between lines of progress if the output is not a terminal',
                                low=1, high=MOST_STEPS)
    wandb_log: bool = setting(False, 'log evaluations to Weights & Biases (the package wandb)')
    wandb_project: str = setting('tbtt', 'project in Weights & Biases and Trackio')
    wandb_run_name: str = setting('', 'name of the run there; if empty, that of out_dir')
    wandb_mode: str = setting('auto', 'online, offline (into ./wandb, for `wandb sync`), disabled; auto: as '
                              'WANDB_MODE says', choices=('auto', 'online', 'offline', 'disabled'))
    trackio_log: bool = setting(False, 'log evaluations to Trackio (the package trackio), on this machine')
    tensorboard_log: bool = setting(False, 'log evaluations to tensorboard/ in the folder of each seed (the '
                                    'package tensorboard)')
    # the machine
    device: str = setting('auto', 'auto (CUDA, then MPS, then the CPU), or a torch device: cpu, cuda:1, ...')
    dtype: str = setting('auto', 'number format of the arithmetic. auto: bfloat16 on a CUDA GPU that has '
                         'it, float16 on other CUDA GPUs; float32 on MPS and on a CPU, but bfloat16 on a CPU '
                         'that has it if n_embd is 256 or more',
                         choices=('auto', 'float32', 'bfloat16', 'float16'))
    compile: str = setting('auto',
                           'auto (the fastest that works), True, False, or fused (small models on a CPU)',
                           choices=('auto', 'True', 'False', 'fused'))

    def __post_init__(self) -> None:
        self.given = set()    # names of settings that a config file or the command line set
        self.download = False    # may weights of `init_from` be downloaded?

    def check(self) -> 'Config':
        """Raise `InvalidSetting` for the first invalid value, naming it and what was expected."""
        for field in dataclasses.fields(self):
            check_value(field, getattr(self, field.name))
        if self.init_from not in STARTS and not os.path.isdir(self.init_from):
            raise InvalidSetting(f'init_from={self.init_from!r}: expected one of {", ".join(STARTS)}, or a '
                                 'folder of GPT-2 weights')
        if self.seed + self.num_seeds - 1 > (highest := FIELDS['seed'].metadata['high']):
            raise InvalidSetting(f'seed={self.seed} and num_seeds={self.num_seeds}: expected no seed above '
                                 f'{highest:,}')
        if self.n_embd % self.n_head:
            raise InvalidSetting(f'n_embd={self.n_embd} is not divisible by n_head={self.n_head}')
        if self.keep_checkpoints % self.eval_interval:
            raise InvalidSetting(f'keep_checkpoints={self.keep_checkpoints} is no multiple of '
                                 f'eval_interval={self.eval_interval}: checkpoints are '
                                 f'written at evaluations')
        if self.min_lr > self.learning_rate and self.decay_lr:
            raise InvalidSetting(f'min_lr={self.min_lr:g} is above learning_rate={self.learning_rate:g}')
        if self.warmup_iters > self.lr_decay_iters and self.decay_lr:
            raise InvalidSetting(f'warmup_iters={self.warmup_iters} is above '
                                 f'lr_decay_iters={self.lr_decay_iters}')
        return self

    def model_args(self, vocab_size: int) -> dict[str, Any]:
        """The arguments of `GPTConfig`, under nanoGPT's names.

        nanoGPT has no names for the MLP's expansion and the approximate GELU. Where they are as in nanoGPT, 4
        and False, they are left out, so that nanoGPT can load the model.
        """
        names = ('n_layer', 'n_head', 'n_embd', 'block_size', 'bias', 'dropout')
        args = {name: getattr(self, name) for name in names} | {'vocab_size': vocab_size}
        return args | {name: getattr(self, name) for name, theirs in nanogpt.UNNAMED.items()
                       if getattr(self, name) != theirs}


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# The groups of --help, each named by its first setting.
GROUPS = {'out_dir': 'the run', 'n_layer': 'the model', 'windows': 'the windows of a batch',
          'batch_size': 'the optimizer', 'eval_interval': 'measuring', 'log_interval': 'logging',
          'device': 'the machine'}


def check_value(field: dataclasses.Field, value: Any) -> None:
    """Raise `InvalidSetting` unless `value` has the type and range of `field`."""
    if type(value) is not field.type:
        kind, found = field.type.__name__, type(value).__name__
        raise InvalidSetting(f'{field.name}={value!r}: expected {kind}, got {found}')
    if field.type is str and '\0' in value:
        raise InvalidSetting(f'{field.name}={value!r}: expected a text without the character \\0')
    if (choices := field.metadata['choices']) and value not in choices:
        raise InvalidSetting(f'{field.name}={value!r}: expected one of {", ".join(choices)}')
    if field.type is float and not math.isfinite(value):
        raise InvalidSetting(f'{field.name}={value}: expected a finite number')
    check_limits(field, value)


def check_limits(field: dataclasses.Field, value: Any) -> None:
    """Raise `InvalidSetting` if `field` has limits and the number `value` is outside of them."""
    low, high = field.metadata['low'], field.metadata['high']
    if low is None or low <= value <= high:
        return
    huge = type(value) is int and value.bit_length() > 63    # Python may refuse to print it
    shown = f'{field.name} is a number of {value.bit_length()} bits' if huge else f'{field.name}={value}'
    raise InvalidSetting(f'{shown}: expected at least {low} and at most {high:,}')


def set_value(config: Config, name: str, value: Any) -> None:
    """Set one setting. A float may be given as an integer, `compile` as True or False, a folder as a Path."""
    if name not in FIELDS:
        raise InvalidSetting(unknown_name('setting', name, FIELDS))
    if FIELDS[name].type is float and type(value) is int:
        check_limits(FIELDS[name], value)    # before float() could overflow
        value = float(value)
    if name == 'compile' and type(value) is bool:
        value = str(value)
    if name in ('out_dir', 'dataset', 'init_from') and isinstance(value, (str, Path)):
        value = os.path.expanduser(value)
    check_value(FIELDS[name], value)
    setattr(config, name, value)
    config.given.add(name)


def find_file(path: str | Path, folder: str | Path = '.') -> Path:
    """The path of a config file: in `folder`, by default the current one, or beside the scripts."""
    for candidate in (Path(folder) / path, ROOT / path):
        if candidate.is_file():
            return candidate
    raise UserError(f'no config file {path} (nor {ROOT / path}): ls {ROOT / "config"} shows those that exist')


@contextlib.contextmanager
def errors_with_line(path: Path) -> Iterator[None]:
    """Turn any error of a config file's code into a `UserError` with file and line."""
    try:
        yield
    except SyntaxError as error:
        raise UserError(f'{path}, line {error.lineno}: {error.msg}') from error
    except (Exception, SystemExit) as error:    # the user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in frames if frame.filename == str(path)), 1)
        raise UserError(f'{path}, line {line}: {type(error).__name__}: {error}') from error


def names_in(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Execute a config file that can see the names `before` (name -> value). -> the names that it sets

    Names with a leading underscore, imported modules, functions and classes are private to the file. Raises
    `UserError` with the line for any error of the file.
    """
    namespace = dict(before)
    with errors_with_line(path):
        tree = ast.parse(path.read_bytes(), str(path))
        exec(compile(tree, str(path), 'exec'), namespace)
    # A name that is set to its old value may even keep the same object, as with small numbers. So the code is
    # searched for assignments too.
    stored = names_stored(tree)
    return {name: value for name, value in namespace.items()
            if not name.startswith('_') and not isinstance(value, types.ModuleType) and not callable(value)
            and (name in stored or name not in before or value is not before[name])}


def names_stored(tree: ast.AST) -> set[str]:
    """The names to which the code assigns."""
    return {node.id for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@dataclass(frozen=True)
class ConfigFile:
    """What is known of a config file before it is executed.

    base: the value of `base` as it is written in the file, None where there is none.
    foreign: does the file set a name that nanoGPT or the paper's code has and we do not have?
    """
    path: Path
    base: Any
    foreign: bool

    @classmethod
    def read(cls, path: Path) -> 'ConfigFile':
        """Read the file without executing it. Raises `UserError` if it is not valid Python."""
        with errors_with_line(path):
            tree = ast.parse(path.read_bytes(), str(path))
        bases = [node.value.value for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                 and [ast.unparse(target) for target in node.targets] == ['base']]
        return cls(path, bases[-1] if bases else None, not names_stored(tree).isdisjoint(nanogpt.FOREIGN))

    def execute(self, config: Config, say: Callable[[str], None]) -> None:
        """Execute the file and change `config` in place. say: gets a line about what is not read as written.

        Raises `InvalidSetting` for a name that is a setting neither here nor in nanoGPT or the paper's code,
        and for an invalid value.
        """
        names = names_in(self.path, dataclasses.asdict(config))
        base = names.pop('base', None)
        if type(base) is not type(self.base) or base != self.base:
            raise InvalidSetting(f"{self.path}: base: expected the name of a config file, such as "
                                 f"base = 'config/train_math_mini_14.py'")
        if note := nanogpt.describe_translation(names):
            say(f'{self.path}: {note}')
        for name, value in nanogpt.translate(names).items():
            try:
                set_value(config, name, value)
            except InvalidSetting as error:
                raise InvalidSetting(f'{self.path}: {error}') from error


def find_base(file: ConfigFile) -> Path:
    """The path of the file that a config file builds on: beside it, or in the project."""
    if not isinstance(file.base, str):
        raise InvalidSetting(f'{file.path}: base={file.base!r}: expected the name of a config file')
    try:
        return find_file(file.base, file.path.parent)
    except UserError as error:
        raise UserError(f'{file.path}: base: {error}') from error


def with_bases(path: str | Path) -> list[ConfigFile]:
    """A config file after the files that it builds on, in the order in which they are executed.

    Raises `UserError` if a base is missing, or if it builds on the file that names it.
    """
    files = [ConfigFile.read(find_file(path))]
    while files[0].base is not None:
        above, path = files[0], find_base(files[0])
        if any(path.samefile(file.path) for file in files):
            raise UserError(f'{above.path}: its base {above.base} builds on this file: name another base')
        files.insert(0, ConfigFile.read(path))
    return files


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting; an option that is not given on the command line is None."""
    for field in FIELDS.values():
        if field.name in GROUPS:
            group = parser.add_argument_group(GROUPS[field.name])
        choices = field.metadata['choices']
        group.add_argument(
            f'--{field.name}', type=true_or_false if field.type is bool else field.type, default=None,
            metavar=f'{{{",".join(choices)}}}' if choices else field.type.__name__.upper(),
            help=f'{field.metadata["doc"]} (default: {field.default!r})'.replace('%', '%%'))
    parser.add_argument('--defaults', choices=('tbtt', 'nanogpt'),
                        help='defaults of settings that are not given: those listed here, or those of '
                        "nanoGPT's train.py (default: tbtt; nanogpt for config files of nanoGPT and of the "
                        'paper)')


def load_config(files: Iterable[str | Path], overrides: Mapping[str, Any], defaults: str | None = None,
                say: Callable[[str], None] = lambda line: None) -> Config:
    """Defaults, then config files in order, then `overrides` (name -> value; None means not given).

    defaults: 'tbtt' or 'nanogpt'. If it is not given, nanoGPT's are used if a file sets names that only
    nanoGPT or the paper's code has, and builds on no other file.
    say: gets a line about whatever is not read as it is written.
    Raises `UserError` for a file that does not exist or fails, `InvalidSetting` for a wrong name or value.
    """
    parts = [part for path in files for part in with_bases(path)]
    if defaults is None:
        defaults = 'nanogpt' if any(part.foreign and not part.base for part in parts) else 'tbtt'
    config = Config()
    if defaults == 'nanogpt':
        say("settings that are not given take nanoGPT's defaults; --defaults=tbtt takes ours")
        config = Config(**nanogpt.DEFAULTS)
    for part in parts:
        part.execute(config, say)
    for name, value in overrides.items():
        if value is not None:
            set_value(config, name, value)
    return config.check()
