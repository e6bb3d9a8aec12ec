"""Turn the files of a corpus into what the counters read: tokens with separators between the documents.

The files are text (a line is a document), JSONL (the field `text` of a line is a document) or uint16 tokens
(.bin, a separator ends a document). The index is in a folder beside the first file: `tokenized.0`, `offset.0`
and, for infini-gram, `table.0`; beyond SHARD tokens also `tokenized.1`, ... To build it, only one piece of
the text is in memory at a time and, while infini-gram sorts it, one shard.
"""
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from tqdm import tqdm

from tbtt.atomic import write_file
from tbtt.cli import UserError, study_package
from tbtt.trace.counters import SEPARATOR, InfiniGramCounter, NumpyCounter, build_table
from tbtt.trace.ngrams import Words

Piece = tuple[np.ndarray | None, int]
SHARD = 2**26         # tokens, in half a gigabyte of index; sorting them takes two gigabytes
PIECE = 2**21         # bytes of a corpus that are tokenized at once; a longer line becomes several documents
LONGEST = 2**27       # bytes of a line of JSONL, which cannot be read in parts
SMALL = 2**21         # up to so many tokens NumPy counts, if no engine is named
ENGINES = ('auto', 'numpy', 'infini-gram')
MANIFEST = 'index.json'
JSON = ('.jsonl', '.json')
KEYS = {'of', 'file', 'byte', 'shards', 'digests'}    # keys of the manifest


def split(ids: np.ndarray, separator: int) -> np.ndarray:
    """A dataset's token ids, where the id `separator` ends a document -> the uint16 tokens of its documents,
    as the counters take them."""
    tokens = np.asarray(ids, np.uint16).copy()
    tokens[tokens == separator] = SEPARATOR
    return without_empty(np.concatenate([[SEPARATOR], tokens, [SEPARATOR]]).astype(np.uint16), before=0)


def without_empty(tokens: np.ndarray, before: int) -> np.ndarray:
    """Leave out empty documents: separators that follow a separator. before: the token before the first."""
    empty = (tokens == SEPARATOR) & (np.append(before, tokens[:-1]) == SEPARATOR)
    return tokens[~empty]


class Corpus:
    """The index of a corpus on the disk; the constructor builds it or brings it up to date.

    files: paths of the corpus. language: the `Words` that makes its tokens. separator: the id that ends a
    document in a .bin. Raises `UserError` for files that cannot be read, are empty, or hold ids that the
    tokenizer lacks, and for an index that is not as it was written.
    """

    def __init__(self, files: Iterable[str | Path], language: Words, separator: int | None = None,
                 engine: str = 'auto', shard: int = SHARD, piece: int = PIECE) -> None:
        self.files, self.language, self.separator = [Path(file) for file in files], language, separator
        self.engine, self.shard, self.piece = engine, shard, piece
        for file in self.files:
            if not file.is_file():
                raise UserError(f'no corpus {file}: --corpus takes text, JSONL or uint16 .bin files')
            if file.suffix == '.bin' and separator is None:
                raise UserError(f'{file}: name the token that ends a document with --separator=ID')
        if separator is not None and not 0 <= separator <= SEPARATOR:
            raise UserError(f'--separator={separator}: expected a uint16, from 0 to {SEPARATOR}')
        names = json.dumps([[str(file.resolve()) for file in self.files], language.digest(), separator])
        first = self.files[0]
        self.folder = first.parent / f'{first.name}.ngrams_{hashlib.sha256(names.encode()).hexdigest()[:8]}'
        self.folder.mkdir(exist_ok=True)
        with filelock.FileLock(self.folder / '.lock'):    # a second process waits, and finds all work done
            self.build()

    def stamps(self) -> list[list[str | int]]:
        """[path, bytes, time of the last change] of each file of the corpus, to see if one has changed."""
        return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in self.files]

    def build(self) -> None:
        """Start the index or go on with it, as far as the engine needs it."""
        self.manifest = self.read_manifest()
        if self.manifest['of'] != self.stamps():
            for path in self.folder.iterdir():
                if path.name != '.lock':
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.manifest = {'of': self.stamps(), 'file': 0, 'byte': 0, 'shards': [], 'digests': {}}
        self.check_files()
        try:
            if self.manifest['file'] < len(self.files):
                self.tokenize()
            if self.num_tokens == len(self.manifest['shards']):    # only the first separator of each
                raise UserError(f'{self.files[0]}: no document in it: the corpus is empty')
        except UserError:    # the files must change, and then the index is built anew
            shutil.rmtree(self.folder)
            raise
        if self.engine == 'auto':
            self.engine = 'numpy' if self.num_tokens <= SMALL else 'infini-gram'
        if self.engine == 'infini-gram':
            study_package('infini_gram')    # raises before the work, not after it
            for leftover in self.folder.glob('parts_*'):    # from a process that was killed
                shutil.rmtree(leftover)
            for k in range(len(self.manifest['shards'])):
                if f'table.{k}' not in self.manifest['digests']:
                    build_table(self.folder, k)
                    self.record()

    @property
    def num_tokens(self) -> int:
        """Tokens on the disk, separators included."""
        return sum(tokens for tokens, _ in self.manifest['shards'])

    def read_manifest(self) -> dict[str, Any]:
        """What index.json says; {'of': None} if there is none. Raises `UserError` if it is damaged."""
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_bytes()) if path.exists() else {'of': None}
        except (ValueError, RecursionError) as error:
            raise self.damaged(MANIFEST) from error
        if not isinstance(manifest, dict) or not (KEYS <= manifest.keys() or manifest == {'of': None}):
            raise self.damaged(MANIFEST)
        return manifest

    def damaged(self, name: str) -> UserError:
        """The error to raise if that file of the index is not as it was written."""
        return UserError(f'the index {self.folder} is damaged ({name}): delete the folder, and it is built '
                         'anew')

    def check_files(self) -> None:
        """Raise `UserError` if a finished file is not as it was written, or an unfinished file is shorter."""
        for k, counts in enumerate(self.manifest['shards']):
            for name, written in ((f'tokenized.{k}', 2 * counts[0]), (f'offset.{k}', 8 * counts[1])):
                path = self.folder / name
                if not path.is_file() or path.stat().st_size < written:
                    raise self.damaged(name)
        for name, digest in self.manifest['digests'].items():
            path = self.folder / name
            if not path.is_file() or file_digest(path) != digest:
                raise self.damaged(name)

    def record(self) -> None:
        """Write the manifest; once all files are tokenized, with the digests of the index's files."""
        finished = self.manifest['file'] == len(self.files)
        for path in self.folder.glob('*.[0-9]*'):
            if finished and path.name not in self.manifest['digests']:
                self.manifest['digests'][path.name] = file_digest(path)
        write_file(self.folder / MANIFEST, json.dumps(self.manifest).encode())

    def tokenize(self) -> None:
        """Append the documents of the files to the shards, piece by piece, from where the manifest says."""
        sizes = [file.stat().st_size for file in self.files]
        at, byte = self.manifest['file'], self.manifest['byte']
        with tqdm(total=sum(sizes), initial=sum(sizes[:at]) + byte, unit='B', unit_scale=True,
                  desc='tokenizing', dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
            while at < len(self.files):
                pieces = read_ids if self.files[at].suffix == '.bin' else read_lines
                told = byte
                for tokens, end in pieces(self.files[at], byte, self.piece, self.language, self.separator):
                    bar.update(end - told)
                    told = end
                    if tokens is not None:
                        self.append(tokens)
                        self.manifest['byte'] = end
                        write_file(self.folder / MANIFEST, json.dumps(self.manifest).encode())
                at, byte = at + 1, 0
                self.manifest |= {'file': at, 'byte': byte}
        self.record()

    def append(self, tokens: np.ndarray) -> None:
        """Add documents, each with its separator at the end, to the last shard; a full one begins another."""
        shards = self.manifest['shards']
        if not shards or shards[-1][0] >= self.shard:
            tokens = np.append(np.uint16(SEPARATOR), tokens)
            shards.append([0, 0])
        tokens = without_empty(tokens, before=SEPARATOR if shards[-1][0] else 0)
        offsets = 2 * (shards[-1][0] + np.flatnonzero(tokens == SEPARATOR).astype('<u8'))
        parts = (('tokenized', tokens.astype('<u2'), 2), ('offset', offsets, 8))
        for i, (name, values, size) in enumerate(parts):
            path = self.folder / f'{name}.{len(shards) - 1}'
            written = shards[-1][i] * size
            with open(path, 'r+b' if path.exists() else 'wb') as file:
                file.truncate(written)    # bytes that were written after the last manifest do not count
                file.seek(0, os.SEEK_END)
                file.write(values.tobytes())
                file.flush()
                os.fsync(file.fileno())
            shards[-1][i] += len(values)

    def counter(self) -> NumpyCounter | InfiniGramCounter:
        """The counter of this corpus, by its engine."""
        if self.engine == 'infini-gram':
            return InfiniGramCounter(self.folder, len(self.manifest['shards']), self.language.vocab_size)
        shards = [np.fromfile(self.folder / f'tokenized.{k}', '<u2')
                  for k in range(len(self.manifest['shards']))]
        return NumpyCounter(without_empty(np.concatenate(shards), before=0))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def read_lines(file: Path, byte: int, piece: int, language: Words, separator: int | None) -> Iterator[Piece]:
    """Documents of a text or JSONL file from a byte on. Yields (uint16 tokens of some documents, each with a
    separator at its end, the byte after them). In between yields (None, a byte) to show progress while
    nothing is complete.

    Text that is tokenized at once takes a hundred times its size in memory. So a document of more than
    `piece` bytes (JSONL: characters) becomes several.
    """
    with open(file, 'rb') as lines:
        lines.seek(byte)
        while some := next_lines(lines, piece, whole=file.suffix in JSON):
            texts = [part for line in some for part in cut(document(line, file), piece) if part]
            tokens, start, end = [np.zeros(0, np.uint16)], byte, lines.tell()
            for batch in batches(texts, piece):
                tokens += [np.array([*ids, SEPARATOR], np.uint16) for ids in language.encode_all(batch)]
                yield None, start + (end - start) * len(tokens) // (len(texts) + 2)
            byte = end
            yield np.concatenate(tokens), byte


def next_lines(lines: BinaryIO, piece: int, whole: bool) -> list[bytes]:
    """Lines of about `piece` bytes together, from the current place of a file on. Of a longer line only that
    much is read, unless lines have to be `whole`. Raises `UserError` if a whole line is too long."""
    some, size, longest = [], 0, LONGEST if whole else piece
    while size < piece and (line := lines.readline(longest)):
        if len(line) == longest and not line.endswith(b'\n') and lines.peek(1):
            if whole:
                raise UserError(f'{lines.name}: a line of more than {LONGEST:,} bytes: make several '
                                'documents of it')
            line = line[:place_to_cut(line)]
            lines.seek(len(line) - longest, os.SEEK_CUR)
        some.append(line)
        size += len(line)
    return some


def place_to_cut(text: bytes | str) -> int:
    """Where to cut a text so that the rest becomes another document: before its last blank, else between its
    last characters."""
    blank, end = (b' ', len(text) - 1) if isinstance(text, bytes) else (' ', len(text))
    while isinstance(text, bytes) and end > 1 and text[end] & 0xC0 == 0x80:    # inside a character of UTF-8
        end -= 1
    return max(text.rfind(blank), 0) or end


def cut(text: str, size: int) -> Iterator[str]:
    """Cut a text into parts of at most `size` characters."""
    while len(text) > size:
        end = place_to_cut(text[:size])
        yield text[:end]
        text = text[end:]
    yield text


def batches(texts: list[str], size: int) -> Iterator[list[str]]:
    """Groups of consecutive texts with at most `size` characters together; a longer text is alone."""
    batch, total = [], 0
    for text in texts:
        if batch and total + len(text) > size:
            yield batch
            batch, total = [], 0
        batch.append(text)
        total += len(text)
    if batch:
        yield batch


def document(line: bytes, file: Path) -> str:
    """The text of a line, '' if it is blank. Raises `UserError` if the line cannot be read."""
    try:
        text = line.decode().strip('\r\n').removeprefix('\ufeff')
        if file.suffix not in JSON or not text.strip():
            return text
        text = json.loads(text)['text']
        if not isinstance(text, str):
            raise TypeError('text is no string')
        text.encode()    # JSON can hold half characters, which no encoding has
        return text
    except UnicodeDecodeError as error:    # a ValueError too
        raise UserError(f'{file} is no UTF-8 text ({error.reason} in {line[:40]!r})') from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{file}: expected a JSON object with the field text in each line, got '
                        f'{line[:80]!r}') from error


def read_ids(file: Path, byte: int, piece: int, language: Words, separator: int) -> Iterator[Piece]:
    """The same as `read_lines` for uint16 tokens, where the id `separator` ends a document."""
    if file.stat().st_size % 2:
        raise UserError(f'{file} is cut off: {file.stat().st_size} bytes are no whole number of uint16')
    if not file.stat().st_size:
        return
    ids = np.memmap(file, '<u2', 'r')
    if not any((ids[i:i + piece] == separator).any() for i in range(0, len(ids), piece)):
        raise UserError(f'{file} holds no separator {separator}: the whole file would count as one '
                        'document')
    start, size = byte // 2, piece // 2
    while start < len(ids):
        some = np.array(ids[start:start + size])
        ends = np.flatnonzero(some == separator)
        if start + size < len(ids):
            if not len(ends):    # a document longer than a piece
                size *= 2
                continue
            some = some[:ends[-1] + 1]
        wrong = (some >= language.vocab_size) & (some != separator)
        if wrong.any():
            raise UserError(f'{file} holds token {some[wrong.argmax()]} at {start + wrong.argmax()}, the '
                            f'tokenizer ends at {language.vocab_size - 1}: corpus and model do not share a '
                            'tokenizer')
        start, size = start + len(some), piece // 2
        some[some == separator] = SEPARATOR
        yield (some if some[-1] == SEPARATOR else np.append(some, np.uint16(SEPARATOR))), 2 * start
