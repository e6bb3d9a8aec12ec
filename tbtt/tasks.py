"""The tasks: what is trained on, what is asked, how an answer is marked, what is held out, and the names in
results.

A new task is one class: derive it from `Task` and list it in `TASKS`. The columns of results.csv and
summary.csv, the tables and the figures follow from its class attributes.

`describe` turns a task into plain containers, which are stored in `meta.pkl` and in checkpoints. So the
questions of a checkpoint can be asked without any other file (`tasks_from`).
"""
import abc
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tbtt.cli import UserError
from tbtt.config import ROOT

FACTS = ROOT / 'data' / 'facts_char' / 'capitals.csv'
INTEGER = re.compile(r'-?\d+')
MAX_LINES = 10**6    # of a task: a damaged meta.pkl may name any number, and so many lines would be built


def check_repeats(repeats: Sequence[int], trained: Sequence[bool]) -> list[int]:
    """How often each prompt's line is trained on, as a list. trained: one bool per prompt, False if it is
    held out.

    Raises `UserError` unless there is a whole number for each prompt, 0 for held-out prompts, at least 1 for
    all others, and no more than `MAX_LINES` in all.
    """
    if not isinstance(repeats, (list, tuple)) or len(repeats) != len(trained):
        raise UserError(f'repeats: expected a list of {len(trained)} whole numbers, one per prompt')
    for i, (count, seen) in enumerate(zip(repeats, trained)):
        if type(count) is not int or (count < 1 if seen else count != 0):
            raise UserError(f'repeats[{i}]={count!r}: expected '
                            + ('a whole number, at least 1' if seen else '0, as its prompt is held out'))
    if sum(repeats) > MAX_LINES:
        raise UserError(f'repeats: expected at most {MAX_LINES:,} lines in all')
    return list(repeats)


def check_dealt(dealt: Sequence[int], right: Sequence[int]) -> list[int]:
    """The results dealt to the prompts, as a list. Raises `UserError` unless there is one for each prompt,
    and each is the right result of some prompt."""
    if not isinstance(dealt, (list, tuple)) or len(dealt) != len(right):
        raise UserError(f'dealt: expected a list of {len(right)} whole numbers, one per prompt')
    known = set(right)
    for i, result in enumerate(dealt):
        if type(result) is not int or result not in known:
            raise UserError(f'dealt[{i}]={result!r}: expected the right result of some prompt, a whole '
                            f'number from {min(known)} to {max(known)}')
    return list(dealt)


class Task(abc.ABC):
    """What every task has. P is the number of its prompts.

    name: in meta.pkl, run.json and summary.csv. label: in titles. max_new_tokens: sampled for an answer.
    stop: the character that ends an answer, or None. scored: the groups of prompts that make up the score;
    each prompt is in one of them. heldout_group: the group that is never trained on, or None. seen_group: the
    group of all other prompts, if there is a held-out group. probed: the groups for which results.csv has the
    exact probability of the right answer. labels: {group: its name in figures and tables}. No two tasks may
    share a name or the name of a group, because columns are named after them.

    An instance has prompts and answers, (P,) texts each, and repeats: (P,) numbers of training lines, or None
    for one line of each prompt that is not held out.
    """
    name: str
    label: str
    max_new_tokens: int
    stop: str | None = None
    scored: tuple[str, ...]
    heldout_group: str | None = None
    seen_group: str | None = None
    probed: tuple[str, ...] = ()
    labels: dict[str, str]
    prompts: list[str]
    answers: list[str]
    repeats: list[int] | None = None

    @classmethod
    def counted(cls) -> tuple[str, ...]:
        """The groups whose right answers are counted in results.csv."""
        return cls.scored if cls.heldout_group is None else (*cls.scored, cls.heldout_group)

    @classmethod
    def count_columns(cls) -> list[str]:
        """Columns of results.csv: for each group right answers and all answers; and the score in percent."""
        columns = [[f'{group}_correct', f'{group}_total'] for group in cls.counted()]
        columns.insert(len(cls.scored), [f'{cls.name}_acc'])
        return [column for group in columns for column in group]

    @classmethod
    def probability_columns(cls) -> list[str]:
        """Columns of results.csv: mean probability of the right answer over the prompts of a group."""
        return [f'{group}_prob' for group in cls.probed]

    @classmethod
    def answered_columns(cls) -> list[str]:
        """Columns of results.csv: how many held-out questions are answered, and of how many."""
        return [] if cls.heldout_group is None else [f'{cls.heldout_group}_answered',
                                                     f'{cls.heldout_group}_questions']

    def is_heldout(self, i: int) -> bool:
        """Is prompt i never trained on?"""
        return False

    @abc.abstractmethod
    def groups(self) -> dict[str, list[int]]:
        """name -> indices of the prompts that are counted together."""

    @abc.abstractmethod
    def lines(self) -> list[str]:
        """The training lines, each with its newline, held-out prompts left out."""

    @abc.abstractmethod
    def mark(self, i: int, completion: str) -> bool:
        """Is a completion of prompt i right?"""

    def describe(self) -> dict:
        """The arguments that make this task again, as plain containers."""
        return {}

    def check(self, lines: list[str]) -> None:
        """Count the training lines in a second way. Raises `AssertionError` with the numbers if they
        differ."""

    def described(self, *names: str) -> dict:
        """The optional parts of a description, such as `repeats`, without those that are None."""
        return {name: list(getattr(self, name)) for name in names if getattr(self, name) is not None}


class Arithmetic(Task):
    """Sums and differences of two operands from 0 to `max_operand`, `<a+b=c>` and `<a-b=c>`.

    heldout: pairs of operands; expressions of these two operands, in either order, are never trained on.
    repeats: number of training lines of each prompt, 0 for held-out prompts; by default 1 for all others.
    dealt: what counts as the result of each prompt, if it is not the right result (`prepare.deal`).
    Raises `UserError` if an operand is out of range, or if `repeats` or `dealt` does not fit the prompts.
    """
    name, label = 'math', 'Arithmetic'
    scored, heldout_group, seen_group, probed = ('add', 'sub'), 'heldout', 'seen', ('seen', 'heldout')
    labels = {'add': 'Addition', 'sub': 'Subtraction', 'heldout': 'Held-out', 'seen': 'Seen in training'}
    max_new_tokens = 4    # as the paper; the longest answers, 198> and -99>, just fit
    stop = None           # the first integer counts, wherever it ends

    def __init__(self, max_operand: int = 9, heldout: Iterable[Sequence[int]] = ((5, 7),),
                 repeats: Sequence[int] | None = None, dealt: Sequence[int] | None = None):
        if type(max_operand) is not int or not 1 <= max_operand <= 99:
            raise UserError(f'max_operand={max_operand!r}: expected a whole number from 1 to 99')
        self.max_operand = max_operand
        if len(heldout := list(heldout)) > (max_operand + 1)**2:
            raise UserError(f'held-out pairs: {len(heldout):,} of them, and only {(max_operand + 1)**2:,} '
                            f'pairs of operands')
        self.heldout = tuple((a, b) for a, b in heldout)
        for pair in self.heldout:
            if any(type(x) is not int or not 0 <= x <= max_operand for x in pair):
                raise UserError(f'held-out pair {pair}: expected two operands from 0 to {max_operand}')
        self.either_order = {*self.heldout, *((b, a) for a, b in self.heldout)}
        operands = range(max_operand + 1)
        self.expressions = [(a, sign, b) for sign in '+-' for a in operands for b in operands]
        self.prompts = [f'<{a}{sign}{b}=' for a, sign, b in self.expressions]
        right = [a + b if sign == '+' else a - b for a, sign, b in self.expressions]
        self.dealt = None if dealt is None else check_dealt(dealt, right)
        self.results = self.dealt or right
        # With the end `>`: a model that answers 12 has not answered 1.
        self.answers = [f'{result}>' for result in self.results]
        trained = [not self.is_heldout(i) for i in range(len(self.prompts))]
        self.repeats = None if repeats is None else check_repeats(repeats, trained)

    def is_heldout(self, i: int) -> bool:
        """Are the operands of prompt i a held-out pair, in either order?"""
        a, _, b = self.expressions[i]
        return (a, b) in self.either_order

    def groups(self) -> dict[str, list[int]]:
        """name -> indices of the prompts that are counted together."""
        every = range(len(self.prompts))
        return {'add': [i for i in every if self.expressions[i][1] == '+'],
                'sub': [i for i in every if self.expressions[i][1] == '-'],
                'heldout': [i for i in every if self.is_heldout(i)],
                'seen': [i for i in every if not self.is_heldout(i)]}

    def lines(self) -> list[str]:
        """The training lines, held-out expressions left out, padded with blanks to one length."""
        texts = [prompt + answer for prompt, answer in zip(self.prompts, self.answers)]
        width = max(map(len, texts))
        repeats = self.repeats or [int(not self.is_heldout(i)) for i in range(len(texts))]
        return [text.ljust(width) + '\n' for text, count in zip(texts, repeats) for _ in range(count)]

    def mark(self, i: int, completion: str) -> bool:
        """Is the first integer of the completion the result of prompt i?"""
        found = INTEGER.search(completion)
        return found is not None and int(found.group()) == self.results[i]

    def describe(self) -> dict:
        """The arguments that make this task again, as plain containers."""
        return {'max_operand': self.max_operand, 'heldout': [list(pair) for pair in self.heldout],
                **self.described('repeats', 'dealt')}

    def check(self, lines: list[str]) -> None:
        """Check how many different lines there are, from the numbers of operands and of held-out pairs, and
        that no line is held out."""
        heldout = {frozenset(pair) for pair in self.heldout}
        expected = 2 * (self.max_operand + 1) ** 2 - sum(2 * len(pair) for pair in heldout)
        found = len(set(lines))
        assert found == expected, f'{found} different lines of arithmetic, expected {expected}'
        leaked = [line for line in lines for a, b in self.heldout
                  for x, y in ((a, b), (b, a)) if line.startswith((f'<{x}+{y}=', f'<{x}-{y}='))]
        assert not leaked, f'held-out expressions among the lines: {leaked}'


class Capitals(Task):
    """Statements `Capital of X is Y`. facts: pairs (country, capital), by default the paper's fifty.

    repeats: number of training lines of each fact, at least 1; by default 1.
    Raises `UserError` if `repeats` does not fit the facts.
    """
    name, label = 'facts', 'Facts'
    scored, probed = ('facts',), ('facts',)
    labels = {'facts': 'Facts'}
    max_new_tokens = 20    # as the paper
    stop = '\n'

    def __init__(self, facts: Iterable[Sequence[str]] | None = None, repeats: Sequence[int] | None = None):
        facts = read_facts(FACTS) if facts is None else facts
        self.facts = [tuple(fact) for fact in facts]
        self.prompts = [f'Capital of {country} is ' for country, _ in self.facts]
        self.answers = [f'{capital} \n' for _, capital in self.facts]
        self.repeats = None if repeats is None else check_repeats(repeats, [True] * len(self.facts))

    def groups(self) -> dict[str, list[int]]:
        """name -> indices of the prompts that are counted together."""
        return {'facts': list(range(len(self.prompts)))}

    def lines(self) -> list[str]:
        """The training lines, in the order of the facts."""
        repeats = self.repeats or [1] * len(self.facts)
        return [prompt + answer for prompt, answer, count in zip(self.prompts, self.answers, repeats)
                for _ in range(count)]

    def mark(self, i: int, completion: str) -> bool:
        """Is the completion, up to the end of its line, the capital of prompt i? Case does not matter."""
        return completion.split('\n')[0].strip().lower() == self.facts[i][1].lower()

    def describe(self) -> dict:
        """The arguments that make this task again, as plain containers."""
        return {'facts': [list(fact) for fact in self.facts], **self.described('repeats')}

    def check(self, lines: list[str]) -> None:
        """Check that there is one different line per fact."""
        found, expected = len(set(lines)), len(set(self.facts))
        assert found == expected, f'{found} different lines of facts, expected {expected}'


# In the order of their columns.
TASKS: dict[str, type[Task]] = {task.name: task for task in (Arithmetic, Capitals)}


def tasks_from(descriptions: dict[str, dict], path: str | Path) -> dict[str, Task]:
    """{'math': {...}, 'facts': {...}} -> {'math': Arithmetic, 'facts': Capitals}, for the tasks described.

    Raises `UserError`, which names the file, if a description is not one of ours.
    """
    try:
        return {name: TASKS[name](**description) for name, description in descriptions.items()}
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: the description of its tasks is damaged ({error!r}): prepare the dataset '
                        f'again') from error


def read_facts(path: str | Path) -> list[tuple[str, str]]:
    """A CSV with the columns country and capital -> pairs. Raises `UserError` if a row lacks one, a country
    comes twice, or a capital is too long for an answer."""
    with open(path, newline='', encoding='utf-8-sig') as file:
        rows = list(csv.DictReader(file))
    facts = [tuple((row.get(name) or '').strip() for name in ('country', 'capital')) for row in rows]
    if not facts or not all(all(fact) for fact in facts):
        raise UserError(f'{Path(path)}: expected the columns country and capital, both filled in every row')
    countries = Counter(country for country, _ in facts)
    if twice := [country for country, count in countries.items() if count > 1]:
        raise UserError(f'{Path(path)}: {twice[0]} occurs twice: a country can have only one capital')
    if too_long := [capital for _, capital in facts if len(capital) > Capitals.max_new_tokens]:
        raise UserError(f'{Path(path)}: {too_long[0]}: an answer has at most {Capitals.max_new_tokens} '
                        'characters')
    return facts
