"""Texts as n-grams and as tokens: characters for our models, words for the others."""
from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tbtt.cli import UserError, study_package
from tbtt.trace.counters import SEPARATOR, Whole

if TYPE_CHECKING:    # both load torch, which a script that only draws does not need
    from tbtt.dataset import Codec
    from tbtt.trace.examples import Example

Span = tuple[int, int]    # of characters: the first, and the last + 1
# A letter with the marks on it: accents, the vowels of Arabic and of Indian scripts.
LETTER = r'[\w\p{M}]'
# it's, co-operation, 3.14; the punctuation around a word is not part of it.
WORD = fr"{LETTER}+(?:['’.,-]{LETTER}+)*"


def grams(text: str, n: int, language: 'Language') -> dict[str, Span]:
    """{n-gram: its first place in the text (start, end)}. A text of fewer than n units is one n-gram. An
    n-gram of words is the text from its first to its last word, with all that is between them."""
    units = language.units(text)
    n = min(n, len(units))
    found = {}
    for i in range(len(units) - n + 1 if units else 0):
        start, end = units[i][0], units[i + n - 1][1]
        found.setdefault(text[start:end], (start, end))
    return found


def first_of_output(spans: Sequence[Span], example: Example) -> int:
    """Index of the first token that has a character of the output; the number of tokens if none has: a
    tokenizer may drop characters."""
    return next((i for i, (_, end) in enumerate(spans) if end > len(example.prompt)), len(spans))


class Characters:
    """Each character is a unit and a token. codec: as in `meta.pkl`."""
    unit = 'characters'

    def __init__(self, codec: Codec) -> None:
        self.codec, self.vocab_size = codec, max(codec.itos) + 1

    def units(self, text: str) -> list[Span]:
        """The place of each character."""
        return [(i, i + 1) for i in range(len(text))]

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """-> ids, and for each the (start, end) of its characters"""
        return self.codec.encode(text), self.units(text)

    def spellings(self, gram: str) -> list[tuple[int, ...]]:
        """The sequences of tokens that an n-gram may have in a corpus: here one."""
        return [tuple(self.codec.encode(gram))]

    def whole(self, tokens: Sequence[int]) -> Whole | None:
        """None, so all places count: an n-gram of characters is never part of a larger unit."""
        return None

    def digest(self) -> str:
        """A digest: the same for two codecs that give the same numbers to the same characters."""
        return hashlib.sha256(json.dumps(self.codec.stoi, sort_keys=True).encode()).hexdigest()


class Words:
    """Units are words. Tokens are those of a fast tokenizer of `transformers`.

    Raises `UserError` for a tokenizer that cannot say where in the text its tokens are, or that has more
    tokens than uint16 can number.
    """
    unit = 'words'

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.regex = study_package('regex')
        if not tokenizer.is_fast:
            raise UserError(f'{name}: its tokenizer has no fast version, which says where in the text a '
                            'token stands')
        if self.vocab_size >= SEPARATOR:
            raise UserError(f'{name}: a vocabulary of {self.vocab_size:,} tokens; the counters take up to '
                            f'{SEPARATOR - 1:,}, as many as uint16 holds')

    def units(self, text: str) -> list[Span]:
        """The places of the words of a text, in order."""
        return [match.span() for match in self.regex.finditer(WORD, text)]

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """-> ids, and for each the (start, end) of its characters"""
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        return encoded['input_ids'], encoded['offset_mapping']

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """-> a list of ids for each text"""
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)['input_ids']

    def spellings(self, gram: str) -> list[tuple[int, ...]]:
        """The sequences of tokens that an n-gram may have in a corpus. A word has different tokens after a
        blank than at the start of a text. If the tokenizer adds a blank at the start of a text, the word has
        different tokens again after a bracket, where no blank is added."""
        after_blank, at_start, inside, end = self.encode_all([' ' + gram, gram, '\n' + gram, '\n'])
        found = [after_blank, at_start]
        if inside[:len(end)] == end:
            found.append(inside[len(end):])
        return sorted({tuple(tokens) for tokens in found if tokens})

    def whole(self, tokens: Sequence[int]) -> Whole | None:
        """-> whole(before, after), which says whether `tokens` are whole words between these tokens: `is` is
        not a whole word in Par-is."""
        begins, ends = self.letters
        return lambda before, after: ~begins[after] & ~(ends[before] & begins[tokens[0]])

    @functools.cached_property
    def letters(self) -> np.ndarray:
        """Which tokens begin with a letter, so that they continue a word, and which end with a letter, so
        that their word may go on. -> (65536,) bool each"""
        found = np.zeros((2, 2**16), bool)
        alone, twice = (self.tokenizer.batch_decode([[i] * times for i in range(self.vocab_size)],
                                                    clean_up_tokenization_spaces=False) for times in (1, 2))
        for i, (one, two) in enumerate(zip(alone, twice)):
            # Decoded after another token, so that its blank, or its sign that it continues a word, counts.
            text = two[len(one):]
            found[:, i] = [bool(text and self.regex.match(LETTER, side)) for side in (text[:1], text[-1:])]
        return found

    def digest(self) -> str:
        """A digest of the whole tokenizer: two with the same digest make the same tokens of every text."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


Language = Characters | Words
