"""Examples of a trace: our tasks', JSONL, and the four published formats, from small samples written for
these tests."""
import json

import pytest

from tbtt.cli import UserError
from tbtt.tasks import Arithmetic, Capitals
from tbtt.trace.examples import read_examples, task_examples

GSM8K = {'question': 'Tom has 3 bags of 4 nuts. How many nuts?',
         'answer': 'He has 3*4=<<3*4=12>>12 nuts.\n#### 12'}
TRIVIAQA = {'Data': [{'Answer': {'Aliases': ['The Nile'], 'NormalizedValue': 'nile', 'Value': 'Nile'},
                      'Question': 'Which river runs through Cairo?', 'QuestionId': 'x_1',
                      'QuestionSource': 'none'}],
            'Domain': 'Web', 'Split': 'dev', 'VerifiedEval': False, 'Version': 1.0}
MMLU = '"What is 2, plus 2?",3,"4, or IV",5,6,B\nWhich is a gas?,iron,gold,lead,neon,D\n'
SOURCE = '''<srcset setid="news" srclang="any"><doc docid="1" genre="news"><p>
<seg id="1">Das Haus ist alt &amp; groß.</seg>
<seg id="2">Guten Tag.</seg></p></doc></srcset>'''
REFERENCE = SOURCE.replace('Das Haus ist alt &amp; groß.',
                           'The house is old &amp; large.').replace('Guten Tag.', 'Good day.')


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text) + '\n')
    return path


def read(path, text, task, **settings):
    return [(example.input, example.output)
            for example in read_examples([write(path, text)], task, **settings)]


def test_gsm8k_without_what_the_calculator_writes(tmp_path):
    assert read(tmp_path / 'test.jsonl', GSM8K, 'gsm8k') == [
        ('Tom has 3 bags of 4 nuts. How many nuts?', 'He has 3*4=12 nuts.\nThe answer is 12')]


def test_triviaqa(tmp_path):
    assert read(tmp_path / 'web-dev.json', TRIVIAQA,
                'triviaqa') == [('Which river runs through Cairo?', 'Nile')]


def test_mmlu_is_the_question_alone_and_the_text_of_the_right_choice(tmp_path):
    assert read(tmp_path / 'test.csv', MMLU, 'mmlu') == [('What is 2, plus 2?', '4, or IV'),
                                                         ('Which is a gas?', 'neon')]


def test_translation_as_sgml_and_as_plain_text(tmp_path):
    expected = [('Das Haus ist alt & groß.', 'The house is old & large.'), ('Guten Tag.', 'Good day.')]
    for name, sides in (('x.sgm', (SOURCE, REFERENCE)),
                        ('x.txt', ['\n'.join(side) + '\n' for side in zip(*expected)])):
        files = [write(tmp_path / f'{i}_{name}', text) for i, text in enumerate(sides)]
        assert [(example.input, example.output)
                for example in read_examples(files, 'translation')] == expected


# str.splitlines would split at each of these characters.
@pytest.mark.parametrize('mark', ['\u2028', '\x85', '\x0b', '\x0c', '\x1c'])
def test_only_a_line_end_ends_a_line(tmp_path, mark):
    odd, mine = f'one{mark}two', f'{{"input": "a{mark}b", "output": "c"}}\n'
    files = [write(tmp_path / 'a.txt', f'{odd}\nb\n'), write(tmp_path / 'b.txt', f'c\n{odd}\n')]
    assert [example[1:3] for example in read_examples(files, 'translation')] == [(odd, 'c'), ('b', odd)]
    cells = f'Which?,{odd},3,4,5,A\nWho?,1,"{odd}",3,4,B\n'
    assert read(tmp_path / 'test.csv', cells, 'mmlu') == [('Which?', odd), ('Who?', odd)]
    if mark >= ' ':    # JSON allows no lower characters unescaped
        assert read(tmp_path / 'mine.jsonl', mine, None) == [(f'a{mark}b', 'c')]


def test_a_cell_longer_than_csv_takes_is_refused(tmp_path):
    with pytest.raises(UserError, match='test.csv is no CSV: field larger than field limit') as error:
        read(tmp_path / 'test.csv', f'Which?,{"a" * 131_073},b,c,d,A\n', 'mmlu')
    assert len(str(error.value)) < 200


def test_jsonl_of_ones_own_and_what_the_model_is_asked(tmp_path):
    file = write(tmp_path / 'mine.jsonl', {'input': 'Two? ', 'output': ' Three.', 'more': 1})
    example, = read_examples([file], None)
    assert example == ('examples', 'Two?', 'Three.', 'Two? ')
    # a line end as a script gives it, and as a shell gives it
    for template in ('Q: {input}\nA: {output}', r'Q: {input}\nA: {output}'):
        assert read_examples([file], None, template)[0].prompt == 'Q: Two?\nA: '


@pytest.mark.parametrize('template', ['{input}', '{output}', '{output} {input}', ''])
def test_a_template_whose_prompts_would_not_hold_the_outputs_n_grams_is_refused(tmp_path, template):
    file = write(tmp_path / 'mine.jsonl', {'input': 'a', 'output': 'b'})
    with pytest.raises(UserError, match='the output must come last'):
        read_examples([file], None, template)


@pytest.mark.parametrize('task, text, says', [
    (None, {'input': 'a'}, 'line 1: expected a JSON object with the fields input and output'),
    (None, 'no json\n', 'line 1'),
    (None, '[1]\n', 'line 1'),
    (None, '\n', 'no example in it'),
    (None, {'input': 'a', 'output': ' '}, 'example 1 has no text as its output'),
    (None, {'input': 3, 'output': 'b'}, 'example 1 has no text as its input'),
    (None, {'input': ' ', 'output': 'b'}, 'example 1 has no text as its input'),
    (None, {'input': 'a', 'output': None}, 'example 1 has no text as its output'),
    (None, {'input': '\ud800', 'output': 'b'}, 'example 1 has no text as its input'),
    (None, {'input': 'a', 'output': '\udfff'}, 'example 1 has no text as its output'),
    (None, '[' * 200_000, 'line 1: expected a JSON object'),
    ('triviaqa', '[' * 200_000, 'expected JSON with Data'),
    ('gsm8k', {'question': 'a'}, 'question and answer'),
    ('gsm8k', {'question': 'a', 'answer': 3}, 'example 1'),
    ('triviaqa', {'Data': [{'Question': 'a', 'Answer': {}}]}, 'Question and Answer with a Value'),
    ('triviaqa', 'no json', 'Data'),
    ('mmlu', 'question,a,b,c,d,E\n', 'row 1'),
    ('mmlu', 'question,a,b\n', 'row 1: .* got 3 fields'),
    ('translation', 'one file\n', 'takes two files')])
def test_examples_without_the_fields_are_refused(tmp_path, task, text, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path / 'file', text, task)


def test_translations_of_unequal_length_and_files_that_are_not_there_are_refused(tmp_path):
    one, two = write(tmp_path / 'a.txt', 'a\nb\n'), write(tmp_path / 'b.txt', 'a\n')
    with pytest.raises(UserError, match='has 2 segments, .* has 1'):
        read_examples([one, two], 'translation')
    with pytest.raises(UserError, match='no examples'):
        read_examples([tmp_path / 'none.jsonl'], None)


def test_our_tasks_with_what_is_held_out_apart():
    examples = task_examples({'math': Arithmetic(), 'facts': Capitals([('France', 'Paris')])})
    assert examples[-1] == ('facts', 'Capital of France is ', 'Paris', 'Capital of France is ')
    heldout = [example.input + example.output for example in examples if example.task == 'math held-out']
    assert sorted(heldout) == ['<5+7=12>', '<5-7=-2>', '<7+5=12>', '<7-5=2>']
    assert sum(example.task == 'math' for example in examples) == 196
