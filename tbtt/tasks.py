"""The two tasks: what is trained on, what is asked, how an answer is marked, and what is held out of training.

A task is described by plain containers (`describe`), which travel in `meta.pkl` and in checkpoints, so that whoever
holds a checkpoint can ask what it was trained for (`tasks_from`).
"""
import csv
import re
from pathlib import Path

from tbtt.cli import UserError
from tbtt.config import ROOT

FACTS = ROOT / 'data' / 'facts_char' / 'capitals.csv'
INTEGER = re.compile(r'-?\d+')
MAX_LINES = 10**6    # of a task: a damaged file may name any number, and its lines are made to be compared


def check_repeats(repeats, trained):
    """How often each prompt's line is trained on, as a list. trained: one bool a prompt, False where it is held out.

    Raises `UserError` unless there is a whole number for each prompt, 0 for the held-out ones and at least 1 for all others.
    """
    if not isinstance(repeats, (list, tuple)) or len(repeats) != len(trained):
        raise UserError(f'repeats: expected a list of {len(trained)} whole numbers, one a prompt')
    for i, (count, seen) in enumerate(zip(repeats, trained)):
        if type(count) is not int or (count < 1 if seen else count != 0):
            raise UserError(f'repeats[{i}]={count!r}: expected '
                            + ('a whole number, at least 1' if seen else '0, as its prompt is held out'))
    if sum(repeats) > MAX_LINES:
        raise UserError(f'repeats: expected at most {MAX_LINES:,} lines in all')
    return list(repeats)


def described_repeats(task):
    """The part of a description that only a task with `repeats` has: without them it is what it was before they were."""
    return {} if task.repeats is None else {'repeats': list(task.repeats)}


class Arithmetic:
    """Sums and differences of two operands from 0 to `max_operand`, `<a+b=c>` and `<a-b=c>`.

    heldout: pairs of operands; every expression with just these two operands, in either order, is never trained on.
    repeats: how many training lines each of the prompts has, 0 for the held-out ones; where not given, all others have one.
    Raises `UserError` where an operand is out of range or `repeats` does not fit the prompts.
    """
    name = 'math'
    max_new_tokens = 4    # as the paper; the longest answers, 198> and -99>, just fit
    stop = None           # the first integer counts, wherever it ends

    def __init__(self, max_operand=9, heldout=((5, 7),), repeats=None):
        if type(max_operand) is not int or not 1 <= max_operand <= 99:
            raise UserError(f'max_operand={max_operand!r}: expected a whole number from 1 to 99')
        self.max_operand = max_operand
        self.heldout = tuple((a, b) for a, b in heldout)
        for pair in self.heldout:
            if any(type(x) is not int or not 0 <= x <= max_operand for x in pair):
                raise UserError(f'held-out pair {pair}: expected two operands from 0 to {max_operand}')
        operands = range(max_operand + 1)
        self.expressions = [(a, sign, b) for sign in '+-' for a in operands for b in operands]
        self.prompts = [f'<{a}{sign}{b}=' for a, sign, b in self.expressions]
        self.results = [a + b if sign == '+' else a - b for a, sign, b in self.expressions]
        self.answers = [f'{result}>' for result in self.results]    # with its end: 1 is no answer where 12 is right
        trained = [not self.is_heldout(i) for i in range(len(self.prompts))]
        self.repeats = None if repeats is None else check_repeats(repeats, trained)

    def is_heldout(self, i):
        a, _, b = self.expressions[i]
        return (a, b) in self.heldout or (b, a) in self.heldout

    def groups(self):
        """name -> indices of the prompts that are counted together."""
        every = range(len(self.prompts))
        return {'add': [i for i in every if self.expressions[i][1] == '+'],
                'sub': [i for i in every if self.expressions[i][1] == '-'],
                'heldout': [i for i in every if self.is_heldout(i)],
                'seen': [i for i in every if not self.is_heldout(i)]}

    def lines(self):
        """The training lines, held-out expressions left out, padded with blanks to one length."""
        texts = [prompt + answer for prompt, answer in zip(self.prompts, self.answers)]
        width = max(map(len, texts))
        repeats = self.repeats or [int(not self.is_heldout(i)) for i in range(len(texts))]
        return [text.ljust(width) + '\n' for text, count in zip(texts, repeats) for _ in range(count)]

    def mark(self, i, completion):
        """Is the first integer of the completion the result of prompt i?"""
        found = INTEGER.search(completion)
        return found is not None and int(found.group()) == self.results[i]

    def describe(self):
        return {'max_operand': self.max_operand, 'heldout': [list(pair) for pair in self.heldout], **described_repeats(self)}


class Capitals:
    """Statements `Capital of X is Y`. facts: pairs (country, capital); the paper's fifty where not given.

    repeats: how many training lines each of the facts has, at least one; where not given, one.
    Raises `UserError` where `repeats` does not fit the facts.
    """
    name = 'facts'
    max_new_tokens = 20    # as the paper
    stop = '\n'

    def __init__(self, facts=None, repeats=None):
        facts = read_facts(FACTS) if facts is None else facts
        self.facts = [tuple(fact) for fact in facts]
        self.prompts = [f'Capital of {country} is ' for country, _ in self.facts]
        self.answers = [f'{capital} \n' for _, capital in self.facts]
        self.repeats = None if repeats is None else check_repeats(repeats, [True] * len(self.facts))

    def groups(self):
        """name -> indices of the prompts that are counted together."""
        return {'facts': list(range(len(self.prompts)))}

    def lines(self):
        repeats = self.repeats or [1] * len(self.facts)
        return [prompt + answer for prompt, answer, count in zip(self.prompts, self.answers, repeats) for _ in range(count)]

    def mark(self, i, completion):
        """Is the completion, up to the end of its line, the capital of prompt i? Case does not matter."""
        return completion.split('\n')[0].strip().lower() == self.facts[i][1].lower()

    def describe(self):
        return {'facts': [list(fact) for fact in self.facts], **described_repeats(self)}


KINDS = {task.name: task for task in (Arithmetic, Capitals)}


def tasks_from(descriptions, path):
    """{'math': {...}, 'facts': {...}} -> {'math': Arithmetic, 'facts': Capitals}, those that are described.

    Raises `UserError` naming the file they come from where a description is not one of ours.
    """
    try:
        return {name: KINDS[name](**description) for name, description in descriptions.items()}
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: the description of its tasks is damaged ({error!r}): prepare the dataset again') from error


def read_facts(path):
    """A CSV with the columns country and capital -> pairs. Raises `UserError` where a row lacks one."""
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    if not rows or not all(row.get('country') and row.get('capital') for row in rows):
        raise UserError(f'{Path(path)}: expected the columns country and capital, both filled in every row')
    return [(row['country'], row['capital']) for row in rows]
