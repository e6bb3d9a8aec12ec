"""Measure how a model of arithmetic computes its answers: `measure` returns all numbers of a checkpoint.
docs/inspect.md explains each number.

P questions such as `<5+7=` are asked as in an evaluation, each alone at the start of a window. An answer is
predicted from the position of `=` on. Everything is exact or greedy, in float64: nothing is sampled.
"""
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from tbtt.cli import UserError
from tbtt.evaluate import AnswerWindows, Forward
from tbtt.generate import generate
from tbtt.inference import Trained
from tbtt.parts import attention_weights, mean_inputs, parts_of, read_out, replaced, streams
from tbtt.tasks import INTEGER, Arithmetic

PENALTY = 1e-3         # of the ridge regression, in units of the mean variance of a feature
DRAWS = 20             # random shufflings of the labels, and as many random renamings of the digits
MOST_CONTEXTS = 30     # previous lines after which every question is asked, at most
MOST_TOKENS = 2**20    # in one forward pass
ROLES = ('<', 'first operand', 'sign', 'second operand', '=')    # of the characters of a question

Score = dict[str, dict[str, float]]    # {seen or heldout: {'right': ..., 'probability': ...}}


class Questions(NamedTuple):
    """What `AnswerWindows` needs of a task."""
    prompts: Sequence[str]
    answers: Sequence[str]


def digit_plane(embeddings: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components of D embeddings (D, C).
    -> (D, 2), and the share of the variance that they hold

    Signs are chosen so that the last digit lies right of the first, and the middle digit lies above the mean
    of these two.
    """
    centred = embeddings - embeddings.mean(0)
    left, sizes, _ = np.linalg.svd(np.pad(centred, ((0, 0), (0, 2))), full_matrices=False)
    plane = left[:, :2] * sizes[:2]
    middle, ends = plane[len(plane) // 2], plane[0] + plane[-1]
    flip = plane[-1, 0] < plane[0, 0], 2 * middle[1] < ends[1]
    return np.where(flip, -plane, plane), float((sizes[:2]**2).sum() / max((sizes**2).sum(), 1e-300))


def evenness(points: np.ndarray) -> tuple[float, float]:
    """How evenly spaced an arc of points (D, 2) is, and by how many degrees it turns at each point.

    Let the complex numbers z be the D - 1 steps from point to point. The evenness is |sum conj(z_k) z_k+1|
    divided by the mean of sum |z_k|^2 and sum |z_k+1|^2. It is 1 if each step equals the step before it,
    turned by the same angle of at most 90 degrees; for a straight line the angle is 0. If the steps mostly
    turn back, as they do for points in no order, only the imaginary part of the sum counts. NaN for fewer
    than three points, or if all points are equal.
    """
    steps = np.diff(points[:, 0] + 1j * points[:, 1])
    product = np.vdot(steps[:-1], steps[1:])
    size = (np.square(abs(steps[:-1])).sum() + np.square(abs(steps[1:])).sum()) / 2
    if not size > 0:
        return float('nan'), float('nan')
    value = abs(product) if product.real > 0 else abs(product.imag)
    return float(value / size), float(abs(np.angle(product, deg=True)))


def features(x: np.ndarray) -> np.ndarray:
    """Activations (N, C) as the columns of a linear fit: centred, divided by the root of their mean variance,
    and a column of ones. -> (N, C + 1)"""
    x = x - x.mean(0)
    scale = np.sqrt(np.square(x).mean())
    return np.column_stack([x / scale if scale > 1e-9 else 0 * x, np.ones(len(x))])


def ridge(x: np.ndarray) -> np.ndarray:
    """The matrix (K, N) that turns labels into the coefficients of ridge regression. x: (N, K) columns as
    `features` makes them. The last column, of ones, is not penalised."""
    penalty = np.full(x.shape[1], PENALTY * len(x))
    penalty[-1] = 0
    return np.linalg.solve(x.T @ x + np.diag(penalty), x.T)


def left_out(x: np.ndarray, y: np.ndarray, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The errors of predicting each group's labels from a fit to all other rows. groups: indices into the N
    rows.

    x (N, K), y (N, labels) -> a list of (len(group), labels). A single fit is enough: the errors of a group g
    without g are its errors in the whole fit, multiplied by the inverse of 1 - H_gg, where H is the matrix
    that turns labels into predictions. The penalty stays that of all N rows.
    """
    to_coefficients = ridge(x)
    errors = y - x @ (to_coefficients @ y)
    return [np.linalg.solve(np.eye(len(g)) - x[g] @ to_coefficients[:, g], errors[g]) for g in groups]


def explained(errors: Sequence[np.ndarray], y: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """R² of the predictions of the groups: 1 minus their squared errors divided by the squared errors of the
    mean. NaN if all labels are equal. -> (labels,)"""
    spread = np.square(y[np.concatenate(groups)] - y.mean(0)).sum(0)
    return 1 - np.square(np.concatenate(errors)).sum(0) / np.where(spread > 0, spread, np.nan)


def readout(x: np.ndarray, operands: np.ndarray, results: np.ndarray, trained: np.ndarray
            ) -> tuple[dict[str, float], np.ndarray]:
    """How well the results of one operation can be read linearly from activations.

    x (P, C), operands (P, 2), results (P,), trained (P,) bool. Only trained questions are fitted.
    -> {name: R²}, and the value read for each question, (P,). For a trained question the fit leaves out its
    pair.

    pair_left_out       each question is read by a fit without it and without its two operands in the other
                        order
    results_shuffled    the same, with the results dealt to the questions at random
    digits_renamed      the same, with each operand replaced by another one. As high as pair_left_out if the
                        activations only say which operands there are, and not how large they are
    operand_left_out    the questions with an operand are read by a fit without any of these questions
    """
    table = {tuple(pair): result for pair, result in zip(operands, results)}
    random, highest = np.random.default_rng(0), int(operands.max()) + 1
    columns = features(x)
    inner, pairs, labels = columns[trained], operands[trained], results[trained]
    shuffled = [random.permutation(labels) for _ in range(DRAWS)]
    renamed = [[table[tuple(names[pair])] for pair in pairs]
               for names in (random.permutation(highest) for _ in range(DRAWS))]
    y = np.array([labels, *shuffled, *renamed], float).T    # (N, 1 + 2 * DRAWS)
    both = [np.flatnonzero((np.sort(pairs) == pair).all(1)) for pair in np.unique(np.sort(pairs), axis=0)]
    alike = [some for d in range(highest) if len(some := np.flatnonzero((pairs == d).any(1)))]
    errors = left_out(inner, y, both)
    share = explained(errors, y, both)
    found = {'pair_left_out': share[0], 'results_shuffled': share[1:DRAWS + 1].mean(),
             'digits_renamed': share[DRAWS + 1:].mean(),
             'operand_left_out': explained(left_out(inner, y[:, :1], alike), y[:, :1], alike)[0]}
    read = columns @ (ridge(inner) @ labels)
    read[np.flatnonzero(trained)[np.concatenate(both)]] = (y[np.concatenate(both)]
                                                           - np.concatenate(errors))[:, 0]
    return {name: float(value) for name, value in found.items()}, read


def arithmetic_of(trained: Trained) -> Arithmetic:
    """The arithmetic that a checkpoint was trained on; the paper's if it names no tasks (nanoGPT's). Raises
    `UserError` if it was trained only on other tasks, if its tokens are not the characters of arithmetic, or
    if its windows are too short."""
    task = trained.tasks.get(Arithmetic.name)
    if trained.tasks and not task:
        raise UserError(f'{trained.path} was trained on {" and ".join(trained.tasks)}, without arithmetic: '
                        'there is no rule to look for')
    task = task or Arithmetic()
    try:
        for text in (*task.prompts, *task.answers):
            if len(trained.codec.encode(text)) != len(text):
                raise UserError('its tokens are not single characters')
    except UserError as error:
        raise UserError(f'{trained.path} has no arithmetic: {error}') from error
    longest = max(task.prompts, key=len)
    if len(longest) > trained.config.block_size:
        raise UserError(f'{trained.path}: its windows of {trained.config.block_size} characters are too '
                        f'short for {longest}: name a checkpoint with a larger block_size')
    return task


class Subject:
    """The model that is studied, in float64 on the CPU, with its questions.

    tokens: (T, P), shorter questions are padded after their `=`. equals: (P,) positions of the `=`. groups:
    {seen, and heldout if there are any: indices of questions}. Raises `UserError`, see `arithmetic_of`.
    """

    def __init__(self, trained: Trained) -> None:
        self.task, self.codec = arithmetic_of(trained), trained.codec
        self.block_size = trained.config.block_size
        self.model = trained.replicas.template.double().eval()
        prompts = self.task.prompts
        T = max(map(len, prompts))
        self.tokens = torch.tensor([self.codec.encode(prompt.ljust(T, '=')) for prompt in prompts]).T
        self.equals = np.array([len(prompt) - 1 for prompt in prompts])
        self.operands = np.array([(a, b) for a, _, b in self.task.expressions])
        self.results = np.array(self.task.results)
        groups = self.task.groups()
        self.groups = {name: groups[name] for name in (self.task.seen_group, self.task.heldout_group)
                       if groups[name]}
        self.trained = np.array([not self.task.is_heldout(i) for i in range(len(prompts))])
        self.windows = self.windows_of(prompts, self.task.answers)

    def windows_of(self, prompts: Sequence[str], answers: Sequence[str]) -> AnswerWindows:
        """The windows in which these answers to these prompts are predicted."""
        return AnswerWindows(Questions(prompts, answers), self.codec, self.block_size, torch.device('cpu'))

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (T, B) or (1, T, B) -> logits (1, V, T, B)"""
        return self.model(tokens.view(1, *tokens.shape[-2:]))

    def lens(self, stage: str) -> Forward:
        """A forward pass that predicts from the residual stream after a stage."""
        def forward(tokens: torch.Tensor) -> torch.Tensor:
            return read_out(self.model, streams(self.model, tokens.view(1, *tokens.shape[-2:]))[stage])
        return forward

    def answers(self, prompts: Sequence[str], forward: Forward | None = None) -> list[str]:
        """What the model writes after each prompt if it always takes the most probable character."""
        encoded = [self.codec.encode(prompt) for prompt in prompts]
        said = generate(forward or self.forward, encoded, torch.zeros(1, dtype=torch.int64), num_samples=1,
                        max_new_tokens=self.task.max_new_tokens, block_size=self.block_size, temperature=1.0,
                        top_k=1, max_tokens=MOST_TOKENS)
        texts = [self.codec.decode(tokens) for tokens in said.tokens.tolist()]
        return [texts[row] for row in said.row.flatten().tolist()]

    def score(self, forward: Forward | None = None) -> Score:
        """Of each group: the share of right greedy answers, and the mean probability of the right answer."""
        said = self.answers(self.task.prompts, forward)
        right = np.array([self.task.mark(i, text) for i, text in enumerate(said)])
        probability = self.windows.probabilities(forward or self.forward, MOST_TOKENS)[0]
        return {name: {'right': float(right[members].mean()),
                       'probability': float(probability[members].mean())}
                for name, members in self.groups.items()}

    def at_equals(self) -> dict[str, np.ndarray]:
        """{stage: residual stream at the `=` of each question, where the answer is predicted, (P, C)}"""
        places = torch.from_numpy(self.equals), torch.arange(len(self.equals))
        return {stage: x[:, places[0], places[1]].T.numpy()
                for stage, x in streams(self.model, self.tokens).items()}


def digits(subject: Subject) -> dict[str, Any]:
    """The embeddings of the digits that are operands, in their first two principal components."""
    characters = '0123456789'[:subject.task.max_operand + 1]
    weight = subject.model.transformer.wte.weight.detach().numpy()
    plane, share = digit_plane(weight[subject.codec.encode(characters)])
    even, turn = evenness(plane)
    return {'characters': characters, 'plane': plane.tolist(), 'share': share, 'evenness': even, 'turn': turn}


def attention(subject: Subject) -> list[dict[str, Any]]:
    """How much each head attends from `=` to each of the `ROLES`, mean over all questions: a dict per head"""
    weights = attention_weights(subject.model, subject.tokens).numpy()    # (L, H, T, S, P)
    P = len(subject.equals)
    from_equals = weights[:, :, subject.equals, :, np.arange(P)]    # (P, L, H, S)
    role = np.full((P, weights.shape[3]), -1)
    for i, (a, _, b) in enumerate(subject.task.expressions):
        lengths = (1, len(str(a)), 1, len(str(b)), 1)
        role[i, :sum(lengths)] = np.repeat(np.arange(len(ROLES)), lengths)
    shares = [np.where((role == r)[:, None, None], from_equals, 0).sum(-1).mean(0) for r in range(len(ROLES))]
    return [{'layer': layer + 1, 'head': head + 1,
             'to': {name: float(share[layer, head]) for name, share in zip(ROLES, shares)}}
            for layer, head in np.ndindex(weights.shape[:2])]


def readouts(subject: Subject) -> dict[str, Any]:
    """`readout` of each stage and operation, and the values read after the last attention."""
    last_attention = f'attention {subject.model.config.n_layer}'
    signs = np.array([sign for _, sign, _ in subject.task.expressions])
    shares, read = {}, {}
    for stage, x in subject.at_equals().items():
        shares[stage] = {}
        for name, sign in (('add', '+'), ('sub', '-')):
            some = signs == sign
            found, values = readout(x[some], subject.operands[some], subject.results[some],
                                    subject.trained[some])
            shares[stage][name] = found
            if stage == last_attention:
                read[name] = {'result': subject.results[some].tolist(), 'read': values.tolist(),
                              'trained': subject.trained[some].tolist(),
                              'prompt': [subject.task.prompts[i] for i in np.flatnonzero(some)]}
    return {'stage': last_attention, 'r2': shares, 'read': read}


def symmetry(subject: Subject) -> dict[str, float]:
    """1 minus the mean of |p(c after a+b) - p(c after b+a)| over all sums with a != b, where c is the result
    of a+b. -> {group: that number}, for seen and held-out questions"""
    task = subject.task
    place = {expression: i for i, expression in enumerate(task.expressions)}
    sums = [i for i, (a, sign, b) in enumerate(task.expressions) if sign == '+' and a != b]
    turned = [place[task.expressions[i][::-1]] for i in sums]
    answers = [task.answers[i] for i in sums]
    one, other = (subject.windows_of([task.prompts[i] for i in order], answers)
                  .probabilities(subject.forward, MOST_TOKENS)[0] for order in (sums, turned))
    return {name: float(1 - abs(one - other)[chosen].mean()) for name, members in subject.groups.items()
            if (chosen := np.isin(sums, members)).any()}


def contexts(subject: Subject) -> dict[str, Any]:
    """How the greedy answers change when the end of a training line stands before the question.

    -> {'lines': number of these line ends, group: {'right': share of right answers, 'same': share of answers
    that are the same without a line}, 'alone': {held-out prompt: answer without a line}, 'said': {held-out
    prompt: {answer: number of lines after which it is given}}}
    """
    task = subject.task
    room = subject.block_size - min(map(len, task.prompts))
    tails = sorted({line[-room:] for line in task.lines()}) if room else ['']
    tails = [tails[i] for i in np.unique(np.linspace(0, len(tails) - 1, MOST_CONTEXTS).round().astype(int))]
    alone = np.vectorize(first_integer)(subject.answers(task.prompts))
    said = np.array([subject.answers([tail + prompt for prompt in task.prompts]) for tail in tails])
    right = np.array([[task.mark(i, text) for i, text in enumerate(row)] for row in said])
    said = np.vectorize(first_integer)(said)
    same = said == alone
    found = {name: {'right': float(right[:, members].mean()), 'same': float(same[:, members].mean())}
             for name, members in subject.groups.items()}
    heldout = subject.groups.get(task.heldout_group, [])
    return {'lines': len(tails), **found, 'alone': {task.prompts[i]: str(alone[i]) for i in heldout},
            'said': {task.prompts[i]: dict(Counter(said[:, i].tolist()).most_common()) for i in heldout}}


def first_integer(completion: str) -> str:
    """The part of a completion that is marked: its first integer, or '' if there is none."""
    found = INTEGER.search(completion)
    return found.group() if found else ''


def at_stages(subject: Subject) -> dict[str, Score]:
    """{stage: score} of the head applied to the residual stream after each stage: the logit lens."""
    return {stage: subject.score(subject.lens(stage)) for stage in streams(subject.model, subject.tokens)}


def without_parts(subject: Subject) -> dict[str, Score]:
    """{part: score} of the model in which this part always gives its mean output at each position. The mean
    is over the questions with their right answers."""
    windows, parts = subject.windows, parts_of(subject.model)
    last = torch.zeros(windows.contexts.shape[1], dtype=torch.int64)    # last predicting position per window
    last.scatter_reduce_(0, windows.window, windows.position, 'amax')
    real = torch.arange(len(windows.contexts))[:, None] <= last
    means = mean_inputs(subject.model, parts, windows.contexts, real)
    found = {}
    for part in parts:
        with replaced(part, means[part.name]):
            found[part.name] = subject.score()
    return found


def verdict(score: Score) -> str:
    """The verdict of the greedy answers. `neither` if at most half of the seen questions are answered right.
    Otherwise `rule` if all held-out questions are, `lookup` if none are, `part of the rule` if some are, and
    `nothing held out` if there are no held-out questions."""
    if score['seen']['right'] <= 0.5:
        return 'neither'
    if 'heldout' not in score:
        return 'nothing held out'
    return {0.0: 'lookup', 1.0: 'rule'}.get(score['heldout']['right'], 'part of the rule')


def measure(trained: Trained) -> dict[str, Any]:
    """All numbers of a checkpoint, as plain containers. Raises `UserError` if it has no arithmetic."""
    subject = Subject(trained)
    score = subject.score()
    return {'checkpoint': str(trained.path), 'seed': int(trained.seeds[0]), 'iteration': trained.iteration,
            'n_embd': trained.config.n_embd, 'num_params': trained.num_params,
            'answers': 'shuffled' if subject.task.dealt else 'true',
            'verdict': verdict(score), 'score': score,
            'digits': digits(subject), 'attention': attention(subject), 'readout': readouts(subject),
            'symmetry': symmetry(subject), 'context': contexts(subject),
            'lens': at_stages(subject), 'without': without_parts(subject)}
