"""The settings of a training run: documented defaults, over them config files, over those `--key=value`.

A config file is Python that sets settings by their names. It may build on another one: with
`base = 'config/train_math_mini_14.py'` that one is read first, and the file states only what differs.
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
FLOAT32 = 1e38    # about what the arithmetic can hold
STARTS = ('scratch', 'resume', *hub.GPT2)    # or a folder


def setting(default: Any, doc: str, low: float | None = None, high: float | None = None,
            choices: tuple[str, ...] | None = None) -> Any:
    """A field of `Config`: its default, what `--help` says of it, and the values that make sense.

    A number has both limits, `low` and `high`: what lies beyond is refused before anything is allocated.
    """
    return dataclasses.field(default=default, metadata=dict(doc=doc, low=low, high=high, choices=choices))


@dataclass
class Config:
    """Every setting of a run. The defaults are those of the paper's n14 (width 14) in the arithmetic task."""
    # the run
    out_dir: str = setting('out', 'folder of the run, relative to where one stands')
    dataset: str = setting('as_math', 'a name under data/, or a folder with train.bin and val.bin')
    init_from: str = setting('scratch', 'scratch; resume: go on with the run in out_dir; or gpt2, '
                             'gpt2-medium, gpt2-large, gpt2-xl or a folder: finetune these weights')
    overwrite: bool = setting(False, 'start anew in a folder that holds another run')
    seed: int = setting(1337, 'of weights, batches, dropout and evaluation', low=0, high=2**31 - 1)
    num_seeds: int = setting(1, 'seeds trained as one, from `seed` on; several: a folder each below out_dir',
                             low=1, high=10_000)
    # the model
    n_layer: int = setting(1, 'blocks', low=1, high=1000)
    n_head: int = setting(1, 'attention heads; divides n_embd', low=1, high=1000)
    n_embd: int = setting(14, 'width', low=1, high=100_000)
    mlp_expansion: int = setting(1, 'hidden size of the MLP over n_embd', low=1, high=1000)
    block_size: int = setting(9, 'characters of context', low=1, high=10**6)
    bias: bool = setting(False, 'biases in linear layers and layer norms')
    tanh_gelu: bool = setting(False, 'GELU by its tanh approximation, as GPT-2 has it; without it exact')
    dropout: float = setting(0.0, 'share of activations dropped', low=0, high=0.999)
    # the windows of a batch
    windows: str = setting('any', 'any: anywhere in the text; line: each within one line, so that no order '
                           'of lines can be learned', choices=('any', 'line'))
    line_order: str = setting('fixed', 'fixed: lines follow each other as in the text; fresh: they are dealt '
                              'out anew for every window', choices=('fixed', 'fresh'))
    # the optimizer
    batch_size: int = setting(882, 'windows a step; where gradients are accumulated, a micro-step',
                              low=1, high=10**7)
    gradient_accumulation_steps: int = setting(1, 'micro-steps a step', low=1, high=10**6)
    max_iters: int = setting(30000, 'steps', low=0, high=MOST_STEPS)
    learning_rate: float = setting(1e-2, 'at the end of the warm-up', low=0, high=FLOAT32)
    min_lr: float = setting(1e-4, 'at the end of the decay', low=0, high=FLOAT32)
    warmup_iters: int = setting(2000, 'steps of linear warm-up', low=0, high=MOST_STEPS)
    lr_decay_iters: int = setting(25000, 'step at which the cosine decay ends', low=0, high=MOST_STEPS)
    decay_lr: bool = setting(True, 'warm-up and decay; without it the learning rate is constant')
    weight_decay: float = setting(0.0, 'on matrices and embeddings', low=0, high=FLOAT32)
    beta1: float = setting(0.9, 'of AdamW', low=0, high=0.9999999)
    beta2: float = setting(0.99, 'of AdamW', low=0, high=0.9999999)
    grad_clip: float = setting(1.0, 'largest norm of the gradient; 0 does not clip', low=0, high=FLOAT32)
    # measuring
    eval_interval: int = setting(250, 'steps between evaluations', low=1, high=MOST_STEPS)
    eval_iters: int = setting(200, 'batches of an estimated loss, for data too large for the exact one',
                              low=1, high=10**6)
    keep_answers: bool = setting(True, 'of each evaluation, in answers.npz: the probability of every right '
                                 'answer, and the most probable one')
    keep_checkpoints: int = setting(0, 'keep the checkpoint of each multiple of so many steps, such as '
                                    'ckpt_1000.pt; 0 keeps none of these', low=0, high=MOST_STEPS)
    eval_only: bool = setting(False, 'evaluate once and stop; writes nothing')
    # logging
    log_interval: int = setting(250, 'steps between plain lines, where the output is no terminal',
                                low=1, high=MOST_STEPS)
    wandb_log: bool = setting(False, 'log evaluations to Weights & Biases (the package wandb)')
    wandb_project: str = setting('tbtt', "its project, and Trackio's")
    wandb_run_name: str = setting('', "its run, and Trackio's; that of out_dir when empty")
    wandb_mode: str = setting('auto', 'online, offline (into ./wandb, for `wandb sync`), disabled; auto: as '
                              'WANDB_MODE says', choices=('auto', 'online', 'offline', 'disabled'))
    trackio_log: bool = setting(False, 'log evaluations to Trackio (the package trackio), on this machine')
    tensorboard_log: bool = setting(False, 'log evaluations to tensorboard/ in the folder of each seed (the '
                                    'package tensorboard)')
    # the machine
    device: str = setting('auto', 'auto (CUDA, then MPS, then the CPU), or a torch device: cpu, cuda:1, ...')
    dtype: str = setting('auto', 'of the arithmetic: auto is bfloat16 on a GPU that has it, float16 on '
                         'others; float32 on a CPU, but bfloat16 where it has that and n_embd is 256 or more',
                         choices=('auto', 'float32', 'bfloat16', 'float16'))
    compile: str = setting('auto',
                           'auto (the fastest that works), True, False, or fused (small models on a CPU)',
                           choices=('auto', 'True', 'False', 'fused'))

    def __post_init__(self) -> None:
        self.given = set()    # names of settings that a config file or the command line set
        self.download = False    # may weights of `init_from` be fetched?

    def check(self) -> 'Config':
        """Raise `InvalidSetting` for the first value that cannot be, naming it and what was expected."""
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
                                 f'eval_interval={self.eval_interval}: expected one, for evaluations write '
                                 f'checkpoints')
        if self.min_lr > self.learning_rate and self.decay_lr:
            raise InvalidSetting(f'min_lr={self.min_lr:g} is above learning_rate={self.learning_rate:g}')
        if self.warmup_iters > self.lr_decay_iters and self.decay_lr:
            raise InvalidSetting(f'warmup_iters={self.warmup_iters} is above '
                                 f'lr_decay_iters={self.lr_decay_iters}')
        return self

    def model_args(self, vocab_size: int) -> dict[str, Any]:
        """The arguments of `GPTConfig`, under nanoGPT's names.

        It has no names for the MLP's expansion and for the approximate GELU: where these are its own, 4 and
        none, they are left out, and the model loads there.
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
    """Raise `InvalidSetting` where `field` has limits and the number `value` is beyond them."""
    low, high = field.metadata['low'], field.metadata['high']
    if low is None or low <= value <= high:
        return
    huge = type(value) is int and value.bit_length() > 63    # Python may refuse to print it
    shown = f'{field.name} is a number of {value.bit_length()} bits' if huge else f'{field.name}={value}'
    raise InvalidSetting(f'{shown}: expected at least {low} and at most {high:,}')


def set_value(config: Config, name: str, value: Any) -> None:
    """Set one setting. An integer will do for a float, True or False for `compile`, a Path for a folder."""
    if name not in FIELDS:
        raise InvalidSetting(unknown_name('setting', name, FIELDS))
    if FIELDS[name].type is float and type(value) is int:
        check_limits(FIELDS[name], value)    # before a float would overflow
        value = float(value)
    if name == 'compile' and type(value) is bool:
        value = str(value)
    if name in ('out_dir', 'dataset', 'init_from') and isinstance(value, (str, Path)):
        value = os.path.expanduser(value)
    check_value(FIELDS[name], value)
    setattr(config, name, value)
    config.given.add(name)


def find_file(path: str | Path, folder: str | Path = '.') -> Path:
    """A config file: in `folder`, by default where one stands, or beside the scripts."""
    for candidate in (Path(folder) / path, ROOT / path):
        if candidate.is_file():
            return candidate
    raise UserError(f'no config file {path} (nor {ROOT / path}): ls {ROOT / "config"} shows those that exist')


@contextlib.contextmanager
def errors_with_line(path: Path) -> Iterator[None]:
    """Turn whatever the text of a config file raises into a `UserError` with file and line."""
    try:
        yield
    except SyntaxError as error:
        raise UserError(f'{path}, line {error.lineno}: {error.msg}') from error
    except (Exception, SystemExit) as error:    # whatever the user's own code raises
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in frames if frame.filename == str(path)), 1)
        raise UserError(f'{path}, line {line}: {type(error).__name__}: {error}') from error


def names_in(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Execute a config file with the names `before` (name -> value) in sight. -> those that it sets anew

    Names with a leading underscore, imported modules, functions and classes are the file's own business.
    Raises `UserError` with the line for whatever the file raises.
    """
    namespace = dict(before)
    with errors_with_line(path):
        tree = ast.parse(path.read_bytes(), str(path))
        exec(compile(tree, str(path), 'exec'), namespace)
    # A name that is set to what it was has the same value, and for small numbers the same object.
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

    base: the value of `base` as it is written there, None where there is none.
    foreign: does the file set a name that nanoGPT or the paper's code has and we have not?
    """
    path: Path
    base: Any
    foreign: bool

    @classmethod
    def read(cls, path: Path) -> 'ConfigFile':
        """Raises `UserError` where the file is no Python."""
        with errors_with_line(path):
            tree = ast.parse(path.read_bytes(), str(path))
        bases = [node.value.value for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                 and [ast.unparse(target) for target in node.targets] == ['base']]
        return cls(path, bases[-1] if bases else None, not names_stored(tree).isdisjoint(nanogpt.FOREIGN))

    def execute(self, config: Config, say: Callable[[str], None]) -> None:
        """Execute the file over `config`, in place. say: takes a line on what is read otherwise than written.

        Raises `InvalidSetting` for a name that is no setting, here or there, and for a value that cannot be.
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
    """The file that a config file builds on: beside it, or in the project."""
    if not isinstance(file.base, str):
        raise InvalidSetting(f'{file.path}: base={file.base!r}: expected the name of a config file')
    try:
        return find_file(file.base, file.path.parent)
    except UserError as error:
        raise UserError(f'{file.path}: base: {error}') from error


def with_bases(path: str | Path) -> list[ConfigFile]:
    """A config file behind those that it builds on, in the order in which they are executed.

    Raises `UserError` where a base is missing, or builds on the file that names it.
    """
    files = [ConfigFile.read(find_file(path))]
    while files[0].base is not None:
        above, path = files[0], find_base(files[0])
        if any(path.samefile(file.path) for file in files):
            raise UserError(f'{above.path}: its base {above.base} builds on this file: name another base')
        files.insert(0, ConfigFile.read(path))
    return files


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option a setting; those not given on the command line stay out of the parsed namespace."""
    for field in FIELDS.values():
        if field.name in GROUPS:
            group = parser.add_argument_group(GROUPS[field.name])
        choices = field.metadata['choices']
        group.add_argument(
            f'--{field.name}', type=true_or_false if field.type is bool else field.type, default=None,
            metavar=f'{{{",".join(choices)}}}' if choices else field.type.__name__.upper(),
            help=f'{field.metadata["doc"]} (default: {field.default!r})'.replace('%', '%%'))
    parser.add_argument('--defaults', choices=('tbtt', 'nanogpt'),
                        help="of all that is not set: those listed here, or those of nanoGPT's train.py "
                        '(default: tbtt; nanogpt for config files of nanoGPT and of the paper)')


def load_config(files: Iterable[str | Path], overrides: Mapping[str, Any], defaults: str | None = None,
                say: Callable[[str], None] = lambda line: None) -> Config:
    """Defaults, then config files in order, then `overrides` (name -> value; None is not given).

    defaults: 'tbtt' or 'nanogpt'. Where it is not given, nanoGPT's are taken if a file sets names that only
    it or the paper's code has, and builds on no other file.
    say: takes a line on whatever is read otherwise than it is written.
    Raises `UserError` for a file that does not exist or fails, `InvalidSetting` for a wrong name or value.
    """
    parts = [part for path in files for part in with_bases(path)]
    if defaults is None:
        defaults = 'nanogpt' if any(part.foreign and not part.base for part in parts) else 'tbtt'
    config = Config()
    if defaults == 'nanogpt':
        say('settings that are not given have the defaults of nanoGPT, not ours (those: --defaults=tbtt)')
        config = Config(**nanogpt.DEFAULTS)
    for part in parts:
        part.execute(config, say)
    for name, value in overrides.items():
        if value is not None:
            set_value(config, name, value)
    return config.check()
