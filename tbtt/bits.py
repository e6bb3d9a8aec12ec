"""How many bits a model has memorised, how many a dataset offers, and how many the paper's tasks ask for."""
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tbtt.dataset import Dataset
from tbtt.tasks import Arithmetic, Capitals


class Questions(NamedTuple):
    """Prompts that were trained on, the answers dealt to them at random, and the bits of each answer in a
    code that knows how often each answer occurs, but not which prompt has it."""
    prompts: list[str]
    answers: list[str]
    bits: list[float]


def questions_of(dataset: Dataset) -> Questions:
    """What there is to memorise in a `Dataset`: the answers of its first task, or without a task all but the
    first character of each line. In the second case a line is a string of equally likely characters, as in
    data/random_strings.
    """
    for task in dataset.tasks.values():
        seen = [i for i in range(len(task.prompts)) if not task.is_heldout(i)]
        answers = [task.answers[i] for i in seen]
        return Questions([task.prompts[i] for i in seen], answers, surprises(answers))
    lines = dataset.codec.decode(dataset.train.tolist()).splitlines(keepends=True)
    alphabet, drawn = dataset.meta['vocab_size'] - 1, len(lines[0]) - 2    # not the first, not the newline
    return Questions([line[0] for line in lines], [line[1:] for line in lines],
                     [drawn * math.log2(alphabet)] * len(lines))


def memorised_bits(log2_p: np.ndarray, bits: Sequence[float]) -> np.ndarray:
    """Sum over answers of max(0, bits + log2 p): how many bits the model saves on each answer, compared with
    a code made for how often each answer occurs. After Morris et al. 2025 (arXiv 2505.24832), one answer at a
    time. A code of equal lengths knows less. Compared with it, all that a model has learned about frequencies
    would count too, and the more questions there are, the more it would count.

    log2_p: (..., P) log2 probabilities of the right answers. bits: (P,), of `Questions`. -> (...)
    """
    return np.maximum(0.0, np.asarray(bits) + log2_p).sum(-1)


def offered_bits(questions: Questions) -> float:
    """The memorised bits of a perfect table, which knows each prompt's answers and how often each occurs."""
    pairs, prompts = Counter(zip(questions.prompts, questions.answers)), Counter(questions.prompts)
    log2_p = [math.log2(pairs[pair] / prompts[pair[0]]) for pair in zip(questions.prompts, questions.answers)]
    return float(memorised_bits(np.array(log2_p), questions.bits))


def surprises(symbols: Sequence) -> list[float]:
    """Bits of each symbol, in a code made for the frequencies of these symbols."""
    counts = Counter(symbols)
    return [-math.log2(counts[symbol] / len(symbols)) for symbol in symbols]


def entropy_bits(symbols: Sequence) -> float:
    """Bits of all symbols together, in a code made for the frequencies of these symbols."""
    return sum(surprises(symbols))


def order_bits(num_lines: int) -> float:
    """Bits of one order of n = `num_lines` different lines: log2 n!"""
    return math.lgamma(num_lines + 1) / math.log(2)


def bits_of_the_papers_tasks() -> dict[str, float]:
    """Bits to memorise in the paper's data, by name. Results are coded by how often each occurs in its
    operation. Names of capitals are coded by the frequencies of their characters alone; rules of spelling
    would shorten that code."""
    arithmetic, facts = Arithmetic(), Capitals()
    groups = arithmetic.groups()
    results = [[arithmetic.results[i] for i in groups['seen'] if i in groups[sign]]
               for sign in ('add', 'sub')]
    names = ''.join(f'{capital}\n' for _, capital in facts.facts)
    return {'arithmetic: table of results': sum(map(entropy_bits, results)),
            'arithmetic: order of the lines': order_bits(len(arithmetic.lines())),
            'facts: which capital is whose': order_bits(len(facts.facts)),
            'facts: names of the capitals': entropy_bits(names)}
