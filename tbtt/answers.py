"""answers.npz: for every evaluation, the probability of each right answer and what the model answers.

A zip of NumPy's arrays, which `numpy.load` opens too. With E evaluations, a vocabulary of V characters, and P
prompts for each TASK:

    iter                 (E,) int64       iterations, ascending
    characters           (V,) text        the character of each token
    TASK_prompts         (P,) text        `<7-5=`
    TASK_answers         (P,) text        the right answers with their end, `2>`
    TASK_heldout         (P,) bool        never trained on?
    TASK_probability     (E, P) float32   of the right answer with its end: each character given those before
                                          it, at temperature 1; NaN where the loss is not finite
    TASK_said            (E, P, L) uint8  L tokens, each the most probable after those before it. A task that
                                          stops at a character repeats it up to L; other tasks go on after
                                          the end of an answer. uint16 if V is above 256

Nothing is compressed or dated: equal arrays give equal bytes.
"""
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tbtt.archive import check_archive
from tbtt.cli import UserError
from tbtt.config import MOST_STEPS
from tbtt.tasks import Task

PARTS = ('prompts', 'answers', 'heldout', 'probability', 'said')
ADVICE = 'delete it to continue without its content, or train the run again'

Arrays = dict[str, np.ndarray]    # the file's arrays, by name


class Given(NamedTuple):
    """One replica's answers to the P prompts of a task at one evaluation. See the file's arrays."""
    probability: np.ndarray    # (P,)
    said: np.ndarray           # (P, L)


@dataclass
class TaskAnswers:
    """The answers to the P prompts of a task at E evaluations. `answers` and `said` are as they are marked:
    without the character that ends an answer and without blanks around it, such as `2` or `Paris`."""
    prompts: list[str]
    answers: list[str]
    heldout: np.ndarray        # (P,) bool
    probability: np.ndarray    # (E, P) float32, of the right answer and its end
    said: np.ndarray           # (E, P) text, the most probable answer

    @property
    def right(self) -> np.ndarray:
        """Is the most probable answer right? Upper and lower case count as the same, as in the scores. (E, P)
        bool"""
        return np.char.lower(self.said) == np.char.lower(self.answers)


@dataclass
class Answers:
    """A seed's answers in the course of its training. tasks: by the names in `tbtt/tasks.py`."""
    iters: np.ndarray    # (E,) int64
    tasks: dict[str, TaskAnswers]


# Writing.

def no_answers(tasks: dict[str, Task], itos: dict[int, str]) -> Arrays:
    """The arrays of a run before its first evaluation. itos: {token: character}"""
    V = len(itos)
    token = np.uint8 if V <= 256 else np.uint16
    arrays = {'iter': np.empty(0, np.int64), 'characters': np.array([itos[i] for i in range(V)])}
    for name, task in tasks.items():
        P = len(task.prompts)
        parts = (np.array(task.prompts), np.array(task.answers), np.array([*map(task.is_heldout, range(P))]),
                 np.empty((0, P), np.float32), np.empty((0, P, task.max_new_tokens), token))
        arrays |= {f'{name}_{part}': array for part, array in zip(PARTS, parts)}
    return arrays


def append_answers(arrays: Arrays, iteration: int, given: dict[str, Given]) -> Arrays:
    """The arrays with one more evaluation. given: {task: the answers to it}"""
    new = {'iter': iteration}
    for name, found in given.items():
        new |= {f'{name}_probability': found.probability, f'{name}_said': found.said}
    return arrays | {name: np.append(arrays[name], np.array(value, arrays[name].dtype)[None], axis=0)
                     for name, value in new.items()}


def grows(name: str) -> bool:
    """Does an evaluation add to the array of this name?"""
    return name == 'iter' or name.endswith(('_probability', '_said'))


def format_answers(arrays: Arrays) -> bytes:
    """The content of the file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f'{name}.npy'), member.getvalue())    # without a date: 1980
    return content.getvalue()


# Reading.

def read_answers(path: str | Path) -> Answers:
    """A seed's answers in the course of its training, from its answers.npz.

    Runs no code from the file, and takes no more memory than a few times its size. Raises `UserError` for a
    file that is missing, damaged, or not written by a training.
    """
    arrays = read_arrays(path)
    return Answers(arrays['iter'], {name: decoded(arrays, name) for name in task_names(arrays)})


def decoded(arrays: Arrays, name: str) -> TaskAnswers:
    """The answers to one task."""
    prompts, answers, heldout, probability, said = (arrays[f'{name}_{part}'] for part in PARTS)
    ends = {answer[-1] for answer in answers.tolist()}
    end = ends.pop() if len(ends) == 1 else ''
    characters = arrays['characters'][said]
    characters[np.logical_or.accumulate(characters == end, axis=-1)] = ''
    text = characters.view(f'<U{said.shape[-1]}')[..., 0]
    distinct, which = np.unique(text, return_inverse=True)    # few of the answers are distinct
    stripped = np.array([word.strip() for word in distinct.tolist()])
    return TaskAnswers(prompts.tolist(), [answer.removesuffix(end).strip() for answer in answers.tolist()],
                       heldout, probability, stripped[which].reshape(text.shape))


def read_arrays(path: str | Path) -> Arrays:
    """The arrays of the file, checked. Raises `UserError` as `read_answers` does."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f'no {path}: train the run again, with keep_answers=True') from None
    try:
        check_archive(content, path, 'a training', ADVICE)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {name.removesuffix('.npy'): array_of(archive.read(name)) for name in archive.namelist()}
        check_arrays(arrays)
    except UserError:
        raise
    except Exception as error:    # a damaged archive raises nearly anything
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        raise UserError(f'{path} is damaged or no answers.npz ({reason}): {ADVICE}') from error
    return arrays


def resume_answers(path: str | Path, fresh: Arrays, iteration: int) -> Arrays:
    """The arrays of the file up to an iteration, to continue from. fresh: the arrays of a run before its
    first evaluation. Raises `UserError` if the file is damaged or holds answers to other questions."""
    arrays = read_arrays(path)
    keep = np.searchsorted(arrays['iter'], iteration, side='right')
    for name, array in fresh.items():
        found = arrays.get(name, array)
        same = found.shape[1:] == array.shape[1:] if grows(name) else np.array_equal(found, array)
        if not same or arrays.keys() != fresh.keys():
            raise UserError(f'{path} holds answers to other questions ({name}): {ADVICE}')
    return {name: array[:keep] if grows(name) else array for name, array in arrays.items()}


def array_of(content: bytes) -> np.ndarray:
    """An array in NumPy's format. Its size is that of the content, whatever its header claims. Raises
    ValueError if the two differ, and for objects, because loading them runs code."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError('an array of another version of the format')
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or fortran_order or min(shape, default=0) < 0:
        raise ValueError(f'an array {shape} of {dtype}')
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def task_names(arrays: Arrays) -> list[str]:
    """The names of the tasks whose prompts are among the arrays."""
    return [name.removesuffix('_prompts') for name in arrays if name.endswith('_prompts')]


def check_arrays(arrays: Arrays) -> None:
    """Raise ValueError unless these are the arrays that the docstring of this module describes."""
    names = task_names(arrays)
    needed = {'iter', 'characters', *(f'{name}_{part}' for name in names for part in PARTS)}
    if not names or arrays.keys() != needed:
        raise ValueError(f'its arrays are {", ".join(arrays)}')
    iters, V = arrays['iter'], len(arrays['characters'])
    E = len(iters)
    check_array('iter', iters, 'i8', (E,))
    if (np.diff(iters) <= 0).any() or not 0 <= iters[0] <= iters[-1] <= MOST_STEPS:
        raise ValueError('iter is not ascending')
    check_text('characters', arrays['characters'], V)
    for name in names:
        prompts, answers, heldout, probability, said = (arrays[f'{name}_{part}'] for part in PARTS)
        P = len(prompts)
        check_text(f'{name}_prompts', prompts, P)
        check_text(f'{name}_answers', answers, P)
        check_array(f'{name}_heldout', heldout, '?', (P,))
        check_array(f'{name}_probability', probability, 'f4', (E, P))
        check_array(f'{name}_said', said, 'u1' if V <= 256 else 'u2', (E, P, *said.shape[2:3]))
        if heldout.view(np.uint8).max() > 1:
            raise ValueError(f'{name}_heldout is neither True nor False')
        if not ((probability >= 0) & (probability <= 1) | np.isnan(probability)).all():
            raise ValueError(f'{name}_probability is not within 0 and 1')
        if said.max() >= V:
            raise ValueError(f'{name}_said has a token beyond the {V} characters')


def check_text(name: str, array: np.ndarray, length: int) -> None:
    """Raise ValueError unless an array holds `length` texts, none of them empty."""
    check_array(name, array, f'U{array.dtype.itemsize // 4}', (length,))
    if '' in array:
        raise ValueError(f'{name} has an empty text')
    ''.join(array.tolist()).encode()    # raises ValueError for numbers that are not characters


def check_array(name: str, array: np.ndarray, dtype: str, shape: tuple) -> None:
    """Raise ValueError unless an array has this type and shape."""
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(f'{name} is {array.shape} of {array.dtype}, expected {shape} of {np.dtype(dtype)}')
