"""A user's text: pieces give the same tokens as the whole, nanoGPT would prepare the same data, and samples
are text."""
import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY, contents, load
from tbtt import bpe, text
from tbtt.atomic import TMP
from tbtt.cli import UserError
from tbtt.dataset import Dataset, read_meta

PREPARE = 'data/text/prepare.py'
POEM = 'Über allen Gipfeln\nist Ruh\n\nin allen   Wipfeln \t spürest du\n\n\n' * 20 + "it's 12 \U0001f600!"
END = bpe.END_OF_TEXT


def train_tokenizer(**changes):
    """A small tokenizer of GPT-2's kind, as tokenizers.Tokenizer."""
    tokenizers = pytest.importorskip('tokenizers')
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(**{'add_prefix_space': False} | changes)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False,
                                             special_tokens=[END])
    tokenizer.train_from_iterator([POEM], trainer)
    return tokenizer


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the tokenizer.json of that tokenizer."""
    folder = tmp_path_factory.mktemp('tokenizer')
    (folder / 'tokenizer.json').write_text(train_tokenizer().to_str())
    return folder


@pytest.fixture(scope='module')
def tokens(folder):
    """That tokenizer, as our code reads it."""
    return bpe.read_bpe(str(folder))


@pytest.fixture
def poem(tmp_path):
    path = tmp_path / 'poem.txt'
    path.write_text(POEM, encoding='utf-8')
    return path


def in_pieces(whole, size):
    return [whole[i:i + size] for i in range(0, len(whole), size)]


def bins(folder):
    """-> ids of train.bin and of val.bin"""
    return [np.fromfile(folder / f'{split}.bin', dtype='<u2').tolist() for split in ('train', 'val')]


# Characters.

def test_characters_are_what_nanogpt_makes_of_them(command, poem, tmp_path, monkeypatch):
    monkeypatch.setattr(text, 'PIECE', 7)    # in bytes: less than two emoji
    assert command(PREPARE, input=poem, out_dir=tmp_path / 'data').status == 0
    data = poem.read_text(encoding='utf-8')
    stoi = {character: i for i, character in enumerate(sorted(set(data)))}
    cut = int(len(data) * 0.9)
    assert bins(tmp_path / 'data') == [[stoi[c] for c in part] for part in (data[:cut], data[cut:])]
    assert pickle.loads((tmp_path / 'data/meta.pkl').read_bytes()) == {
        'vocab_size': len(stoi), 'stoi': stoi, 'itos': {i: c for c, i in stoi.items()}}


def test_files_are_joined_in_their_order(command, tmp_path):
    for name in 'abc':
        (tmp_path / name).write_text(name * 10)
    done = command(PREPARE, tmp_path / 'a', input=tmp_path / 'c', out_dir=tmp_path / 'data', val=0.25)
    codec = Dataset(tmp_path / 'data', 2).codec
    assert done.status == 0
    assert [codec.decode(ids) for ids in bins(tmp_path / 'data')] == ['c' * 10 + 'a' * 5, 'a' * 5]


def test_line_ends_become_newlines_and_a_byte_order_mark_goes(tmp_path, monkeypatch):
    (tmp_path / 'text').write_bytes(b'\xef\xbb\xbfone\r\ntwo\rthree\n')
    for size in (1, 2, 100):
        monkeypatch.setattr(text, 'PIECE', size)
        assert ''.join(text.read_pieces(tmp_path / 'text')) == 'one\ntwo\nthree\n'


@pytest.mark.parametrize('size', [1, 3, 4, 1000])
@pytest.mark.parametrize('content, place', [(b'abc\xffdef', 3), (b'\xef\xbb\xbfab\xe4', 5), (b'a' * 5, None)])
def test_what_is_no_utf8_is_refused_with_its_place(tmp_path, monkeypatch, content, place, size):
    monkeypatch.setattr(text, 'PIECE', size)
    (tmp_path / 'text').write_bytes(content)
    if place is None:
        assert ''.join(text.read_pieces(tmp_path / 'text')) == 'aaaaa'
    else:
        with pytest.raises(UserError, match=f'text is no UTF-8 at byte {place} '):
            list(text.read_pieces(tmp_path / 'text'))


def test_without_a_share_to_validate_on_the_data_are_the_same(command, poem, tmp_path):
    command(PREPARE, input=poem, out_dir=tmp_path / 'data', val=0)
    train, val = bins(tmp_path / 'data')
    assert train == val and len(train) == len(POEM)


def test_a_file_that_changes_while_it_is_read_is_refused():
    codec = text.Codec.of_text('ab')
    with pytest.raises(UserError, match='changed while it was read'):
        list(text.encode_characters(codec, ['ab', 'abc']))


@pytest.mark.parametrize('content, options, says', [
    (b'', {}, 'no text'), (b'a\xff', {}, 'no UTF-8'), (b'text', {'val': 1}, 'below 1'),
    (b'text', {'val': 0.9}, 'no text is left for train.bin'), (b'text', {'tokens': 'words'}, 'gpt2'),
    (b'text', {'vocab_size': 65536}, '65,535'), (None, {}, 'No such file'),
    (b'text', {'tokens': 'gpt2', 'tokenizer': 'gtp2'}, 'gtp2 is neither a folder'),
    (b'text', {'tokens': 'gpt2', 'tokenizer': 'gpt2'}, '--download')])
def test_what_cannot_be_prepared_is_one_line_and_writes_nothing(command, tmp_path, monkeypatch, content,
                                                                options, says):
    if 'tokens' in options:
        library = pytest.importorskip('huggingface_hub')
        monkeypatch.setattr(library, 'try_to_load_from_cache', lambda *_: None)
    path = tmp_path / 'text'
    if content is not None:
        path.write_bytes(content)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/train.bin').write_bytes(b'kept')
    result = command(PREPARE, input=path, out_dir=tmp_path / 'data', **options)
    assert result.status == 2 and says in result.err and result.err.count('\n') == 1
    assert contents(tmp_path / 'data') == {'train.bin': b'kept'}


def test_more_characters_than_ids_are_refused(command, tmp_path):
    (tmp_path / 'text').write_text(''.join(chr(i) for i in range(32, 2**16 + 2**12)
                                           if not 0xd800 <= i < 0xe000), encoding='utf-8')
    result = command(PREPARE, input=tmp_path / 'text', out_dir=tmp_path / 'data')
    assert result.status == 2 and '65,535' in result.err and result.err.count('\n') == 1
    assert not (tmp_path / 'data').exists()


# GPT-2's tokens.

@given(st.lists(st.sampled_from(['a', 'Über', "'s", "it's", ' ', '  ', '\n', '\t', '\u00a0', '\u3000', '\x1c',
                                 '12', ',', '\U0001f600', END]), max_size=12).map(''.join), st.integers(1, 5))
def test_pieces_give_the_tokens_of_the_whole(tokens, whole, size):
    assert sum(tokens.encode_pieces(in_pieces(whole, size)), []) == tokens.encode(whole)
    assert tokens.decode(tokens.encode(whole)) == whole


def test_a_large_text_is_held_in_pieces(tokens):
    longest = 0

    def pieces():
        nonlocal longest
        for piece in in_pieces(POEM * 30, 100):
            longest = max(longest, len(piece))
            yield piece

    found = list(tokens.encode_pieces(pieces()))
    assert len(found) > 300 and max(map(len, found)) <= 2 * longest


def test_gpt2s_tokens_are_those_of_its_tokenizer_and_older_files(command, poem, folder, tokens, tmp_path):
    for name in ('whole', 'old'):
        (tmp_path / name).mkdir()
    tokens.tokenizer.model.save(str(tmp_path / 'old'))
    shutil.copy(folder / 'tokenizer.json', tmp_path / 'whole')
    for name in ('whole', 'old'):
        result = command(PREPARE, input=poem, tokens='gpt2', tokenizer=tmp_path / name,
                         out_dir=tmp_path / f'data_{name}')
        assert result.status == 0, result.err
    cut = int(len(POEM) * 0.9)
    expected = [tokens.encode(part) for part in (POEM[:cut], POEM[cut:])]
    assert bins(tmp_path / 'data_whole') == bins(tmp_path / 'data_old') == expected
    assert read_meta(tmp_path / 'data_whole/meta.pkl')['vocab_size'] == 290


def test_between_two_files_stands_the_token_that_ends_a_text(command, folder, tokens, tmp_path):
    for name in 'ab':
        (tmp_path / name).write_text(name * 8)
    command(PREPARE, tmp_path / 'b', input=tmp_path / 'a', tokens='gpt2', tokenizer=folder, val=0.25,
            out_dir=tmp_path / 'data')
    train, val = bins(tmp_path / 'data')
    assert tokens.decode(train) == 'a' * 8 + END + 'bbbb' and tokens.decode(val) == 'bbbb'
    assert train.count(tokens.tokenizer.token_to_id(END)) == 1


@pytest.mark.parametrize('change, says', [
    ({'normalizer': {'type': 'Lowercase'}}, 'not GPT-2'), ({'pre_tokenizer': None}, 'not GPT-2'),
    ({'model': {'type': 'WordLevel', 'vocab': {'a': 0}, 'unk_token': 'a'}}, 'not GPT-2'),
    ({'model': {'type': 'Chess'}}, 'damaged'), (None, 'damaged')])
def test_another_tokenizer_is_refused(folder, tmp_path, change, says):
    about = json.loads((folder / 'tokenizer.json').read_text())
    (tmp_path / 'tokenizer.json').write_text('{' if change is None else json.dumps(about | change))
    with pytest.raises(UserError, match=says):
        bpe.read_bpe(str(tmp_path))


def test_a_vocabulary_that_is_too_large_for_a_bin_file_is_refused(folder, monkeypatch):
    assert bpe.LARGEST == np.iinfo(np.uint16).max
    monkeypatch.setattr(bpe, 'LARGEST', 289)
    with pytest.raises(UserError, match='a vocabulary of 290 tokens, .* room for 289'):
        bpe.read_bpe(str(folder))


def test_a_run_on_gpt2s_tokens_samples_text_by_itself(command, poem, folder, tokens, tmp_path):
    command(PREPARE, input=poem, tokens='gpt2', tokenizer=folder, out_dir=tmp_path / 'data', vocab_size=340)
    settings = TINY | dict(max_iters=2, eval_interval=2)
    assert command('train_with_eval.py', dataset=tmp_path / 'data', out_dir=tmp_path / 'run',
                   **settings).status == 0
    checkpoint = load(tmp_path / 'run/ckpt.pt')
    assert checkpoint['model_args']['vocab_size'] == 340 and checkpoint['meta']['tokenizer'] == tokens.text
    shutil.rmtree(tmp_path / 'data')
    result = command('sample.py', out_dir=tmp_path / 'run', start='Über allen', num_samples=2,
                     max_new_tokens=5)
    assert result.status == 0 and result.out.count('Über allen') == 2, result.err


def test_a_config_file_is_for_it(command, poem, tmp_path):
    command(PREPARE, input=poem, out_dir=tmp_path / 'data')
    result = command('train_with_eval.py', 'config/train_text.py', dataset=tmp_path / 'data', max_iters=0,
                     out_dir=tmp_path / 'run', device='cpu', eval_iters=1)
    assert result.status == 0, result.err
    assert not [path for path in contents(tmp_path) if path.endswith(TMP)]
