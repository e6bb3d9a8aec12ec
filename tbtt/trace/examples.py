"""What a model is asked in a trace: inputs with their right outputs, from our tasks or from files."""
import csv
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tbtt.cli import UserError
from tbtt.tasks import Task

Pairs = list[tuple[str, str]]    # inputs and outputs

OUTPUT = '{output}'
TEMPLATE = '{input} {output}'
CALCULATION = re.compile(r'<<.*?>>')    # GSM8K puts the results of a calculator into its answers
SEGMENT = re.compile(r'<seg\b[^>]*>(.*?)</seg>', re.DOTALL | re.IGNORECASE)


class Example(NamedTuple):
    """task: examples of a task are counted together. prompt: all that a model is given before the output."""
    task: str
    input: str
    output: str
    prompt: str


def task_examples(tasks: dict[str, Task]) -> list[Example]:
    """The prompts and right answers of our tasks, without the blanks and line ends around an answer.
    Questions that are held out of training are a separate task."""
    found = []
    for name, task in tasks.items():
        heldout = set(task.groups().get(task.heldout_group, ()))
        found += [Example(f'{name} held-out' if i in heldout else name, prompt, answer.strip(), prompt)
                  for i, (prompt, answer) in enumerate(zip(task.prompts, task.answers))]
    return found


def read_examples(files: Sequence[str | Path], task: str | None, template: str = TEMPLATE) -> list[Example]:
    """Examples from local files. task: one of FORMATS, or None for JSONL with `input` and `output`.

    Raises `UserError` for files without these fields, and for a template that does not end in the output.
    """
    if not template.endswith(OUTPUT) or template == OUTPUT:
        raise UserError(f'--template={template!r}: the output must come last: use a text that ends in '
                        f'{OUTPUT}, such as {TEMPLATE!r}')
    pairs = FORMATS[task or 'examples']([Path(file) for file in files])
    if not pairs:
        raise UserError(f'{files[0]}: no example in it')
    before = template.removesuffix(OUTPUT).replace('\\n', '\n')    # \n as it is typed in a shell
    for i, pair in enumerate(pairs):
        for name, text in zip(('input', 'output'), pair):
            if not (isinstance(text, str) and text.strip() and is_unicode(text)):
                raise UserError(f'{", ".join(map(str, files))}: example {i + 1} has no text as its {name}')
    pairs = [(question.strip(), answer.strip()) for question, answer in pairs]
    return [Example(task or 'examples', question, answer, before.replace('{input}', question))
            for question, answer in pairs]


def is_unicode(text: str) -> bool:
    """Can the text be encoded? JSON can hold half characters, which no encoding has."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def read_text(file: Path) -> str:
    """The text of a file in UTF-8. Raises `UserError` if the file is missing or not UTF-8."""
    try:
        return file.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise UserError(f'no examples {file}') from None
    except UnicodeDecodeError as error:
        raise UserError(f'{file} is no UTF-8 text: {error}') from error


def fields(files: list[Path], *names: str) -> Pairs:
    """The fields `names` of each line of JSONL files."""
    pairs = []
    for file in files:
        for number, line in enumerate(read_text(file).split('\n'), 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                    pairs.append(tuple(entry[name] for name in names))
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    raise UserError(f'{file}: line {number}: expected a JSON object with the fields '
                                    f'{" and ".join(names)}, got {line[:80]!r}') from error
    return pairs


def gsm8k(files: list[Path]) -> Pairs:
    """JSONL with question and answer. The answer is taken without the calculator's results. Its last line,
    `#### 72`, becomes a sentence."""
    return [(question, spoken(answer)) for question, answer in fields(files, 'question', 'answer')]


def spoken(answer: Any) -> Any:
    """An answer of GSM8K as a person would say it. What is not a text is returned unchanged."""
    if not isinstance(answer, str):
        return answer
    return CALCULATION.sub('', answer).replace('####', 'The answer is')


def triviaqa(files: list[Path]) -> Pairs:
    """JSON with Data, a list of Question and Answer; the Value of an Answer is the output."""
    pairs = []
    for file in files:
        try:
            pairs += [(entry['Question'], entry['Answer']['Value'])
                      for entry in json.loads(read_text(file))['Data']]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f'{file}: expected JSON with Data, a list of Question and Answer with a Value, '
                            f'as TriviaQA is published ({error!r})') from error
    return pairs


def mmlu(files: list[Path]) -> Pairs:
    """CSV without a header: question, four choices, the letter of the right choice. The input is only the
    question: with the choices it would contain the output."""
    pairs = []
    for file in files:
        for number, row in enumerate(read_csv(file), 1):
            if len(row) != 6 or row[5].strip() not in ('A', 'B', 'C', 'D'):
                raise UserError(f'{file}: row {number}: expected a question, four choices and a letter from '
                                f'A to D, as MMLU is published, got {len(row)} fields')
            pairs.append((row[0], row['ABCD'.index(row[5].strip()) + 1]))
    return pairs


def read_csv(file: Path) -> list[list[str]]:
    """The rows of a CSV file, each a list of its cells. Raises `UserError` if the file is not CSV."""
    try:
        return list(csv.reader(io.StringIO(read_text(file), newline='')))
    except csv.Error as error:
        raise UserError(f'{file} is no CSV: {error}') from error


def translation(files: list[Path]) -> Pairs:
    """Two files, the source and its translation. An example is a line, or in WMT's SGML a segment."""
    if len(files) != 2:
        raise UserError(f'translation takes two files, the source and its translation: --examples=SOURCE '
                        f'TRANSLATION, got {len(files)}')
    sides = []
    for file in files:
        text = read_text(file)
        if file.suffix in ('.sgm', '.sgml', '.xml'):
            sides.append([html.unescape(segment) for segment in SEGMENT.findall(text)])
        else:
            sides.append(text.removesuffix('\n').split('\n'))
    if len(sides[0]) != len(sides[1]):
        raise UserError(f'{files[0]} has {len(sides[0])} segments, {files[1]} has {len(sides[1])}: they do '
                        'not belong together')
    return list(zip(*sides))


FORMATS = {'examples': lambda files: fields(files, 'input', 'output'), 'translation': translation,
           'triviaqa': triviaqa, 'mmlu': mmlu, 'gsm8k': gsm8k}
