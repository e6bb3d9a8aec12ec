"""answers.npz: what a run answered at each evaluation, its bytes, and what is refused; checkpoints that are
kept."""
import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from conftest import LEARNS, TINY, contents, load
from tbtt.answers import (
    Given,
    TaskAnswers,
    append_answers,
    format_answers,
    no_answers,
    read_answers,
    read_arrays,
    resume_answers,
)
from tbtt.baseline import NanoGPT
from tbtt.cli import UserError
from tbtt.dataset import Dataset
from tbtt.layout import kept_checkpoints
from tbtt.results import read_results
from tbtt.tasks import Arithmetic, Capitals

SCRIPT = 'train_with_eval.py'


@pytest.fixture
def run(command, small_math, tmp_path):
    """run(folder, **settings): a tiny run, to its end. -> its folder"""
    def to_its_end(name, **settings):
        settings = TINY | dict(dataset=small_math, out_dir=tmp_path / name) | settings
        result = command(SCRIPT, **settings)
        assert result.status == 0, result.err
        return tmp_path / name
    return to_its_end


@pytest.fixture(scope='module')
def answers(learned):
    """The answers of the run in `learned`."""
    return read_answers(learned / 'answers.npz')


@pytest.fixture(scope='module')
def model(learned, small_math):
    """The last model of that run, computed as nanoGPT does, and its codec."""
    checkpoint = load(learned / 'ckpt.pt')
    model = NanoGPT(**checkpoint['model_args'], mlp_expansion=4).eval()
    model.load_state_dict(checkpoint['model'])
    return model, Dataset(small_math, 8).codec


# The content of answers.npz.

def test_the_answers_are_those_of_every_evaluation_and_prompt(learned, answers):
    assert answers.iters.tolist() == read_results(learned / 'results.csv')['iter'].tolist()
    task, = answers.tasks.values()
    assert list(answers.tasks) == ['math'] and task.prompts == Arithmetic(4, heldout=[(1, 3)]).prompts
    right = {f'<{a}{sign}{b}=': str(a + b if sign == '+' else a - b)
             for a in range(5) for b in range(5) for sign in '+-'}
    assert dict(zip(task.prompts, task.answers)) == right
    heldout = {prompt for prompt, held in zip(task.prompts, task.heldout) if held}
    assert heldout == {'<1+3=', '<3+1=', '<1-3=', '<3-1='}
    assert task.probability.shape == task.said.shape == (7, 50) and task.probability.dtype == np.float32


def test_the_probabilities_are_those_of_the_results(learned, answers):
    results, task = read_results(learned / 'results.csv'), answers.tasks['math']
    for column, members in (('seen_prob', ~task.heldout), ('heldout_prob', task.heldout)):
        np.testing.assert_allclose(task.probability[:, members].mean(1), results[column], rtol=1e-5)


@torch.no_grad()
def test_the_probability_of_an_answer_is_the_product_of_softmaxes_over_its_characters(model, answers):
    model, codec = model
    task = answers.tasks['math']
    for prompt, answer, found in zip(task.prompts, task.answers, task.probability[-1]):
        product = 1.0
        for k, character in enumerate(answer + '>'):
            text = codec.encode((prompt + (answer + '>')[:k])[-8:])
            product *= model(torch.tensor([text]))[0, -1].softmax(0)[codec.stoi[character]].item()
        assert found == pytest.approx(product, rel=1e-4)


@torch.no_grad()
def test_what_is_said_is_the_most_probable_character_each_time_up_to_the_end(model, answers):
    model, codec = model
    task, said = answers.tasks['math'], []
    for prompt in task.prompts:
        text = prompt
        for _ in range(4):
            text += codec.itos[model(torch.tensor([codec.encode(text[-8:])]))[0, -1].argmax().item()]
        said.append(text[len(prompt):].split('>')[0].strip())
    assert task.said[-1].tolist() == said
    assert 25 < sum(said[i] == task.answers[i] for i in range(50)) < 50 and len(set(task.said[0])) < 10


def test_upper_and_lower_case_are_the_same_answer():
    said = np.array([['paris', 'Rome'], ['Paris', 'Pari']])
    facts = TaskAnswers(['Capital of France is '] * 2, ['Paris'] * 2, np.zeros(2, bool), np.ones((2, 2)),
                        said)
    assert facts.right.tolist() == [[True, False], [True, False]]


def test_a_fact_ends_with_its_line(facts_data):
    task, codec = facts_data.tasks['facts'], facts_data.codec
    paris, stop = codec.encode('Paris \n'), codec.stoi['\n']
    tokens = np.array([paris + [stop] * 13] * 49 + [codec.encode('Paris Paris Paris Pa')])
    given = {'facts': Given(np.ones(50), tokens)}
    arrays = append_answers(no_answers({'facts': task}, codec.itos), 250, given)
    found = read(format_answers(arrays)).tasks['facts']
    assert found.said[0].tolist() == ['Paris'] * 49 + ['Paris Paris Paris Pa']
    assert 'Paris' in found.answers and not found.heldout.any()


def read(content):
    """`read_answers` of these bytes."""
    class InMemory:
        def read_bytes(self):
            return content
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('tbtt.answers.Path', lambda path: InMemory())
        return read_answers('answers.npz')


def test_numpy_opens_the_file_without_running_code(learned, answers):
    with np.load(learned / 'answers.npz', allow_pickle=False) as file:
        assert np.array_equal(file['math_probability'], answers.tasks['math'].probability)
        assert file['math_prompts'].tolist() == answers.tasks['math'].prompts


def test_a_whole_run_of_both_tasks_takes_less_than_a_megabyte(both_codec):
    tasks = {'math': Arithmetic(), 'facts': Capitals()}
    given = {name: Given(np.ones(len(task.prompts)), np.zeros((len(task.prompts), task.max_new_tokens)))
             for name, task in tasks.items()}
    arrays = no_answers(tasks, both_codec.itos)
    for iteration in range(0, 30_001, 250):
        arrays = append_answers(arrays, iteration, given)
    assert len(arrays['iter']) == 121 and len(format_answers(arrays)) < 400_000


def test_the_same_answers_are_the_same_bytes_whatever_the_time(monkeypatch, learned):
    arrays = read_arrays(learned / 'answers.npz')
    monkeypatch.setattr('time.time', lambda: 2e9)
    assert format_answers(arrays) == (learned / 'answers.npz').read_bytes()


# In a run.

@pytest.mark.slow
def test_without_keep_answers_there_are_none_and_all_else_is_the_same(run):
    kept, none = run('kept'), run('none', keep_answers=False)
    assert set(contents(kept)) - set(contents(none)) == {'answers.npz'}
    assert (kept / 'results.csv').read_bytes() == (none / 'results.csv').read_bytes()


@pytest.mark.slow
def test_a_run_that_has_no_answers_goes_on_with_those_to_come(run):
    whole, folder = run('whole', max_iters=40), run('part', keep_answers=False)
    run('part', init_from='resume', max_iters=40)
    found, expected = (read_answers(path / 'answers.npz') for path in (folder, whole))
    assert found.iters.tolist() == [30, 40] and expected.iters.tolist() == [0, 10, 20, 30, 40]
    assert np.array_equal(found.tasks['math'].probability, expected.tasks['math'].probability[3:])
    assert (folder / 'results.csv').read_bytes() == (whole / 'results.csv').read_bytes()


@pytest.mark.slow
def test_seeds_together_keep_what_each_keeps_alone(run):
    together, alone = run('many', num_seeds=2, seed=7), run('one', seed=8)
    found, expected = (read_answers(folder / 'answers.npz') for folder in (together / 'seed_8', alone))
    assert np.array_equal(found.tasks['math'].said, expected.tasks['math'].said)
    np.testing.assert_allclose(found.tasks['math'].probability, expected.tasks['math'].probability, atol=1e-5)


@pytest.mark.slow
def test_overwriting_begins_the_answers_anew_and_leaves_no_kept_checkpoint(run):
    folder = run('a', keep_checkpoints=10)
    run('a', overwrite=True, max_iters=10)
    assert read_answers(folder / 'answers.npz').iters.tolist() == [0, 10] and not kept_checkpoints(folder)


# Bad files.

def changed(arrays, **new):
    return format_answers({**arrays, **{name: np.asarray(value) for name, value in new.items()}})


def claimed(arrays, shape):
    """A file whose probabilities claim a shape that they do not have."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
    content.write(arrays['math_probability'].tobytes())
    return zipped({**{name: npy(array) for name, array in arrays.items()},
                   'math_probability': content.getvalue()})


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def zipped(members, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', compression) as archive:
        for name, member in members.items():
            archive.writestr(f'{name}.npy', member)
    return content.getvalue()


def without(arrays, name):
    return format_answers({other: array for other, array in arrays.items() if other != name})


def twice_as_large(arrays):
    """The directory of the zip says that a member is larger than the file."""
    content = bytearray(format_answers(arrays))
    at = content.rindex(b'PK\1\2')
    content[at + 20:at + 28] = struct.pack('<2L', 2**31, 2**31)
    return bytes(content)


def bad(probability):
    return lambda a: changed(a, math_probability=np.full_like(a['math_probability'], probability))


BAD = {
    'empty': lambda a: b'',
    'no zip': lambda a: b'iter,add_correct\n0,1\n',
    'cut off': lambda a: format_answers(a)[:-30],
    'another byte': lambda a: format_answers(a).replace(a['math_said'].tobytes()[:99], bytes(99)),
    'a compressed bomb': lambda a: zipped({'iter': npy(np.zeros(10**7))}, zipfile.ZIP_DEFLATED),
    'larger than the file': twice_as_large,
    'no array': lambda a: zipped({'iter': b'x' * 100}),
    'a header that is code': lambda a: zipped({'iter': npy(a['iter']).replace(b"'<i8'", b'exit()')}),
    'objects': lambda a: zipped({'iter': npy(np.array([{}], object))}),
    'another file of NumPy': lambda a: zipped({'x': npy(np.ones(3))}),
    'a huge shape': lambda a: claimed(a, (10**15, 50)),
    'an endless shape': lambda a: claimed(a, (10**30,)),
    'no shape': lambda a: claimed(a, (-1, 50)),
    'no iterations': lambda a: without(a, 'iter'),
    'no answers': lambda a: without(a, 'math_said'),
    'iterations that descend': lambda a: changed(a, iter=a['iter'][::-1].copy()),
    'an iteration below 0': lambda a: changed(a, iter=a['iter'] - 1),
    'one evaluation less': lambda a: changed(a, iter=a['iter'][1:]),
    'doubles': lambda a: changed(a, math_probability=a['math_probability'].astype(float)),
    'probabilities above 1': bad(1.5),
    'infinite probabilities': bad(np.inf),
    'tokens beyond the vocabulary': lambda a: changed(a, math_said=np.full_like(a['math_said'], 200)),
    'tokens of another kind': lambda a: changed(a, math_said=a['math_said'].astype(np.int64)),
    'prompts that are numbers': lambda a: changed(a, math_prompts=np.arange(50)),
    'prompts that are no text': lambda a: changed(a, math_prompts=np.full(50, 2**31, np.uint32).view('<U1')),
    'an empty answer': lambda a: changed(a, math_answers=np.array([''] * 50)),
    'a held-out that is neither': lambda a: changed(a, math_heldout=np.full(50, 7, np.uint8).view(bool)),
}


@pytest.mark.parametrize('damage', BAD.values(), ids=BAD)
def test_a_damaged_file_is_one_line(damage, learned, tmp_path):
    path = tmp_path / 'answers.npz'
    path.write_bytes(damage(read_arrays(learned / 'answers.npz')))
    with warnings.catch_warnings(), pytest.raises(UserError) as error:
        warnings.simplefilter('error')
        read_answers(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 400


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match='keep_answers'):
        read_answers(tmp_path / 'answers.npz')


def test_a_loss_that_is_not_finite_is_no_damage(learned):
    arrays = read_arrays(learned / 'answers.npz')
    found = read(changed(arrays, math_probability=np.full_like(arrays['math_probability'], np.nan)))
    assert np.isnan(found.tasks['math'].probability).all()


@pytest.mark.parametrize('damage', ['no zip', 'another byte', 'another file of NumPy'])
def test_a_run_does_not_go_on_over_damaged_answers(command, small_math, copy_of_learned, damage):
    path = copy_of_learned / 'answers.npz'
    path.write_bytes(BAD[damage](read_arrays(path)))
    before = contents(copy_of_learned)
    settings = LEARNS | dict(dataset=small_math, out_dir=copy_of_learned, init_from='resume', max_iters=350)
    result = command(SCRIPT, **settings)
    assert result.status == 2 and str(path) in result.err and result.err.count('\n') == 1
    assert contents(copy_of_learned) == before


def test_answers_to_other_questions_are_not_gone_on_with(learned, tmp_path):
    fresh = no_answers({'math': Arithmetic(4, heldout=[(1, 2)])}, dict(enumerate(
        read_arrays(learned / 'answers.npz')['characters'].tolist())))
    with pytest.raises(UserError, match='other questions'):
        resume_answers(learned / 'answers.npz', fresh, 300)


# Kept checkpoints.

@pytest.mark.slow
def test_the_checkpoint_of_each_multiple_is_kept_and_can_be_sampled(command, run):
    folder = run('a', keep_checkpoints=20, max_iters=50)
    assert list(kept_checkpoints(folder)) == [0, 20, 40]
    assert [load(path)['iter_num'] for path in kept_checkpoints(folder).values()] == [0, 20, 40]
    assert kept_checkpoints(folder)[40].name == 'ckpt_40.pt'
    shorter = run('b', max_iters=20, keep_checkpoints=20)
    assert (shorter / 'ckpt_20.pt').read_bytes() == (shorter / 'ckpt.pt').read_bytes()
    result = command('sample.py', out_dir=folder, ckpt='ckpt_20.pt', num_samples=1, start='<1+1=')
    assert result.status == 0 and '<1+1=' in result.out


def test_checkpoints_are_kept_of_evaluations(command, small_math, tmp_path):
    result = command(SCRIPT, **TINY | dict(dataset=small_math, out_dir=tmp_path / 'a', keep_checkpoints=15))
    assert result.status == 2 and 'keep_checkpoints=15' in result.err and result.err.count('\n') == 1
    assert not (tmp_path / 'a').exists()
