"""Random settings and damaged files of every kind are either loaded correctly or refused in one line.

    TBTT_CASES=2000 pytest tests/test_properties.py
"""
import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import train_with_eval
from chaos import SCRIPT, tensors
from conftest import HERE, TINY, contents, run_script
from tbtt.answers import format_answers
from tbtt.checkpoint import build_model, codec_of, read_checkpoint, unpack_optimizer
from tbtt.cli import UserError
from tbtt.config import FIELDS, load_config
from tbtt.dataset import Dataset
from tbtt.results import NEEDED_RESULTS, read_info, read_results
from tbtt.run_folder import RunFolder

CASES = int(os.environ.get('TBTT_CASES', 300))    # approximately, for all properties together
SECONDS = 10    # a case that takes longer counts as hanging


def cases(share):
    """Gives a property its share of all cases, and the same cases every time."""
    return settings(max_examples=max(5, round(share * CASES)), deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])


class Hang(BaseException):
    pass


@contextlib.contextmanager
def no_hang():
    def stop(*_):
        raise Hang
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(load, *args):
    """-> what it loads, or None if it is refused with an error that a script reports in one line. Any other
    exception fails."""
    with no_hang(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return load(*args)
        except UserError as error:
            assert str(error).strip()
        except OSError as error:
            assert error.filename is not None and error.strerror
    return None


# Settings.

EDGES = [0, 1, -1, 2**31, 2**63, -2**63, 10**400, 10**5000, 0.0, -0.0, 1e308, 5e-324, math.nan, math.inf,
         True, False, None, '', '\0', '\udcff', 'a' * 5000, '/', 'True', 'auto', 'cpu', b'', (), [], {}]
VALUES = st.one_of(st.sampled_from(EDGES), st.integers(), st.floats(), st.booleans(), st.text(max_size=20),
                   st.lists(st.integers(), max_size=2), st.complex_numbers())
NAMES = st.sampled_from(sorted(FIELDS)) | st.text(max_size=12)


def sound(config):
    """Does every value of this Config have its type, can it be written as JSON, and does check() accept
    it?"""
    json.dumps(dataclasses.asdict(config), allow_nan=False)
    return all(type(getattr(config, name)) is field.type
               for name, field in FIELDS.items()) and config.check() is config


@pytest.mark.slow
@cases(0.15)
@given(given_settings=st.dictionaries(NAMES, VALUES, max_size=4))
def test_settings_are_sound_or_refused(given_settings):
    config = attempt(load_config, [], given_settings)
    assert config is None or sound(config)
    for name, value in given_settings.items() if config else ():
        if value is not None:
            assert getattr(config, name) == value or name == 'compile' and str(value) == config.compile


WORDS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=8)
TEXTS = st.sampled_from(['0', '1', '-1', '1e400', 'nan', '1_0', ' 7', '0x10', '9' * 5000, 'True', 'true', '',
                         'auto', 'a' * 300, '\udcff'])
OPTIONS = st.sampled_from(sorted(FIELDS)) | WORDS
ARGUMENTS = st.one_of(st.builds('--{}={}'.format, OPTIONS,
                                WORDS | TEXTS | st.integers().map(str) | st.floats().map(str)),
                      OPTIONS.map('--{}'.format), WORDS, TEXTS)


def read_arguments(arguments):
    argv, sys.argv = sys.argv, [SCRIPT, *arguments]
    try:
        return train_with_eval.read_settings()
    except SystemExit as stop:
        assert stop.code == 0 and {'-h', '--help'} & set(arguments)    # the user asked for help
    finally:
        sys.argv = argv


@cases(0.15)
@given(arguments=st.lists(ARGUMENTS, max_size=4))
def test_command_lines_are_sound_or_refused(arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        config = attempt(read_arguments, arguments)
    assert config is None or sound(config)


# Files.

@st.composite
def damaged(draw, content):
    """The bytes of a file: cut off, with changed bytes, with a piece lost, doubled or blanked, or empty."""
    kind = draw(st.sampled_from(['cut', 'cut a little', 'flip', 'flip', 'flip', 'lose', 'double', 'blank',
                                 'empty']))
    place = st.integers(0, len(content) - 1)
    if kind == 'cut':
        return content[:draw(place)]
    if kind == 'cut a little':
        return content[:-draw(st.integers(1, min(16, len(content))))]
    if kind == 'flip':
        changed = bytearray(content)
        for i in draw(st.lists(place, min_size=1, max_size=4)):
            changed[i] ^= draw(st.integers(1, 255))
        return bytes(changed)
    first, length = draw(place), draw(st.integers(1, 64))
    piece = content[first:first + length]
    middle = {'lose': b'', 'double': piece * 2, 'blank': bytes(len(piece)), 'empty': b''}[kind]
    return b'' if kind == 'empty' else content[:first] + middle + content[first + length:]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A dataset and a run of three evaluations in one folder, which a property may damage."""
    root = tmp_path_factory.mktemp('whole')
    assert run_script('data/as_math/prepare.py', max_operand=4, heldout='1,3', out_dir=root / 'data') == 0
    assert run_script(SCRIPT, dataset=root / 'data', out_dir=root / 'run', **TINY) == 0
    return root


@contextlib.contextmanager
def with_damage(path, data):
    """Damage a file at random. Afterwards it is restored, and nothing else may have changed."""
    good, before = path.read_bytes(), contents(path.parents[1])
    path.write_bytes(data.draw(damaged(good)))
    before[str(path.relative_to(path.parents[1]))] = path.read_bytes()
    try:
        yield
        assert contents(path.parents[1]) == before
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize('name', ['meta.pkl', 'train.bin', 'val.bin'])
@cases(0.1)
@given(data=st.data())
def test_a_damaged_dataset_is_whole_or_refused(place, name, data):
    whole = dataset_of(place)
    with with_damage(place / 'data' / name, data):
        found = attempt(dataset_of, place)
        assert found is None or found == whole


def dataset_of(place):
    """Everything that training reads from a dataset."""
    dataset = Dataset(str(place / 'data'), 9)
    codec = sorted(dataset.codec.stoi.items()), sorted(dataset.codec.itos.items())
    tasks = {name: (task.prompts, task.answers, task.groups()) for name, task in dataset.tasks.items()}
    return repr(codec), repr(tasks), dataset.meta['vocab_size'], dataset.train.tolist(), dataset.val.tolist()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ckpt.pt', 'ckpt_best_math.pt'])
@cases(0.1)
@given(data=st.data())
def test_a_damaged_checkpoint_is_whole_or_refused(place, name, data):
    path = place / 'run' / name
    whole = checkpoint_of(path)
    with with_damage(path, data):
        found = attempt(checkpoint_of, path)
        assert found is None or found == whole


def checkpoint_of(path):
    """Everything that training, scoring and sampling read from a checkpoint."""
    checkpoint = read_checkpoint(path)
    model = build_model(checkpoint, path)
    codec, tasks = codec_of(checkpoint, path)
    mean, square, step = unpack_optimizer(model, checkpoint['optimizer'], path)
    rest = {key: value for key, value in checkpoint.items() if key not in ('model', 'optimizer')}
    return (tensors(dict(model.state_dict(), mean=mean, square=square)), step, repr(rest), repr(codec.stoi),
            list(tasks))


WRONG = st.sampled_from([None, -1, 0, 10**20, 1.5, math.nan, 'text', b'', [], {}, [[1]], {'math': 'text'},
                         {0: 0}, True, torch.zeros(3), torch.zeros(()), {'a': torch.zeros(2, 2)}])


@pytest.mark.slow
@cases(0.1)
@given(data=st.data())
def test_a_checkpoint_with_an_entry_of_another_kind_is_refused_or_does_not_matter(place, data):
    path, checkpoint = place / 'run/ckpt.pt', torch.load(place / 'run/ckpt.pt', weights_only=True)
    good, inner = path.read_bytes(), checkpoint
    while isinstance(inner, dict) and inner:
        last, key = inner, data.draw(st.sampled_from(sorted(inner, key=repr)))
        inner = inner[key]
        if data.draw(st.integers(0, 2)) == 0:
            break
    last[key] = data.draw(WRONG)
    torch.save(checkpoint, path)
    try:
        attempt(checkpoint_of, path)
        attempt(resumed, place)
    finally:
        path.write_bytes(good)


@pytest.mark.slow_after_first
@pytest.mark.parametrize('name', ['ckpt.pt', 'results.csv', 'answers.npz', 'run.json'])
@cases(0.05)
@given(data=st.data())
def test_a_run_that_was_damaged_is_whole_or_not_gone_on_with(place, name, data):
    whole = resumed(place)
    with with_damage(place / 'run' / name, data):
        found = attempt(resumed, place)
        assert found is None or found == whole


def resumed(place):
    """The state from which a resumed run goes on, without run.json's seconds, which only tell how long it
    took."""
    settings = dict(dataset=str(place / 'data'), out_dir=str(place / 'run'), init_from='resume', max_iters=40)
    config = load_config([], TINY | settings)
    with RunFolder(config, Dataset(config.dataset, config.block_size)) as folder:
        seed, = folder.seeds
        state = checkpoint_of(seed.path / 'ckpt.pt')
        assert seed.seconds + 1.0 > 0
        return (seed.iteration, seed.csv, repr(seed.best), seed.best_val_loss, seed.last_evaluated,
                seed.diverged, state, format_answers(seed.answers))


@cases(0.15)
@given(data=st.data())
def test_damaged_results_are_read_as_they_stand_or_refused(place, data):
    """A changed digit cannot be seen in a text alone, but a cut or a value that is no number can."""
    path = place / 'run/results.csv'
    with with_damage(path, data):
        found = attempt(read_results, path)
        if found is not None:
            assert path.read_bytes().endswith(b'\n')
            rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding='utf-8-sig'))) if row]
            header = [name.strip() for name in rows[0]]
            assert set(NEEDED_RESULTS) <= set(header) and len(found['iter']) == len(rows) - 1
            for name in {'iter', 'train_loss', 'val_loss', 'seen_prob'} & set(header):
                column = [row[header.index(name)].strip() for row in rows[1:]]
                np.testing.assert_array_equal(found[name], [float(text or 'nan') for text in column])


@cases(0.05)
@given(data=st.data())
def test_a_damaged_run_json_is_read_as_it_stands_or_refused(place, data):
    with with_damage(place / 'run/run.json', data):
        found = attempt(read_info, place / 'run')
        assert found is None or isinstance(found, dict)


@pytest.mark.parametrize('name', ['train_math_mini_14.py', 'train_both_mlt_wd.py'])
@cases(0.05)
@given(data=st.data())
def test_a_damaged_config_file_is_sound_or_refused(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp('config') / name
    changed = data.draw(damaged((HERE / 'config' / name).read_bytes()))
    path.write_bytes(changed)
    with contextlib.redirect_stdout(io.StringIO()):
        config = attempt(load_config, [str(path)], {})
    assert config is None or sound(config)
    assert path.read_bytes() == changed
