"""Tracing our checkpoints to their data: the script, what it writes, and what its figure draws."""
import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from plot_trace import Point, draw_trace
from tbtt.cli import Parser
from tbtt.inference import load_model
from tbtt.layout import LATEST
from tbtt.results import read_results
from tbtt.trace.examples import task_examples
from tbtt.trace.memorization import DATA_MODELS
from tbtt.trace.sources import Row
from test_memorization import occurrences
from trace_memorization import LISTS, add_options, compare, separate

SCRIPT = 'analysis/trace_memorization.py'


# The script, of our checkpoints.

def rows_of(folder):
    return list(csv.DictReader((folder / 'trace.csv').open()))


def test_a_run_is_traced_into_its_folder_and_again_to_the_same_files(command, copy_of_learned):
    result = command(SCRIPT, f'--out_dir={copy_of_learned}', '--n=2,5', '--device=cpu')
    assert result.status == 0, result.err
    files = {name: (copy_of_learned / name).read_bytes() for name in ('trace.csv', 'trace.json')}
    assert command(SCRIPT, f'--out_dir={copy_of_learned}', '--n=2,5', '--device=cpu').status == 0
    assert {name: (copy_of_learned / name).read_bytes() for name in files} == files
    about = json.loads(files['trace.json'])
    model, = about['models']
    assert model['corpus']['documents'] == 46 and model['corpus']['unit'] == 'characters'
    assert set(model['tasks']) == {'math', 'math held-out'} and 'zeros' in about['rules']
    assert 'too few' in model['tasks']['math held-out']['5']['task_gram']['not computed']
    rows = rows_of(copy_of_learned)
    assert tuple(rows[0]) == Row._fields and {row['n'] for row in rows} == {'2', '5'}
    assert sum(row['task'] == 'math' and row['n'] == '2'
               for row in rows) == model['tasks']['math']['2']['points']


def test_the_models_probability_of_a_whole_answer_is_that_of_the_runs_own_evaluation(command,
                                                                                     copy_of_learned):
    command(SCRIPT, f'--out_dir={copy_of_learned}', '--n=9', '--device=cpu')
    found = [math.exp(float(row['model_logp'])) for row in rows_of(copy_of_learned) if row['task'] == 'math']
    assert len(found) == 46
    assert np.mean(found) == pytest.approx(read_results(copy_of_learned / 'results.csv')['seen_prob'][-1],
                                           rel=1e-4)


def test_an_n_gram_within_an_answer_has_the_probabilities_of_its_own_tokens(command, learned, small_math,
                                                                            tmp_path):
    result = command(SCRIPT, out_dir=learned, n=2, trace_dir=tmp_path, device='cpu')
    assert result.status == 0, result.err
    trained = load_model(learned / LATEST, 'cpu')
    asked, text = task_examples(trained.tasks), '\n' + (small_math / 'train.txt').read_text()
    size, length = trained.config.block_size, len(text.strip('\n')) + 2    # with a separator at either end
    places = set()
    for row in rows_of(tmp_path):
        example = [each for each in asked if each.task == row['task']][int(row['example'])]
        whole = example.prompt + example.output
        begin = len(example.prompt) + example.output.index(row['gram'])
        model = data = 0
        places.add((begin > len(example.prompt), begin + 2 < len(whole)))
        for i in (begin, begin + 1):
            tokens = torch.tensor(trained.codec.encode(whole[:i])[-size:])
            log_p = trained.forward(tokens[None, :, None])[0, :, -1, 0].log_softmax(0)
            model += log_p[trained.codec.stoi[whole[i]]].item()
            context = next(whole[k:i] for k in range(i + 1) if whole[k:i] in text)
            below = occurrences(text, context) if context else length
            data += math.log((occurrences(text, context + whole[i]) or 0.5) / below)
        assert float(row['model_logp']) == pytest.approx(model, abs=1e-3)
        assert float(row['infinity_gram_logp']) == pytest.approx(data)
    assert places >= {(True, False), (False, True)}    # with an output token before it, and with one after it


def test_the_seed_at_the_shell_is_the_bootstraps(command, learned, tmp_path):
    folders = [tmp_path / seed for seed in '12']
    for folder in folders:
        result = command(SCRIPT, out_dir=learned, n=2, seed=folder.name, trace_dir=folder, device='cpu')
        assert result.status == 0, result.err
    models = [json.loads((folder / 'trace.json').read_text())['models'] for folder in folders]
    one, other = (model['tasks']['math']['2']['task_gram']['spearman'] for model, in models)
    assert one['coefficient'] == other['coefficient'] and one['interval'] != other['interval']


def test_seeds_of_different_data_are_no_model(command, learned, tmp_path):
    for seed in (1, 2):
        shutil.copytree(learned, tmp_path / 'many' / f'seed_{seed}')
    checkpoint = torch.load(tmp_path / 'many/seed_2' / LATEST, weights_only=True)
    torch.save(checkpoint | {'data': '0' * 64}, tmp_path / 'many/seed_2' / LATEST)
    result = command(SCRIPT, out_dir=tmp_path / 'many', n=2, trace_dir=tmp_path / 't', device='cpu')
    assert result.status == 2 and 'its seeds were trained on different data' in result.err
    assert not (tmp_path / 't').exists()


def test_a_file_in_the_place_of_the_trace_is_refused_before_the_work(command, learned, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('mine')
    monkeypatch.setattr('tbtt.trace.sources.trace', lambda args: pytest.fail('worked first'))
    result = command(SCRIPT, out_dir=learned, trace_dir=tmp_path / 'file', device='cpu')
    assert result.status == 2 and 'is a file: name a folder' in result.err
    assert len(result.err.splitlines()) == 1
    assert (tmp_path / 'file').read_text() == 'mine'


def test_lists_at_the_shell_add_up_however_they_are_written():
    parser = Parser('')
    add_options(parser)
    for name in LISTS:
        words = f'--{name}=a --{name} b c --{name}=d=e f'.split()
        assert getattr(parser.parse_args(separate(words)), name) == ['a', 'b', 'c', 'd=e', 'f']


def test_seeds_are_one_model_and_several_models_are_drawn_against_their_size(command, learned, tmp_path):
    for seed in (1, 2):
        shutil.copytree(learned, tmp_path / 'many' / f'seed_{seed}')
    result = command(SCRIPT, f'--out_dir={learned}', tmp_path / 'many', '--n=2', trace_dir=tmp_path / 't',
                     device='cpu')
    assert result.status == 0, result.err
    one, two = json.loads((tmp_path / 't/trace.json').read_text())['models']
    assert (len(one['seeds']), len(two['seeds'])) == (1, 2) and 'mean of 2 seeds' in result.out
    same = [model['tasks']['math']['2']['task_gram']['spearman'] for model in (one, two)]
    assert same[0]['coefficient'] == same[1]['coefficient'] and same[0]['interval'] == same[1]['interval']
    assert len(rows_of(tmp_path / 't')) == 3 * sum(one['tasks'][task]['2']['points']
                                                   for task in ('math', 'math held-out'))


def test_traces_of_our_datasets_need_no_infini_gram_and_write_nothing_beside_the_data(command, learned,
                                                                                      small_math, tmp_path,
                                                                                      monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'infini_gram', None)
    before = sorted(small_math.iterdir())
    assert command(SCRIPT, f'--out_dir={learned}', '--n=2', f'--trace_dir={tmp_path}',
                   '--device=cpu').status == 0
    assert sorted(small_math.iterdir()) == before


@pytest.mark.slow
def test_both_engines_trace_a_dataset_of_ours_alike(command, learned, small_math, tmp_path):
    pytest.importorskip('infini_gram')
    data = shutil.copytree(small_math, tmp_path / 'data')
    one, other = tmp_path / 'numpy', tmp_path / 'infini-gram'
    for folder in (one, other):
        result = command(SCRIPT, out_dir=learned, dataset=data, engine=folder.name, n='1,3', trace_dir=folder,
                         device='cpu')
        assert result.status == 0, result.err
    assert (one / 'trace.csv').read_bytes() == (other / 'trace.csv').read_bytes()
    sizes = [json.loads((folder / 'trace.json').read_text())['models'][0]['corpus']['tokens']
             for folder in (one, other)]
    assert sizes[0] == sizes[1]
    assert len(list(data.glob('train.bin.ngrams_*/table.0'))) == 1


@pytest.mark.parametrize('args, says', [
    ([], 'either runs with --out_dir or models'),
    (['--out_dir=a', '--model=b'], 'either runs with --out_dir or models'),
    (['--out_dir=a', '--corpus=b.txt'], 'a run has its own'),
    (['--out_dir=a', '--separator=0'], '--separator goes with --model'),
    (['--model=a', '--corpus=b.txt', '--examples=c.jsonl', '--ckpt=d.pt'], '--ckpt goes with --out_dir'),
    (['--model=b', '--examples=c'], 'name its files'),
    (['--out_dir=a', '--threshold=0.5'], 'go together'),
    (['--out_dir=a', '--embedding_model=e', '--threshold=5'], 'from -1 to 1'),
    (['--out_dir=a', '--n=0'], 'from 1 on'),
    (['--out_dir=a', '--n=two'], '--n'),
    (['--out_dir=a', '--engine=grep'], 'numpy'),
    (['--out_dir=nowhere'], 'no checkpoint nowhere')])
def test_options_that_do_not_go_together_are_refused(command, args, says):
    result = command(SCRIPT, *args)
    assert result.status == 2 and says in result.err and len(result.err.splitlines()) == 1, result.err


def test_data_that_a_checkpoint_was_not_trained_on_is_refused(command, learned, datasets):
    result = command(SCRIPT, f'--out_dir={learned}', f'--dataset={datasets["as_math"]}', '--device=cpu')
    assert result.status == 2 and 'trained on other data' in result.err


# What the figure draws.

def cell(value):
    if value is None:
        return {kind: {'not computed': 'why'} for kind in ('task_gram', 'infinity_gram')}
    found = {'spearman': {'coefficient': value, 'interval': [value - 0.1, value + 0.2]}}
    return {'task_gram': found, 'infinity_gram': {'not computed': 'why'}}


def traced(name, parameters, by_n):
    return {'model': name, 'parameters': parameters, 'corpus': {'unit': 'words'}, 'seeds': [None],
            'tasks': {'quiz': {n: cell(value) for n, value in by_n.items()}, 'empty': {1: cell(None)}}}


def points(name, n, pairs):
    return [Point(name, 'quiz', n, x, y) for x, y in pairs]


def lines(axes):
    return [[data.tolist() for data in line.get_data()] for line in axes.lines if len(line.get_xdata()) and
            line.get_linestyle() != 'None' and line.get_xdata()[0] != 0]


def test_one_model_is_drawn_as_points_and_as_coefficients_against_n():
    rows = points('a', 1, [(-1, -2), (-3, -4)]) + points('a', 3, [(-5, -6)])
    figure = draw_trace([traced('a', 10, {1: 0.5, 2: None, 3: 0.7})], rows)
    scatter, lengths = figure.axes
    assert scatter.get_title() == 'quiz, n = 1'
    assert [data.tolist() for data in scatter.lines[0].get_data()] == [[-1, -3], [-2, -4]]
    assert lines(lengths) == [[[1, 3], [0.5, 0.7]]] and lengths.get_xlabel() == 'n (words)'
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['a', 'a, task-gram']


def test_the_infinity_gram_is_drawn_unlike_the_task_gram():
    both = {kind: cell(0.5)['task_gram'] for kind in DATA_MODELS}
    model = traced('a', 10, {1: 0.5}) | {'tasks': {'quiz': {1: both, 2: both}}}
    for axes in draw_trace([model, model | {'parameters': 20}], points('a', 1, [(-1, -2)])).axes[1:]:
        task_gram, infinity_gram = ((line.get_linestyle(), line.get_marker())
                                    for line, *_ in axes.containers[:2])
        assert (task_gram, infinity_gram) == (('-', 'o'), ('--', 's'))


def test_several_models_are_also_drawn_against_their_parameters():
    models = [traced('b', 1000, {1: 0.2, 2: 0.3}), traced('a', 10, {1: 0.5, 2: 0.6})]
    figure = draw_trace(models, points('a', 1, [(-1, -2)]))
    sizes = figure.axes[2]
    (one, coefficients), (other, others) = lines(sizes)
    assert (coefficients, others) == ([0.5, 0.2], [0.6, 0.3])
    # the points of both n are side by side
    assert one == pytest.approx([10, 1000], rel=0.1) and one < other == pytest.approx([10, 1000], rel=0.1)
    assert [tick.get_text() for tick in sizes.get_xticklabels()] == ['10', '1,000']
    assert sizes.get_xscale() == 'log' and sizes.get_xlabel() == 'Parameters'
    assert [text.get_text() for text in sizes.get_legend().get_texts()] == ['n = 1', 'n = 2']


def test_several_models_are_compared_in_a_table():
    models = [traced('b', 1000, {1: 0.2, 2: None}), traced('a', 10, {2: 0.6, 3: 0.7})]
    assert compare(models).splitlines() == [
        '| quiz | parameters | seeds | n = 1 | n = 2 | n = 3 |', '| --- | --- | --- | --- | --- | --- |',
        '| b | 1,000 | 1 | 0.20 (0.10 to 0.40) |  |  |',
        '| a | 10 | 1 |  | 0.60 (0.50 to 0.80) | 0.70 (0.60 to 0.90) |']


def test_a_trace_without_a_coefficient_says_so_in_its_figure():
    figure = draw_trace([traced('a', 10, {1: None})], [])
    assert not figure.axes and 'too few points' in figure.texts[0].get_text()


def test_a_figure_is_drawn_from_the_files_alone(command, learned, tmp_path):
    assert command(SCRIPT, out_dir=learned, n='2,3', trace_dir=tmp_path / 't', device='cpu').status == 0
    assert not (tmp_path / 't/trace.png').exists()
    assert command('analysis/plot_trace.py', tmp_path / 't/trace.json').status == 0
    assert (tmp_path / 't/trace.png').read_bytes().startswith(b'\x89PNG')
    (tmp_path / 't/trace.csv').unlink()    # then the figure has no points
    result = command('analysis/plot_trace.py', tmp_path / 't/trace.json', f'--beside={tmp_path / "t"}',
                     '--format=svg', output_dir=tmp_path)
    assert result.status == 0 and '<svg' in (tmp_path / 'trace.svg').read_text(), result.err


def test_without_points_the_first_panel_is_left_out_and_another_trace_is_grey():
    model = traced('a', 10, {1: 0.5, 3: 0.7})
    axes, = draw_trace([model], [], [traced('old', 10, {1: 0.1, 3: 0.2})]).axes
    assert axes.get_title() == 'quiz' and axes.lines[0].get_label() == 'old, beside'
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.2]


@pytest.mark.parametrize('text', ['', '[]', '{"models": [{}]}', '{"models": [{"tasks": {"a": {"x": {}}}}]}'])
def test_what_is_no_trace_is_refused_in_one_line(command, tmp_path, text):
    (tmp_path / 'trace.json').write_text(text)
    result = command('analysis/plot_trace.py', tmp_path / 'trace.json')
    assert result.status == 2 and 'no trace.json' in result.err and len(result.err.splitlines()) == 1
