"""A dataset on disk: `train.bin` and `val.bin` (uint16 tokens), `meta.pkl` (nanoGPT's codec)."""
from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tbtt.bpe import LARGEST, Bpe
from tbtt.cli import UserError
from tbtt.config import ROOT
from tbtt.tasks import tasks_from

if TYPE_CHECKING:    # torch takes a second to load, and preparing a dataset does not need it
    import torch

# The most bytes that a meta.pkl may have. With 65,536 characters, a million repeats, or GPT-2's tokenizer it
# is smaller.
LARGEST_META = 2**22


class Codec:
    """Characters to token ids and back, as nanoGPT's meta.pkl holds them (`stoi`, `itos`)."""

    def __init__(self, stoi: dict[str, int], itos: dict[int, str]) -> None:
        self.stoi, self.itos = stoi, itos

    @classmethod
    def of_text(cls, text: str) -> 'Codec':
        """The codec of the characters of a text, numbered in sorted order."""
        characters = sorted(set(text))
        return cls({c: i for i, c in enumerate(characters)}, dict(enumerate(characters)))

    @property
    def newline(self) -> int | None:
        """The token that ends a line, or None."""
        return self.stoi.get('\n')

    def encode(self, text: str) -> list[int]:
        """text -> list of ids. Raises `UserError` naming the first character that the vocabulary lacks."""
        for character in text:
            if character not in self.stoi:
                raise UserError(f'character {character!r} of {text!r} is not in the vocabulary '
                                f'{"".join(sorted(self.stoi))!r}')
        return [self.stoi[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """ids -> text. An id without a character (nanoGPT may round a vocabulary up) becomes U+FFFD."""
        return ''.join(self.itos.get(int(i), '\ufffd') for i in ids)


class PlainUnpickler(pickle._Unpickler):    # the Python version: a damaged index takes gigabytes in C
    """Loads what a meta.pkl consists of (containers, strings, numbers). Refuses objects: no code can run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Raises `UnpicklingError` for any class."""
        raise pickle.UnpicklingError(f'it holds an object of {module}.{name}, which loading would run as '
                                     'code')


def check_meta(meta: Any, path: str | Path) -> dict[str, Any]:
    """Raise `UserError` unless `meta` has nanoGPT's keys with a codec that fits its vocabulary, or GPT-2's
    tokens."""
    if isinstance(meta, dict) and meta.keys() == {'vocab_size', 'tokenizer'}:
        if type(meta['vocab_size']) is int and 0 < meta['vocab_size'] <= LARGEST and type(
                meta['tokenizer']) is str:
            return meta
        raise UserError(f'{path} is damaged (vocab_size or tokenizer): prepare the dataset again')
    if not isinstance(meta, dict) or not {'vocab_size', 'stoi', 'itos'} <= meta.keys():
        raise UserError(f'{path}: expected a dict with vocab_size, stoi and itos, as prepare.py writes it')
    size, stoi, itos = meta['vocab_size'], meta['stoi'], meta['itos']
    ids = range(size) if type(size) is int and 0 < size <= 2**16 else ()
    if not (isinstance(stoi, dict) and isinstance(itos, dict) and stoi
            and all(type(c) is str and len(c) == 1 and type(i) is int and i in ids and itos.get(i) == c
                    for c, i in stoi.items())):
        raise UserError(f'{path}: stoi and itos are not a character codec of {size} tokens: prepare the '
                        'dataset again')
    foreign = meta.keys() - {'vocab_size', 'stoi', 'itos', 'tasks'}
    # A vocabulary may be rounded up only by other programs, and their files have no tasks.
    if foreign or 'tasks' in meta and not size == len(stoi) == len(itos):
        raise UserError(f'{path} is damaged (keys {sorted(meta, key=repr)}, vocab_size {size}): prepare the '
                        'dataset again')
    if not isinstance(meta.get('tasks', {}), dict):
        raise UserError(f'{path}: tasks is not a dict: prepare the dataset again')
    return meta


def codec_of_meta(meta: dict[str, Any]) -> Codec | Bpe:
    """The codec that turns text into the tokens of a dataset, and back."""
    return Bpe(meta['tokenizer']) if 'tokenizer' in meta else Codec(meta['stoi'], meta['itos'])


def read_meta(path: str | Path) -> dict[str, Any]:
    """meta.pkl -> dict of vocab_size, stoi, itos and, if it is ours, tasks; for GPT-2's tokens, of vocab_size
    and tokenizer. Never runs code from the file."""
    try:
        content = Path(path).read_bytes()
        if len(content) > LARGEST_META:
            raise UserError(f'{path} has {len(content):,} bytes, a meta.pkl at most {LARGEST_META:,}: '
                            'prepare the dataset again')
        meta = PlainUnpickler(io.BytesIO(content)).load()
    except FileNotFoundError:
        raise UserError(f'no {path}: prepare the dataset first') from None
    except (OSError, UserError):
        raise
    except Exception as error:    # a damaged pickle raises nearly anything
        raise UserError(f'{path} is no readable meta.pkl ({error}): prepare the dataset again') from error
    return check_meta(meta, path)


def find_dataset(name: str | Path) -> Path:
    """A dataset's folder: a name under data/, or a folder.
    Raises `UserError` with the command that prepares it."""
    candidates = [ROOT / 'data' / name, Path(name)]
    for folder in candidates:
        if (folder / 'train.bin').is_file():
            return folder
    for folder in candidates:
        if (folder / 'prepare.py').is_file():
            raise UserError(f'dataset {name} is not prepared: python {folder / "prepare.py"}')
    known = sorted(path.parent.name for path in (ROOT / 'data').glob('*/prepare.py'))
    raise UserError(f'no dataset {name}: expected one of {", ".join(known)}, or a folder with train.bin and '
                    'val.bin')


def read_tokens(path: Path, vocab_size: int, block_size: int) -> torch.Tensor:
    """A .bin file -> (n,) int64 tensor, at least one window long, every id within the vocabulary."""
    import torch
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f'no {path}: prepare the dataset again') from None
    if len(raw) % 2:
        raise UserError(f'{path} is cut off: {len(raw)} bytes are no whole number of uint16: prepare the '
                        'dataset again')
    tokens = np.frombuffer(raw, dtype='<u2')
    if len(tokens) <= block_size:
        raise UserError(f'{path} has {len(tokens)} tokens, too few for block_size={block_size}')
    if tokens.max() >= vocab_size:
        raise UserError(f'{path} holds token {tokens.max()} at {tokens.argmax()}, beyond the vocabulary of '
                        f'{vocab_size}: prepare the dataset again')
    return torch.from_numpy(tokens.astype(np.int64))


class Dataset:
    """name: a name under data/ or a folder. Attributes: meta, codec, tasks, train and val ((n,) int64
    tensors), digest (SHA-256 of both, as text)."""

    def __init__(self, name: str | Path, block_size: int) -> None:
        self.folder = find_dataset(name)
        self.meta = read_meta(self.folder / 'meta.pkl')
        self.codec = codec_of_meta(self.meta)
        self.tasks = tasks_from(self.meta.get('tasks', {}), self.folder / 'meta.pkl')
        self.train, self.val = (read_tokens(self.folder / f'{split}.bin', self.meta['vocab_size'], block_size)
                                for split in ('train', 'val'))
        lines = sorted(''.join(line for task in self.tasks.values() for line in task.lines()).split('\n'))
        for split, tokens in (('train', self.train), ('val', self.val)):
            if self.tasks and sorted(self.codec.decode(tokens.tolist()).split('\n')) != lines:
                raise UserError(f'{self.folder / split}.bin is cut off, damaged or of other data: its lines '
                                'are not those that meta.pkl describes: prepare the dataset again')
        self.newline = self.codec.newline
        self.stamps = self.read_stamps()
        self.digest = hashlib.sha256(self.train.numpy().tobytes() + self.val.numpy().tobytes()).hexdigest()

    def read_stamps(self) -> dict[str, tuple[int, int]]:
        """{file: (size, time of its last change)}"""
        states = {name: (self.folder / name).stat() for name in ('train.bin', 'val.bin', 'meta.pkl')}
        return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}

    def check_unchanged(self) -> None:
        """Raise `UserError` if a file has changed since it was read."""
        try:
            now = self.read_stamps()
        except FileNotFoundError as error:
            raise UserError(f'{error.filename} was removed while training: prepare it as it was, then '
                            f'--init_from=resume') from None
        for name, stamp in self.stamps.items():
            if now[name] != stamp:
                raise UserError(f'{self.folder / name} changed while training: prepare it as it was, then '
                                f'--init_from=resume continues from the last evaluation')
