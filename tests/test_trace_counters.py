"""Counts of n-grams: both engines compared with looking at every place, the index on the disk, and what
happens when it changes."""
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tbtt.trace.corpus
from tbtt.cli import UserError
from tbtt.dataset import Codec
from tbtt.trace.corpus import Corpus, read_ids, read_lines, split
from tbtt.trace.counters import SEPARATOR, NumpyCounter, sort_suffixes
from tbtt.trace.memorization import infinity_gram, overlap
from tbtt.trace.ngrams import Characters, grams

CORPORA = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=8)
GRAMS = st.lists(st.integers(0, 4), min_size=1, max_size=4)
ENGINES = ('numpy', 'infini-gram')
END = 9    # ends a document in the .bin files of these tests


class Ids:
    """A language of ids, with only what a .bin needs; each letter of a text is a token."""
    vocab_size = 1000

    def digest(self):
        return 'ids'

    def encode_all(self, texts):
        return [[ord(character) for character in text] for text in texts]


def flat(documents):
    return [token for document in documents for token in (*document, END)]


def places(documents, gram):
    """The document of each place where the n-gram occurs, found by looking at every place."""
    return [d for d, document in enumerate(documents) for i in range(len(document) - len(gram) + 1)
            if document[i:i + len(gram)] == list(gram)]


def write_bin(path, documents):
    np.array(flat(documents), '<u2').tofile(path)
    return path


def indexed(folder, documents, engine='infini-gram', **settings):
    if engine == 'infini-gram':
        pytest.importorskip('infini_gram')
    return Corpus([write_bin(folder / 'corpus.bin', documents)], Ids(), END, engine, **settings).counter()


def assert_counts(counter, documents, gram):
    expected = places(documents, gram)
    assert counter.count(tuple(gram)) == len(expected)
    assert counter.documents(tuple(gram)).tolist() == sorted(set(expected))


@given(CORPORA, GRAMS)
def test_numpy_counts_what_is_there(documents, gram):
    counter = NumpyCounter(split(flat(documents), END))
    assert_counts(counter, documents, gram)
    assert counter.num_documents == len(documents)
    assert counter.count(()) == counter.num_tokens == sum(map(len, documents)) + len(documents) + 1


@pytest.mark.slow
@pytest.mark.parametrize('engine', ENGINES)
@settings(max_examples=20, deadline=None)
@given(CORPORA, st.lists(GRAMS, min_size=10, max_size=10), st.integers(1, 30), st.integers(2, 60))
def test_any_shards_and_pieces_count_the_same(tmp_path_factory, engine, documents, asked, shard, piece):
    counter = indexed(tmp_path_factory.mktemp('index'), documents, engine, shard=shard, piece=piece)
    twin = NumpyCounter(split(flat(documents), END))
    assert (counter.num_documents, counter.num_tokens) == (len(documents), twin.num_tokens)
    for gram in asked:
        assert_counts(counter, documents, gram)
        for i in range(len(gram)):
            assert infinity_gram(counter, gram, i) == infinity_gram(twin, gram, i)


@pytest.mark.slow
@pytest.mark.parametrize('whole', [None, lambda before, after: (before == 1) | (after > 2)])
def test_many_shards_are_told_apart_and_neighbours_decide_what_counts(tmp_path, whole):
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 4, rng.integers(1, 9)).tolist() for _ in range(60)]
    counter = indexed(tmp_path, documents, shard=8, piece=16)
    assert len(counter.shards) > 11    # infini-gram takes shard 10 before shard 2
    twin = NumpyCounter(split(flat(documents), END))

    def beside(document, i):
        return (65535, *document, 65535)[i]

    for gram in [(a,) for a in range(4)] + [(a, b) for a in range(4) for b in range(4)]:
        expected = {d for d, document in enumerate(documents) for i in range(len(document) - len(gram) + 1)
                    if tuple(document[i:i + len(gram)]) == gram
                    and (whole is None or whole(beside(document, i), beside(document, i + len(gram) + 1)))}
        for each in (counter, twin):    # each counter has its own document order, the same for all n-grams
            for other in range(4):
                shared = overlap(each.documents(gram, whole), each.documents((other,)))
                assert shared == sum(other in documents[d] for d in expected)
        assert set(twin.documents(gram, whole).tolist()) == expected


def test_infini_grams_own_infinity_gram_probability_is_ours(tmp_path):
    documents = [[1, 2, 3, 1, 2], [2, 3, 3], [1, 2]]
    counter = indexed(tmp_path, documents)
    for ids in ([1, 2, 3], [1, 2, 1], [4, 2, 3], [3, 3, 3], [4, 4], [2]):
        found = counter.engine.infgram_prob(ids[:-1], ids[-1])
        assert infinity_gram(counter, ids, len(ids) - 1) == (found['cont_cnt'], found['prompt_cnt'])


@pytest.mark.parametrize('engine', ENGINES)
def test_nothing_is_found_across_the_border_of_documents(tmp_path, engine):
    counter = indexed(tmp_path, [[1, 2], [3, 1], [2]], engine)
    assert counter.count((1, 2)) == 1 and counter.count((2, 3)) == 0 and counter.count((1, 2, 3)) == 0
    assert counter.documents((1,)).tolist() == [0, 1] and counter.documents((2,)).tolist() == [0, 2]


@pytest.mark.parametrize('engine', ENGINES)
def test_empty_documents_are_none(tmp_path, engine):
    counter = indexed(tmp_path, [[], [1], [], [], [2], []], engine)
    assert counter.num_documents == 2 and counter.documents((2,)).tolist() == [1]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 70))
def test_suffixes_are_sorted_as_far_as_asked(tokens, longest):
    order = sort_suffixes(np.array(tokens, np.uint16), longest)
    sorted_suffixes = [tokens[i:i + longest] for i in order]
    assert sorted(order.tolist()) == list(range(len(tokens))) and sorted_suffixes == sorted(sorted_suffixes)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_the_overlap_of_two_sets(one, other):
    assert overlap(np.array(sorted(one), int), np.array(sorted(other), int)) == len(one & other)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), CORPORA)
def test_the_infinity_gram_has_the_longest_context_that_occurs(ids, documents):
    counter = NumpyCounter(split(flat(documents), END))
    *before, token = ids
    contexts = [before[k:] for k in range(len(before) + 1)]
    longest = next(context for context in contexts if not context or places(documents, context))
    below = len(places(documents, longest)) if longest else counter.num_tokens
    assert infinity_gram(counter, ids, len(before)) == (len(places(documents, longest + [token])), below)


def test_n_grams_of_characters_and_words():
    characters = Characters(Codec.of_text('abc'))
    assert grams('abcab', 2, characters) == {'ab': (0, 2), 'bc': (1, 3), 'ca': (2, 4)}
    assert grams('ab', 5, characters) == {'ab': (0, 2)} and grams('', 2, characters) == {}


# The index on the disk.

def test_an_index_is_used_again_and_built_anew_when_the_corpus_changes(tmp_path, monkeypatch):
    assert indexed(tmp_path, [[1, 2], [3]]).count((1,)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tbtt.trace.corpus, 'build_table', None)
        corpus = Corpus([tmp_path / 'corpus.bin'], Ids(), END, 'infini-gram')
        assert corpus.counter().count((3,)) == 1
    assert indexed(tmp_path, [[1, 2], [1, 3]]).documents((1,)).tolist() == [0, 1]
    assert len(list(tmp_path.glob('corpus.bin.ngrams_*'))) == 1


@pytest.mark.parametrize('file', ['tokenized.0', 'offset.0', 'table.0', 'index.json'])
@pytest.mark.parametrize('change', ['cut', 'bit', 'gone'])
def test_a_damaged_index_is_found(tmp_path, file, change):
    indexed(tmp_path, [[1, 2, 3, 4], [3, 5]])
    path, = tmp_path.glob(f'*/{file}')
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes({'cut': content[1:-1], 'bit': content, 'gone': b''}[change])
    if change == 'gone':
        path.unlink()
    if file == 'index.json' and change == 'gone':    # then the index is unknown and is built again
        assert indexed(tmp_path, [[1, 2, 3, 4], [3, 5]]).count((3,)) == 2
        return
    with pytest.raises(UserError, match=f'is damaged .{file}.: delete'):
        Corpus([tmp_path / 'corpus.bin'], Ids(), END, 'infini-gram')


DOCUMENTS = [[1 + (i * j) % 7 for j in range(1 + i % 5)] for i in range(40)]


def stopped(file, pieces, monkeypatch):
    """Tokenize a corpus up to this number of pieces, as a killed process leaves it: the last tokens are
    written, the manifest is not."""
    append, seen = Corpus.append, []

    def stop(self, tokens):
        append(self, tokens)
        seen.append(tokens)
        if len(seen) == pieces:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Corpus, 'append', stop)
        Corpus([file], Ids(), END, piece=8, shard=20)


@pytest.mark.parametrize('name', ['corpus.txt', 'corpus.bin'])
def test_tokenizing_goes_on_where_it_was_stopped(tmp_path, monkeypatch, name):
    file, reader = tmp_path / name, {'corpus.txt': 'read_lines', 'corpus.bin': 'read_ids'}[name]
    if name == 'corpus.bin':
        write_bin(file, DOCUMENTS)
    else:
        file.write_text('\n'.join(''.join(map(chr, (64 + token for token in document)))
                                  for document in DOCUMENTS))
    whole = Corpus([file], Ids(), END, piece=8, shard=20)
    kept = {path.name: path.read_bytes() for path in whole.folder.glob('*.[0-9]*')}
    assert len(kept) > 4
    for path in whole.folder.iterdir():
        path.unlink()
    stopped(file, 5, monkeypatch)
    read, first = getattr(tbtt.trace.corpus, reader), []
    ends = [end for tokens, end in read(file, 0, 8, Ids(), END) if tokens is not None]
    monkeypatch.setattr(tbtt.trace.corpus, reader,
                        lambda file, byte, *rest: (first.append(byte), read(file, byte, *rest))[1])
    again = Corpus([file], Ids(), END, piece=8, shard=20)
    assert {path.name: path.read_bytes() for path in again.folder.glob('*.[0-9]*')} == kept
    assert first == [ends[3]]    # the fifth piece is not in the manifest; those before it are not read again


@pytest.mark.parametrize('name', ['tokenized.0', 'offset.0', 'tokenized.1', 'offset.1'])
@pytest.mark.parametrize('change', ['cut', 'gone'])
def test_an_unfinished_index_that_lost_what_was_written_is_found(tmp_path, monkeypatch, name, change):
    file = write_bin(tmp_path / 'corpus.bin', DOCUMENTS)
    stopped(file, 8, monkeypatch)    # the first shard is full, the second is not
    path, = tmp_path.glob(f'*/{name}')
    path.write_bytes(path.read_bytes()[:6])
    if change == 'gone':
        path.unlink()
    with pytest.raises(UserError, match=f'is damaged .{name}.: delete'):
        Corpus([file], Ids(), END, piece=8, shard=20)


@pytest.mark.parametrize('manifest', ['{}', '[]', 'null', '"of"', '{"of": null, "file": 0}', '[' * 200_000])
def test_a_manifest_of_another_shape_is_a_damaged_index(tmp_path, manifest):
    file = write_bin(tmp_path / 'corpus.bin', [[1]])
    (Corpus([file], Ids(), END).folder / 'index.json').write_text(manifest)
    with pytest.raises(UserError, match='is damaged .index.json.: delete'):
        Corpus([file], Ids(), END)


def test_an_index_is_of_one_separator_and_one_tokenizer(tmp_path):
    file = write_bin(tmp_path / 'corpus.bin', [[1, 2, 3], [2, 3]])
    other = type('Others', (Ids,), {'digest': lambda self: 'other ids'})()
    corpora = Corpus([file], Ids(), END), Corpus([file], Ids(), 3), Corpus([file], other, END)
    assert len({corpus.folder for corpus in corpora}) == 3
    assert [corpus.counter().count((3,)) for corpus in corpora] == [2, 0, 2]


def test_a_change_of_the_corpus_that_keeps_its_size_is_seen(tmp_path):
    file = write_bin(tmp_path / 'corpus.bin', [[1, 2]])
    assert Corpus([file], Ids(), END).counter().count((1,)) == 1
    before = file.stat().st_mtime_ns
    os.utime(write_bin(file, [[3, 2]]), ns=(before, before + 1))    # the clock of a file system may be coarse
    assert Corpus([file], Ids(), END).counter().count((1,)) == 0


@pytest.mark.parametrize('engine', ENGINES)
def test_a_changed_byte_of_a_finished_index_is_found_by_either_engine(tmp_path, engine):
    indexed(tmp_path, [[1, 2, 3, 4], [3, 5]], engine)
    path, = tmp_path.glob('*/tokenized.0')
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match='is damaged .tokenized.0.: delete'):
        Corpus([tmp_path / 'corpus.bin'], Ids(), END, engine)


@pytest.mark.parametrize('separator, says', [(-1, 'from 0 to 65535'), (65536, 'from 0 to 65535'),
                                             (END - 65536, 'from 0 to 65535'), (7, 'holds no separator 7')])
def test_a_separator_that_ends_no_document_is_refused(tmp_path, separator, says):
    file = write_bin(tmp_path / 'corpus.bin', [[1, 2], [3]])
    with pytest.raises(UserError, match=says):
        Corpus([file], Ids(), separator)


def test_the_pieces_behind_a_long_document_are_small_again(tmp_path):
    file = write_bin(tmp_path / 'corpus.bin', [[1] * 1000] + [[2, 2, 2]] * 100)
    pieces = [len(tokens) for tokens, _ in read_ids(file, 0, 16, Ids(), END)]
    assert pieces[0] >= 1001 and sum(pieces) == 1001 + 400
    assert max(pieces[1:]) <= 8    # 16 bytes hold 8 tokens


LONG = {'blanks': 'ab cd ' * 30, 'no blank': 'abcde' * 30, 'two bytes each': 'äöü ß' * 30,
        'end': 'a' * 15 + ' '}


@pytest.mark.parametrize('suffix', ['.txt', '.jsonl'])
@pytest.mark.parametrize('text', LONG.values(), ids=LONG)
def test_a_long_line_becomes_several_documents_and_none_of_its_characters_is_lost(tmp_path, suffix, text):
    file = tmp_path / f'corpus{suffix}'
    lines = ['before', text, 'behind']
    file.write_text(''.join((json.dumps({'text': line}) if suffix == '.jsonl' else line) + '\n'
                            for line in lines))
    pieces = [tokens for tokens, _ in read_lines(file, 0, 16, Ids(), None) if tokens is not None]
    documents = ''.join(map(chr, np.concatenate(pieces))).split(chr(SEPARATOR))[:-1]
    assert max(len(document.encode()) for document in documents) <= 32 and len(documents) >= 3
    assert documents[0] == 'before' and documents[-1] == 'behind' and ''.join(documents[1:-1]) == text
    if ' ' in text:
        assert all(document.startswith(' ') for document in documents[2:-1])    # no word is cut


def test_a_long_line_is_tokenized_in_parts_with_progress(tmp_path):
    """A tokenizer needs a hundred times the size of its input in memory."""
    language, given = Ids(), []
    encode_all = language.encode_all
    language.encode_all = lambda texts: (given.append(sum(map(len, texts))), encode_all(texts))[1]
    for name, line in (('c.txt', 'ab ' * 1000), ('c.jsonl', json.dumps({'text': 'ab ' * 1000}))):
        (tmp_path / name).write_text(line)
        told = [end for _, end in read_lines(tmp_path / name, 0, 100, language, None)]
        assert max(given) <= 100 and told == sorted(told) and len(set(told)) > 20 and told[-1] == len(line)


def test_a_line_of_json_that_cannot_be_held_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tbtt.trace.corpus, 'LONGEST', 100)
    (tmp_path / 'c.jsonl').write_text(json.dumps({'text': 'a' * 100}))
    with pytest.raises(UserError, match='a line of more than 100 bytes'):
        Corpus([tmp_path / 'c.jsonl'], Ids())


@pytest.mark.parametrize('name, content',
                         [('c.txt', b''), ('c.txt', b'good\n\xff\n'), ('c.jsonl', b'{}'), ('c.bin', b'\1\0')])
def test_a_corpus_that_is_refused_leaves_nothing_behind(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        Corpus([tmp_path / name], Ids(), END, piece=4)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_whose_name_infini_gram_cannot_take(tmp_path):
    folder = tmp_path / 'table_of_metadata' / 'offset'
    folder.mkdir(parents=True)
    assert indexed(folder, [[1, 2]]).count((2,)) == 1


def test_several_files_are_one_corpus(tmp_path):
    (tmp_path / 'a.txt').write_text('AB\nBC\n')
    (tmp_path / 'b.jsonl').write_text(json.dumps({'text': 'B\nA'}) + '\n\n' + json.dumps({'text': 'C'})
                                      + '\n')
    counter = Corpus([tmp_path / 'a.txt', tmp_path / 'b.jsonl'], Ids()).counter()
    assert counter.num_documents == 4
    assert counter.documents((ord('B'),)).tolist() == [0, 1, 2]
    assert counter.documents((ord('C'),)).tolist() == [1, 3]


@pytest.mark.parametrize('name, content, says', [
    ('c.txt', b'', 'the corpus is empty'),
    ('c.txt', b'\n\n', 'the corpus is empty'),
    ('c.bin', b'', 'the corpus is empty'),
    ('c.bin', b'\x01', 'cut off'),
    ('c.bin', np.array([1, 2, 2000, END], '<u2').tobytes(),
     'token 2000 at 2, the tokenizer ends at 999: .* share'),
    ('c.txt', b'\xff\xfe', 'no UTF-8'),
    ('c.jsonl', b'{"txt": "a"}\n', 'field text'),
    ('c.jsonl', b'{"text": 1}\n', 'field text'),
    ('c.jsonl', b'plain\n', 'field text'),
    ('c.jsonl', b'{"text": "\\ud800"}\n', 'field text'),
    ('c.jsonl', b'[' * 200_000, 'field text'),
    ('c.jsonl', b'{"text": ' + b'[' * 200_000, 'field text')])
def test_a_corpus_that_cannot_be_read_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        Corpus([tmp_path / name], Ids(), END)
    assert re.search(says, str(error.value)), error.value


def test_a_corpus_that_is_not_there_or_has_no_separator_is_refused(tmp_path):
    with pytest.raises(UserError, match='no corpus'):
        Corpus([tmp_path / 'none.txt'], Ids())
    with pytest.raises(UserError, match='--separator'):
        Corpus([write_bin(tmp_path / 'c.bin', [[1]])], Ids())


def test_numpy_counts_small_corpora_unless_told(tmp_path, monkeypatch):
    write_bin(tmp_path / 'c.bin', [[1, 2]])
    assert isinstance(Corpus([tmp_path / 'c.bin'], Ids(), END).counter(), NumpyCounter)
    pytest.importorskip('infini_gram')
    monkeypatch.setattr(tbtt.trace.corpus, 'SMALL', 2)
    assert Corpus([tmp_path / 'c.bin'], Ids(), END).engine == 'infini-gram'

