"""GPT-2's tokens: its byte-level BPE, through the package `tokenizers`, from local files."""
import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tbtt import hub
from tbtt.cli import UserError, study_package

END_OF_TEXT = '<|endoftext|>'    # the token that GPT-2 has between documents
LARGEST = 2**16 - 1              # the most tokens that a vocabulary may have
# A text may be cut here: GPT-2 begins a new token at a blank or line end after what is not white space.
CUT = re.compile(r'.*\S(?=[ \n])', re.DOTALL)


class Bpe:
    """Text to GPT-2's tokens and back. text: the content of a tokenizer.json, which is stored with the data
    and the checkpoints. The package is imported only to convert text, so training does not need it."""
    newline = None    # no token marks each line's end: GPT-2 makes one token of two newlines

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def tokenizer(self) -> Any:
        """tokenizers.Tokenizer. Raises `UserError` if the package is missing or the text is damaged."""
        tokenizers = study_package('tokenizers')
        try:
            return tokenizers.Tokenizer.from_str(self.text)
        except Exception as error:    # the package raises no more specific class
            raise UserError(f'its tokenizer is damaged ({str(error)[:150]}): prepare the dataset '
                            'again') from error

    @functools.cached_property
    def stoi(self) -> dict[str, int]:
        """The tokens that are a single character: {character: id}"""
        texts = {i: self.tokenizer.decode([i]) for i in range(self.tokenizer.get_vocab_size())}
        return {text: i for i, text in texts.items() if len(text) == 1 and text != '\ufffd'}

    def encode(self, text: str) -> list[int]:
        """text -> ids. `<|endoftext|>` becomes the token of that name, not its letters."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """ids -> text. A part of a character, or an id without a token, becomes U+FFFD."""
        known = self.tokenizer.get_vocab_size()
        runs, text = [[]], ''
        for i in map(int, ids):
            runs[-1].append(i) if i < known else runs.extend([None, []])
        for run in runs:
            text += '\ufffd' if run is None else self.tokenizer.decode(run, skip_special_tokens=False)
        return text

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """A text in pieces -> its ids in pieces, the same as those of the whole text. A text without a blank
        or a line end is held in memory as a whole."""
        rest = ''
        for piece in pieces:
            rest += piece
            if cut := CUT.match(rest):
                yield self.encode(rest[:cut.end()])
                rest = rest[cut.end():]
        yield self.encode(rest)


def read_bpe(name: str, download: bool = False) -> Bpe:
    """GPT-2's tokenizer. name: a folder with tokenizer.json, or with vocab.json and merges.txt; or a name of
    `hub.GPT2`, from the local Hugging Face cache or, with `download`, from the hub.

    Raises `UserError` if there is no tokenizer, if it is of another kind, or if its vocabulary is too large.
    """
    if (path := hub.find(name, 'tokenizer.json', download)) is not None:
        bpe = Bpe(hub.read_text(path))
    else:
        bpe = Bpe(from_vocabulary(*(hub.get(name, file, download) for file in ('vocab.json', 'merges.txt'))))
    check_kind(bpe, name)
    size = bpe.tokenizer.get_vocab_size()
    if size > LARGEST:
        raise UserError(f'{name}: a vocabulary of {size:,} tokens, but a .bin file (uint16) has room for '
                        f'{LARGEST:,}: choose another tokenizer')
    return bpe


def from_vocabulary(vocab: Path, merges: Path) -> str:
    """vocab.json and merges.txt, GPT-2's original files -> the content of a tokenizer.json"""
    tokenizers = study_package('tokenizers')
    try:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:    # the package raises no more specific class
        raise UserError(f'{vocab} and {merges.name} are no vocabulary of BPE ({str(error)[:150]})') from error
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT] if tokenizer.token_to_id(END_OF_TEXT) is not None else [])
    return tokenizer.to_str()


def check_kind(bpe: Bpe, name: str) -> None:
    """Raise `UserError` if this is not GPT-2's kind of tokenizer: its tokens could depend on where a text is
    cut. Else switch truncation and padding off."""
    about = bpe.tokenizer and json.loads(bpe.tokenizer.to_str())
    before = about['pre_tokenizer'] or {}
    kind = [about['model']['type'], before.get('type'), before.get('add_prefix_space'),
            before.get('use_regex', True), about['normalizer']]
    if kind != ['BPE', 'ByteLevel', False, True, None]:
        raise UserError(f"{name}: its tokenizer is not GPT-2's byte-level BPE (model {kind[0]}, cut up by "
                        f'{kind[1]}): choose one that is')
    bpe.tokenizer.no_truncation()
    bpe.tokenizer.no_padding()
    bpe.text = bpe.tokenizer.to_str()
