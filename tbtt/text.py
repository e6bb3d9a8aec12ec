"""Read, split, encode and write your own text in pieces, so that a file may be larger than the memory."""
import argparse
import codecs
import io
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tbtt.atomic import TMP, flush_folder, write_tmp
from tbtt.bpe import END_OF_TEXT, LARGEST, read_bpe
from tbtt.cli import Parser, UserError
from tbtt.dataset import Codec
from tbtt.prepare import add_out_dir

PIECE = 2**20           # bytes that are read at once
CODE_POINTS = 0x110000  # of Unicode


def share(text: str) -> float:
    """argparse type of --val: a number from 0 to below 1"""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'expected a number from 0 to below 1, got {text!r}')
    return value


def read_pieces(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in pieces. All line ends become newlines, as in Python's text files; a byte
    order mark is dropped. Raises `UserError` with the place of the first byte that is not UTF-8."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder('utf-8-sig')(), translate=True)
    with open(path, 'rb') as file:
        try:
            while piece := file.read(PIECE):
                yield decoder.decode(piece)
            yield decoder.decode(b'', final=True)
        except UnicodeDecodeError as error:
            place = file.tell() - len(error.object) + error.start
            raise UserError(f'{path} is no UTF-8 at byte {place:,} ({error.reason}): convert it, such as by '
                            'iconv -f latin1 -t utf-8, or name another file') from error


def survey(paths: Sequence[Path]) -> tuple[int, str]:
    """-> the number of characters in all files together, and the different characters, sorted"""
    total, seen = 0, set()
    for path in paths:
        for piece in read_pieces(path):
            total += len(piece)
            seen.update(piece)
    if not total:
        raise UserError(f'{", ".join(map(str, paths))}: there is no text in it')
    return total, ''.join(sorted(seen))


def stretch(paths: Sequence[Path], first: int, last: int, between: str) -> Iterator[str]:
    """The characters first..last-1 of all files, joined, in pieces. `between` is put between two files, and
    is not counted."""
    place = 0
    for path in paths:
        if path is not paths[0] and first <= place < last:
            yield between
        for piece in read_pieces(path):
            begin, end = max(0, first - place), last - place
            place += len(piece)
            if begin < len(piece) and end > 0:
                yield piece[begin:end]


def encode_characters(codec: Codec, pieces: Iterable[str]) -> Iterator[np.ndarray]:
    """Pieces of text -> their ids, by one look-up per piece. Raises `UserError` if a file has changed since
    its characters were counted."""
    table = np.full(CODE_POINTS, LARGEST, dtype='<u2')    # LARGEST is the id of no character
    for character, i in codec.stoi.items():
        table[ord(character)] = i
    for piece in pieces:
        ids = table[np.frombuffer(piece.encode('utf-32-le'), dtype='<u4')]
        if (ids == LARGEST).any():
            raise UserError('a file of --input changed while it was read: start again')
        yield ids


def write_tokens(path: Path, pieces: Iterable[Sequence[int] | np.ndarray]) -> int:
    """Write ids as uint16, flushed to the disk. -> how many"""
    count = 0
    with open(path, 'wb') as file:
        for piece in pieces:
            file.write(np.asarray(piece, dtype='<u2').tobytes())
            count += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return count


def prepare_text(script: str, doc: str) -> None:
    """Prepare text files from the command line of `script`."""
    parser = Parser(doc)
    parser.add_argument('--input', nargs='+', action='extend', required=True, type=Path, metavar='FILE',
                        help='text in UTF-8; several are joined in this order, those without --input last')
    parser.add_argument('more', nargs='*', type=Path, metavar='FILE', help='more of --input=FILE')
    parser.add_argument('--tokens', choices=('char', 'gpt2'), default='char',
                        help="characters, or GPT-2's byte-level BPE (default: char)")
    parser.add_argument('--val', type=share, default=0.1, metavar='SHARE',
                        help='share of the characters, from the end, to validate on; 0: validate on '
                             'the training data (default: 0.1)')
    parser.add_argument('--tokenizer', default='gpt2', metavar='FOLDER',
                        help='folder with tokenizer.json, or vocab.json and merges.txt (default: gpt2, '
                             "from this machine's Hugging Face cache)")
    parser.add_argument('--download', action='store_true', help='fetch the tokenizer if it is not here')
    parser.add_argument('--vocab_size', type=int, default=0, metavar='SIZE',
                        help="round the vocabulary up, as nanoGPT's 50304 (default: as it is)")
    add_out_dir(parser, script)
    args = parser.parse_args()
    paths = args.input + args.more
    num_characters, characters = survey(paths)
    encode, meta, between = language(args, characters)
    meta['vocab_size'] = max(meta['vocab_size'], args.vocab_size)
    if meta['vocab_size'] > LARGEST:
        raise UserError(f'a vocabulary of {meta["vocab_size"]:,} tokens, but a .bin file (uint16) has room '
                        f'for {LARGEST:,}: choose --tokens=gpt2, or less text')
    cut = int(num_characters * (1 - args.val))    # as nanoGPT cuts
    spans = {'train': (0, cut), 'val': (cut, num_characters) if args.val else (0, cut)}
    counts = write_text(Path(args.out_dir), meta, {
        split: encode(stretch(paths, *span, between)) for split, span in spans.items()})
    print(f'{args.out_dir}: {counts["train"]:,} tokens to train on, {counts["val"]:,} to validate on, '
          f'vocabulary of {meta["vocab_size"]:,}')


def language(args: argparse.Namespace, characters: str) -> tuple[Any, dict[str, Any], str]:
    """-> the function from pieces of text to ids, the content of meta.pkl, and the text between two files"""
    if args.tokens == 'char':
        codec = Codec.of_text(characters)
        meta = {'vocab_size': len(codec.stoi), 'stoi': codec.stoi, 'itos': codec.itos}
        return lambda pieces: encode_characters(codec, pieces), meta, ''
    bpe = read_bpe(args.tokenizer, args.download)
    has_end = bpe.tokenizer.token_to_id(END_OF_TEXT) is not None
    meta = {'vocab_size': bpe.tokenizer.get_vocab_size(), 'tokenizer': bpe.text}
    return bpe.encode_pieces, meta, END_OF_TEXT if has_end else ''


def write_text(folder: Path, meta: dict[str, Any], splits: dict[str, Iterable]) -> dict[str, int]:
    """Write train.bin, val.bin and meta.pkl; they get their names only when all are ready. splits: {name:
    pieces of ids} -> {name: number of ids}"""
    folder.mkdir(parents=True, exist_ok=True)
    tmp = {name: folder / f'{name}{TMP}' for name in ('train.bin', 'val.bin', 'meta.pkl')}
    try:
        counts = {split: write_tokens(tmp[f'{split}.bin'], pieces) for split, pieces in splits.items()}
        if not all(counts.values()):
            raise UserError(f'no text is left for {min(counts, key=counts.get)}.bin: choose another --val')
        write_tmp(tmp['meta.pkl'], pickle.dumps(meta), folder / 'meta.pkl')
        (folder / 'meta.pkl').unlink(missing_ok=True)    # written last: it never describes other data
        for name, path in tmp.items():
            os.replace(path, folder / name)
    finally:
        for path in tmp.values():
            path.unlink(missing_ok=True)
    flush_folder(folder)
    return counts
