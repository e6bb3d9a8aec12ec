"""Where n-grams of tokens occur in a corpus: a plain counter in NumPy, and infini-gram, behind one interface.

A corpus is uint16 tokens with SEPARATOR before each document and after the last one; no token may equal it.
Both counters have
    count(gram)        how often the tokens `gram` occur; for () the number of all tokens, separators included
    documents(gram, whole)    the numbers of the documents that contain `gram`: a sorted (k,) int64 array
                       without duplicates. whole(before, after): the tokens beside k places -> (k,) bool,
                       which of these places count; None: all count
"""
import bisect
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tbtt.cli import UserError, study_package

SEPARATOR = 2**16 - 1
Whole = Callable[[np.ndarray, np.ndarray], np.ndarray]    # (k,) tokens before, (k,) after -> (k,) bool


class NumpyCounter:
    """Counts in a suffix array that NumPy sorts: for a few megabytes, and without another package."""

    def __init__(self, tokens: np.ndarray) -> None:
        """tokens: (n,) uint16, with separators"""
        ends = np.flatnonzero(tokens == SEPARATOR)
        self.document = np.cumsum(tokens == SEPARATOR) - 1    # of each token
        self.suffixes = sort_suffixes(tokens, longest=int(np.diff(ends).max()) + 1)
        self.tokens = tokens
        self.bytes = tokens.astype('>u2').tobytes()    # big-endian: bytes sort as the tokens do
        self.num_tokens, self.num_documents = len(tokens), len(ends) - 1

    def find(self, gram: Sequence[int]) -> tuple[int, int]:
        """-> first, last + 1: where the suffixes that begin with `gram` are among the sorted suffixes"""
        wanted = np.array(gram, '>u2').tobytes()

        def beginning(place: int) -> bytes:
            return self.bytes[2 * place:2 * place + len(wanted)]
        return tuple(side(self.suffixes, wanted, key=beginning)
                     for side in (bisect.bisect_left, bisect.bisect_right))

    def count(self, gram: Sequence[int]) -> int:
        """How often the tokens `gram` stand in the corpus; of () the number of all tokens."""
        first, last = self.find(gram)
        return last - first

    def documents(self, gram: Sequence[int], whole: Whole | None = None) -> np.ndarray:
        """The numbers of the documents that hold `gram`, where `whole` lets it count: sorted, (k,) int64."""
        first, last = self.find(gram)
        places = standing_alone(self.tokens, np.sort(self.suffixes[first:last]), len(gram), whole)
        return np.unique(self.document[places])


def standing_alone(tokens: np.ndarray, places: np.ndarray, length: int, whole: Whole | None) -> np.ndarray:
    """Those of the sorted `places` of an n-gram of `length` tokens that `whole` accepts by the tokens beside
    them. These tokens always exist: a separator is on either side of a document."""
    return places if whole is None else places[whole(tokens[places - 1], tokens[places + length])]


def sort_suffixes(tokens: np.ndarray, longest: int) -> np.ndarray:
    """(n,) tokens -> (n,) all places, sorted by the first `longest` tokens from each place on. By prefix
    doubling (Manber and Myers, 1990): ranks by 2k tokens follow from ranks by k."""
    n, length = len(tokens), 1
    rank = np.unique(tokens, return_inverse=True)[1]
    while length < longest and rank.max() < n - 1:
        after = np.full(n, -1)
        after[:-length] = rank[length:]
        rank = np.unique(rank * (n + 1) + after + 1, return_inverse=True)[1]
        length *= 2
    return np.argsort(rank, kind='stable')


class InfiniGramCounter:
    """Counts with the package infini-gram in an index, whose shards stay on the disk.

    folder: of `tokenized.0`, `offset.0`, `table.0`, ..., num_shards of each; `build_table` makes the tables.
    """

    def __init__(self, folder: Path, num_shards: int, vocab_size: int) -> None:
        """Raises `UserError` if the package is missing, or if infini-gram does not find all tokens."""
        InfiniGramEngine = study_package('infini_gram.engine').InfiniGramEngine
        # Its engine looks for "table", "offset", "tokenized" and "metadata" anywhere in a path, and crashes
        # on a folder with such a name. So it gets a link without these words. Once the files are mapped, the
        # link is not needed any more.
        with tempfile.TemporaryDirectory(prefix='ngrams_', dir=plain_folder()) as temporary:
            link = Path(temporary) / 'index'
            link.symlink_to(Path(folder).resolve(), target_is_directory=True)
            # Prefetching is for slow disks; without it a count takes a fifth of the time.
            self.engine = InfiniGramEngine(str(link), eos_token_id=vocab_size, vocab_size=vocab_size + 1,
                                           token_dtype='u16', ds_prefetch_depth=0, sa_prefetch_depth=0,
                                           od_prefetch_depth=0)
        # infini-gram takes the shards in the order of their file names: 10 before 2.
        self.shards = [Shard(Path(folder), k) for k in sorted(range(num_shards), key=str)]
        self.num_tokens = self.count(())
        self.num_documents = sum(shard.num_documents for shard in self.shards)
        # infini-gram silently counts a file that it cannot read as empty.
        if self.num_tokens != sum(len(shard.table) - 1 for shard in self.shards) + 1:
            raise UserError(f'{folder} is damaged: infini-gram finds {self.num_tokens} tokens in it: delete '
                            'it, and it is built anew')

    def ask(self, method: str, gram: Sequence[int]) -> dict[str, Any]:
        """Call a method of infini-gram's engine, which takes lists of Python integers, and returns errors
        instead of raising them."""
        answer = getattr(self.engine, method)([int(token) for token in gram])
        assert 'error' not in answer, f'infini-gram: {answer["error"]} for {gram}'
        return answer

    def count(self, gram: Sequence[int]) -> int:
        """How often the tokens `gram` stand in the corpus; of () the number of all tokens."""
        # The separator between two shards is in both: at the end of one, and at the beginning of the next.
        between = 0 if gram else len(self.shards) - 1
        return self.ask('count', gram)['count'] - between

    def documents(self, gram: Sequence[int], whole: Whole | None = None) -> np.ndarray:
        """The numbers of the documents that hold `gram`, where `whole` lets it count: sorted, (k,) int64."""
        # From the places of the n-gram: co-occurrences by find_cnf and count_cnf are wrong (2.6.0).
        found, before = [], 0
        for shard, (first, last) in zip(self.shards, self.ask('find', gram)['segment_by_shard']):
            found.append(shard.documents(first, last, len(gram), whole) + before)
            before += shard.num_documents
        return np.concatenate(found)


class Shard:
    """Part k of an index, memory-mapped: its tokens, its suffix array, and where its separators are."""

    def __init__(self, folder: Path, k: int) -> None:
        self.offsets = np.memmap(folder / f'offset.{k}', '<u8', 'r')    # of the separators, in bytes
        self.tokens = np.memmap(folder / f'tokenized.{k}', '<u2', 'r')
        num_bytes = 2 * len(self.tokens)
        self.table = np.memmap(folder / f'table.{k}', 'u1', 'r').reshape(-1, pointer_width(num_bytes))
        self.num_documents = len(self.offsets) - 1

    def documents(self, first: int, last: int, length: int, whole: Whole | None) -> np.ndarray:
        """The documents of the suffixes first to last - 1, which begin with an n-gram of `length` tokens:
        sorted, without duplicates."""
        pointers = np.zeros((last - first, 8), 'u1')
        pointers[:, :self.table.shape[1]] = self.table[first:last]
        places = np.sort(pointers.view('<u8')[:, 0]).astype(np.int64) // 2
        places = standing_alone(self.tokens, places, length, whole)
        found = np.searchsorted(self.offsets, 2 * places, side='right') - 1
        return found[np.diff(found, prepend=-1) > 0]


AnyCounter = NumpyCounter | InfiniGramCounter


def pointer_width(num_bytes: int) -> int:
    """Bytes of a pointer into a file of `num_bytes` bytes, as infini-gram packs pointers."""
    return math.ceil(math.log2(num_bytes) / 8)


def build_table(folder: Path, k: int) -> None:
    """Sort the suffixes of shard k, `tokenized.k`, into `table.k`, by one call of infini-gram's program. It
    takes about ten bytes of memory per byte. (infini-gram's indexing script calls the program in pieces, and
    corrupts the tables of small files.)"""
    program = Path(study_package('infini_gram').__file__).parent / 'rust_indexing'
    num_bytes = (folder / f'tokenized.{k}').stat().st_size
    with tempfile.TemporaryDirectory(prefix='parts_', dir=folder) as parts:
        command = [program, 'make-part', '--data-file', folder / f'tokenized.{k}', '--parts-dir', parts,
                   '--start-byte', 0, '--end-byte', num_bytes, '--ratio', pointer_width(num_bytes),
                   '--token-width', 2]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        made = list(Path(parts).iterdir())
        whole = num_bytes // 2 * pointer_width(num_bytes)
        if done.returncode or len(made) != 1 or made[0].stat().st_size != whole:
            raise UserError(f'infini-gram could not index {folder / f"tokenized.{k}"} '
                            f'(status {done.returncode}): '
                            f'{done.stderr.strip()[-200:] or "no table of the right size"}')
        os.replace(made[0], folder / f'table.{k}')


def plain_folder() -> str:
    """A folder for temporary files whose path does not make infini-gram crash."""
    for folder in (tempfile.gettempdir(), '/tmp'):
        if not any(word in folder for word in ('table', 'offset', 'tokenized', 'metadata')):
            return folder
    raise UserError(f'infini-gram crashes on paths such as {tempfile.gettempdir()}: '
                    'set TMPDIR to another folder')
