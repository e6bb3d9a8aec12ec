"""What is traced: the models, their training corpora with examples, and how well the two agree."""
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tbtt.cli import UserError
from tbtt.dataset import Dataset
from tbtt.inference import Trained, find_checkpoints
from tbtt.trace.corpus import Corpus, split
from tbtt.trace.counters import AnyCounter, NumpyCounter
from tbtt.trace.examples import Example, read_examples, task_examples
from tbtt.trace.memorization import (
    DATA_MODELS,
    DRAWS,
    FEWEST,
    LEVEL,
    ZERO,
    Point,
    Similar,
    Statistics,
    correlate,
)
from tbtt.trace.models import OurModel, TransformersModel
from tbtt.trace.ngrams import Characters, Language, Words
from tbtt.trace.similarity import Similarity

RULES = {
    'points': 'one for each example and distinct n-gram of its output, at its first place there; the model '
              'is asked for the tokens of that n-gram, behind the prompt and what comes before it in the '
              'output',
    'task_gram': 'mean over the n-grams of the input of log(documents with both / documents with that of the '
                 'input)',
    'infinity_gram': 'log of the product, over the tokens of the n-gram, of occurrences after the longest '
                     'context that occurs / occurrences of that context',
    'zeros': f'a numerator of 0 counts as {ZERO}; n-grams of the input that do not occur in the corpus '
             'are left out of the mean',
    'coefficients': "Spearman's rho, Kendall's tau-b and distributional generalization, (1 - tau) / 2: "
                    'means over the seeds; '
                    f'intervals hold {LEVEL}% of the bootstrap samples of the examples: {DRAWS} samples, or '
                    f'the number given if there are many points; p-values are scipy\'s and assume that '
                    f'points are independent; not computed for fewer than {FEWEST} points',
    'words': 'an n-gram of words stands where no letter is directly before or after it: not within another '
             'word'}


class Row(NamedTuple):
    """A `Point` (tbtt/trace/memorization.py) of one seed of a model, as a row of trace.csv. The
    log-probabilities are natural logarithms."""
    model: str
    parameters: int
    seed: int | None    # a model of transformers has none
    task: str
    n: int
    example: int
    gram: str
    task_gram_logp: float
    infinity_gram_logp: float
    model_logp: float
    pairs: int
    zero_pairs: int
    zero_tokens: int
    documents: int


class Source:
    """The training data of a model with its examples, and the points for each n: computed once for all models
    that share them."""

    def __init__(self, counter: AnyCounter, language: Language, examples: list[Example],
                 about: dict[str, Any], lengths: Sequence[int], similar: Similar | None) -> None:
        self.about = about | {'tokens': counter.num_tokens, 'documents': counter.num_documents,
                              'unit': language.unit}
        self.tasks = defaultdict(list)
        for example in examples:
            self.tasks[example.task].append(example)
        self.points = {}    # (task, n) -> points by example, and what was left out
        for task, some in self.tasks.items():
            statistics = Statistics(counter, language, some, similar)
            self.points |= {(task, n): statistics.points(n) for n in lengths}


def our_source(trained: Trained, args: Namespace, similar: Similar | None) -> Source:
    """The source for a checkpoint: its dataset. Raises `UserError` if the dataset is missing, or is not what
    the checkpoint was trained on."""
    dataset = Dataset(args.dataset or str(trained.trained_on), trained.config.block_size)
    if trained.digest not in (None, dataset.digest) or dataset.codec.stoi != trained.codec.stoi:
        raise UserError(f'{trained.path} was trained on other data than {dataset.folder} now holds: prepare '
                        'them as they were, or name their folder with --dataset')
    if '\n' not in dataset.codec.stoi or not dataset.tasks:
        raise UserError(f'{dataset.folder} has no tasks whose answers could be traced: prepare one of ours')
    language, file = Characters(dataset.codec), dataset.folder / 'train.bin'
    examples = task_examples(dataset.tasks)
    newline = dataset.codec.stoi['\n']
    if args.engine == 'infini-gram':
        return indexed_source([file], newline, language, examples, args, similar)
    counter = NumpyCounter(split(dataset.train.numpy(), newline))    # small: it needs no index on the disk
    return Source(counter, language, examples, {'files': [str(file)], 'engine': 'numpy'}, args.n, similar)


def corpus_source(language: Words, args: Namespace, similar: Similar | None) -> Source:
    """The source of the corpus and the examples that the user names, in the tokens of `language`."""
    examples = read_examples(args.examples, args.task, args.template)    # before the long work on the corpus
    return indexed_source(args.corpus, args.separator, language, examples, args, similar)


def indexed_source(files: Sequence[str | Path], separator: int | None, language: Language,
                   examples: list[Example], args: Namespace, similar: Similar | None) -> Source:
    """The source of examples and of a corpus with an index on the disk, which is built if it is missing."""
    corpus = Corpus(files, language, separator, args.engine)
    about = {'files': [str(file) for file in corpus.files], 'engine': corpus.engine,
             'index': str(corpus.folder)}
    return Source(corpus.counter(), language, examples, about, args.n, similar)


def load_models(args: Namespace) -> Iterator[tuple[str, list[OurModel] | list[TransformersModel]]]:
    """Yields (name, list of its models: one for each seed)"""
    for folder in args.out_dir:
        yield folder, [OurModel(seed / args.ckpt, folder, args.device, args.dataset)
                       for seed in find_checkpoints(folder, args.ckpt)]
    for name in args.model:
        yield name, [TransformersModel(name, args.device, args.download)]


def trace(args: Namespace) -> tuple[list[dict[str, Any]], list[Row]]:
    """-> [what trace.json says about a model], [`Row`]"""
    similar = None
    if args.embedding_model:
        similar = Similarity(args.embedding_model, args.threshold, args.device, args.download)
    sources, models, rows = {}, [], []
    for name, seeds in load_models(args):
        language = seeds[0].language
        key = (seeds[0].trained.trained_on, seeds[0].trained.digest) if args.out_dir else language.digest()
        if any(seed.trained.digest != key[1] for seed in seeds[1:]):
            raise UserError(f'{name}: its seeds were trained on different data')
        if key not in sources:
            sources[key] = (our_source(seeds[0].trained, args, similar) if args.out_dir
                            else corpus_source(language, args, similar))
        models.append({'model': str(name), 'parameters': seeds[0].parameters,
                       'seeds': [seed.seed for seed in seeds], 'corpus': sources[key].about,
                       'tasks': defaultdict(dict)})
        for task, examples in sources[key].tasks.items():
            log_p = [seed.log_probabilities(examples) for seed in seeds]
            for n in args.n:
                points, left_out = sources[key].points[task, n]
                flat = [point for each in points for point in each]
                by_model = np.array([[each[p.example][p.first:p.last].sum() for p in flat] for each in log_p])
                models[-1]['tasks'][task][n] = coefficients(flat, by_model, left_out, args.seed)
                rows += [Row(str(name), seeds[0].parameters, seed.seed, task, n, p.example, p.gram,
                             p.task_gram, p.infinity_gram, value, p.pairs, p.zero_pairs, p.zero_tokens,
                             p.documents)
                         for seed, values in zip(seeds, by_model.tolist()) for p, value in zip(flat, values)]
    return models, rows


def coefficients(points: list[Point], by_model: np.ndarray, left_out: dict[str, int],
                 seed: int) -> dict[str, Any]:
    """What trace.json says about one model, task and n. by_model: (seeds, points)"""
    example = np.array([point.example for point in points], int)
    found = {'points': len(points), 'examples': len(set(example.tolist())), 'left_out': left_out,
             'points_with_zeros': {'task_gram': sum(point.zero_pairs > 0 for point in points),
                                   'infinity_gram': sum(point.zero_tokens > 0 for point in points)}}
    return found | {kind: correlate(np.array([getattr(point, kind) for point in points]), by_model, example,
                                    seed) for kind in DATA_MODELS}
