"""The settings of a training run: documented defaults, over them a config file, over that `--key=value`."""
import dataclasses
import math
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

from tbtt.cli import InvalidSetting, UserError, true_or_false, unknown_name

ROOT = Path(__file__).resolve().parent.parent    # the folder of the scripts, whatever folder they are run from


def setting(default, doc, low=None, high=None, choices=None):
    """A field of `Config`: its default, what `--help` says of it, and the values that make sense."""
    return dataclasses.field(default=default, metadata=dict(doc=doc, low=low, high=high, choices=choices))


@dataclass
class Config:
    """Every setting of a run. The defaults are those of the paper's one-layer models in the arithmetic task."""
    # where
    out_dir: str = setting('out', 'folder of the run, relative to where one stands')
    dataset: str = setting('as_math', 'a name under data/, or a folder with train.bin and val.bin')
    init_from: str = setting('scratch', 'scratch, or resume: go on with the run in out_dir', choices=('scratch', 'resume'))
    overwrite: bool = setting(False, 'start anew in a folder that holds another run')
    seed: int = setting(1337, 'of weights, batches, dropout and evaluation', low=0, high=2**31 - 1)
    num_seeds: int = setting(1, 'seeds trained as one, from `seed` on; more than one: a folder each below out_dir', low=1)
    # the model
    n_layer: int = setting(1, 'blocks', low=1)
    n_head: int = setting(1, 'attention heads; divides n_embd', low=1)
    n_embd: int = setting(14, 'width', low=1)
    mlp_expansion: int = setting(1, 'hidden size of the MLP over n_embd', low=1)
    block_size: int = setting(9, 'characters of context', low=1)
    bias: bool = setting(False, 'biases in linear layers and layer norms')
    dropout: float = setting(0.0, 'share of activations dropped', low=0, high=0.999)
    # the optimizer
    batch_size: int = setting(882, 'windows a step (and a micro-step, where gradients are accumulated)', low=1)
    gradient_accumulation_steps: int = setting(1, 'micro-steps a step', low=1)
    max_iters: int = setting(30000, 'steps', low=0)
    learning_rate: float = setting(1e-2, 'at the end of the warm-up', low=0)
    min_lr: float = setting(1e-4, 'at the end of the decay', low=0)
    warmup_iters: int = setting(2000, 'steps of linear warm-up', low=0)
    lr_decay_iters: int = setting(25000, 'step at which the cosine decay ends', low=0)
    decay_lr: bool = setting(True, 'warm-up and decay; without it the learning rate is constant')
    weight_decay: float = setting(0.0, 'on matrices and embeddings', low=0)
    beta1: float = setting(0.9, 'of AdamW', low=0, high=0.9999999)
    beta2: float = setting(0.99, 'of AdamW', low=0, high=0.9999999)
    grad_clip: float = setting(1.0, 'largest norm of the gradient; 0 does not clip', low=0)
    # measuring
    eval_interval: int = setting(250, 'steps between evaluations', low=1)
    eval_iters: int = setting(200, 'batches of an estimated loss, where the data is too large for the exact one', low=1)
    eval_only: bool = setting(False, 'evaluate once and stop; writes nothing')
    log_interval: int = setting(250, 'steps between plain lines, where the output is no terminal', low=1)
    wandb_log: bool = setting(False, 'log evaluations to Weights & Biases (the package wandb)')
    wandb_project: str = setting('tbtt', 'its project')
    wandb_run_name: str = setting('', 'its run; the name of out_dir when empty')
    tensorboard_log: bool = setting(False, 'log evaluations to out_dir/tensorboard (the package tensorboard)')
    # the machine
    device: str = setting('auto', 'auto (CUDA, then MPS, then the CPU), or a torch device such as cpu or cuda:1')
    dtype: str = setting('auto', 'of the arithmetic: auto is bfloat16 on a GPU that has it, float16 on one that does '
                         'not, float32 on a CPU', choices=('auto', 'float32', 'bfloat16', 'float16'))
    compile: str = setting('auto', 'auto (the fastest that works), True, False, or fused (small models on a CPU)',
                           choices=('auto', 'True', 'False', 'fused'))

    def check(self):
        """Raise `InvalidSetting` for the first value that cannot be, naming it and what was expected."""
        for field in dataclasses.fields(self):
            check_value(field, getattr(self, field.name))
        if self.n_embd % self.n_head:
            raise InvalidSetting(f'n_embd={self.n_embd} is not divisible by n_head={self.n_head}')
        if self.min_lr > self.learning_rate and self.decay_lr:
            raise InvalidSetting(f'min_lr={self.min_lr:g} is above learning_rate={self.learning_rate:g}')
        if self.warmup_iters > self.lr_decay_iters and self.decay_lr:
            raise InvalidSetting(f'warmup_iters={self.warmup_iters} is above lr_decay_iters={self.lr_decay_iters}')
        return self

    def model_args(self, vocab_size):
        """The arguments of `GPTConfig`, under nanoGPT's names. Its models have expansion 4 and no name for it, so a
        model of that expansion leaves it out and loads there."""
        names = ('n_layer', 'n_head', 'n_embd', 'block_size', 'bias', 'dropout')
        args = {name: getattr(self, name) for name in names} | {'vocab_size': vocab_size}
        return args if self.mlp_expansion == 4 else args | {'mlp_expansion': self.mlp_expansion}


FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def check_value(field, value):
    """Raise `InvalidSetting` unless `value` has the type and range of `field`."""
    low, high, choices = (field.metadata[key] for key in ('low', 'high', 'choices'))
    if type(value) is not field.type:
        raise InvalidSetting(f'{field.name}={value!r}: expected {field.type.__name__}, got {type(value).__name__}')
    if field.type is str and '\0' in value:
        raise InvalidSetting(f'{field.name}={value!r}: expected a text without the character \\0')
    if choices and value not in choices:
        raise InvalidSetting(f'{field.name}={value!r}: expected one of {", ".join(choices)}')
    if field.type is float and not math.isfinite(value):
        raise InvalidSetting(f'{field.name}={value}: expected a finite number')
    if low is not None and value < low or high is not None and value > high:
        limits = f'at least {low}' if high is None else f'between {low} and {high}'
        raise InvalidSetting(f'{field.name}={value}: expected {limits}')


def set_value(config, name, value):
    """Set one setting. An integer will do for a float, and True or False for `compile`."""
    if name not in FIELDS:
        raise InvalidSetting(unknown_name('setting', name, FIELDS))
    if FIELDS[name].type in (int, float) and type(value) is int and abs(value) >= 2**63:
        raise InvalidSetting(f'{name} is a number of {value.bit_length()} bits: expected one of at most 63')
    if FIELDS[name].type is float and type(value) is int:
        value = float(value)
    if name == 'compile' and type(value) is bool:
        value = str(value)
    check_value(FIELDS[name], value)
    setattr(config, name, value)


def find_file(path):
    """A config file: as given, or beside the scripts."""
    for candidate in (Path(path), ROOT / path):
        if candidate.is_file():
            return candidate
    raise UserError(f'no config file {path} (nor {ROOT / path}): ls {ROOT / "config"} shows those that exist')


def names_in(path, before):
    """Execute a config file with the names `before` (name -> value) in sight. -> those that it sets anew

    Names with a leading underscore, imported modules and functions are the file's own business. Raises `UserError` with
    the line for whatever the file raises.
    """
    namespace = dict(before)
    try:
        exec(compile(Path(path).read_bytes(), str(path), 'exec'), namespace)
    except SyntaxError as error:
        raise UserError(f'{path}, line {error.lineno}: {error.msg}') from error
    except (Exception, SystemExit) as error:    # whatever the user's own code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UserError(f'{path}, line {lines[0] if lines else 1}: {type(error).__name__}: {error}') from error
    return {name: value for name, value in namespace.items()
            if not name.startswith('_') and not isinstance(value, (types.ModuleType, types.FunctionType))
            and (name not in before or value is not before[name])}


def execute(path, config):
    """Execute a config file over `config`, in place: every name that it sets has to be a setting."""
    for name, value in names_in(path, dataclasses.asdict(config)).items():
        try:
            set_value(config, name, value)
        except InvalidSetting as error:
            raise InvalidSetting(f'{path}: {error}') from error


def add_settings(parser):
    """One option a setting; those not given on the command line stay out of the parsed namespace."""
    for field in FIELDS.values():
        kind = true_or_false if field.type is bool else field.type
        parser.add_argument(f'--{field.name}', type=kind, default=None, metavar=field.type.__name__.upper(),
                            help=f'{field.metadata["doc"]} (default: {field.default!r})'.replace('%', '%%'))


def load_config(files, overrides):
    """Defaults, then config files in order, then `overrides` (name -> value; None is not given). -> checked Config

    Raises `UserError` for a file that does not exist or fails, `InvalidSetting` for a wrong name or value.
    """
    config = Config()
    for path in files:
        execute(find_file(path), config)
    for name, value in overrides.items():
        if value is not None:
            set_value(config, name, value)
    return config.check()
