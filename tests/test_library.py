"""What a notebook uses: five names, errors as exceptions, and Ctrl-C that ends only the training."""
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tbtt.prepare
import tbtt.progress
import train_with_eval
from conftest import HERE, TINY, contents, tiny_config
from tbtt.cli import UserError
from tbtt.inference import ask, load_model
from tbtt.prepare import prepare_dataset
from tbtt.progress import Reporter
from tbtt.results import load_results, read_results
from train_with_eval import train

PAGE = (HERE / 'docs/library.md').read_text(encoding='utf-8')
EXAMPLES = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


@pytest.fixture
def handlers():
    """After the test, the signal handlers have to be the same as before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def settings_of(small_math, folder, **settings):
    return TINY | dict(dataset=str(small_math), out_dir=str(folder)) | settings


def test_a_signal_handler_that_is_not_pythons_gives_way_to_the_default(monkeypatch):
    calls = []
    monkeypatch.setattr(signal, 'signal', lambda number, handler: calls.append((number, handler)))
    with Reporter(tiny_config(), quiet=True) as report:
        report.start(0, 'begins')
    assert calls[2:] == [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL)]


@pytest.mark.slow
def test_every_example_of_the_page_runs(datasets, tmp_path, monkeypatch):
    """The examples run one after another, with less data and fewer steps than the page says."""
    pytest.importorskip('pandas')
    monkeypatch.chdir(tmp_path)
    less = dict(TINY, block_size=8)
    monkeypatch.setattr(train_with_eval, 'train',
                        lambda *configs, **settings: train(*configs, **settings | less))
    monkeypatch.setattr(tbtt.prepare, 'prepare_dataset', lambda name, out_dir, heldout: Path(shutil.copytree(
        datasets['as_math'], out_dir)))
    assert len(EXAMPLES) >= 5
    namespace = {}
    for text in EXAMPLES:
        exec(text, namespace)
    assert namespace['results']['iter'].tolist() == [0, 10, 20]


@pytest.mark.slow
def test_training_from_python_is_the_training_of_the_script(command, small_math, tmp_path, handlers):
    settings = dict(num_seeds=2, seed=3)
    assert command('train_with_eval.py', **settings_of(small_math, tmp_path / 'a', **settings)).status == 0
    results = train(**settings_of(small_math, tmp_path / 'b', **settings), quiet=True)
    for seed in ('seed_3', 'seed_4'):
        one, other = (tmp_path / name / seed / 'results.csv' for name in 'ab')
        assert one.read_bytes() == other.read_bytes()
    assert results.seeds == [3, 4] and results['train_loss'].shape == (2, 3)


def test_a_callback_is_told_each_evaluation_once_it_is_on_the_disk(small_math, tmp_path, capsys, handlers):
    told = []

    def callback(iteration, rows):
        on_disk = read_results(tmp_path / 'a/seed_1338/results.csv')['iter'].tolist()
        told.append((iteration, [row['seed'] for row in rows], rows[0]['train_loss'], iteration in on_disk))
    results = train(**settings_of(small_math, tmp_path / 'a', num_seeds=2), quiet=True, callback=callback)
    assert told == [(t, [1337, 1338], loss, True) for t, loss in zip((0, 10, 20), results['train_loss'][0])]
    assert capsys.readouterr().out == ''


def test_what_a_callback_raises_ends_the_training_and_keeps_what_there_is(small_math, tmp_path, handlers):
    calls = []

    def callback(iteration, rows):
        calls.append(iteration)
        if iteration == 10:
            raise KeyError('mine')
    settings = settings_of(small_math, tmp_path / 'a', max_iters=40)
    with pytest.raises(KeyError, match='mine'):
        train(**settings, callback=callback)
    assert calls == [0, 10] and load_results(tmp_path / 'a')['iter'].tolist()[:2] == [0, 10]
    assert train(**settings, init_from='resume', quiet=True)['iter'].tolist() == list(range(0, 41, 10))


@pytest.mark.slow
def test_ctrl_c_ends_the_training_after_its_step_and_a_resumed_one_is_the_same(small_math, tmp_path, handlers,
                                                                               monkeypatch):
    step = tbtt.progress.Reporter.step

    def interrupted(self, t, losses):
        if t == 10:
            monkeypatch.setattr(tbtt.progress.Reporter, 'step', step)
            os.kill(os.getpid(), signal.SIGINT)
        step(self, t, losses)
    monkeypatch.setattr(tbtt.progress.Reporter, 'step', interrupted)
    results = train(**settings_of(small_math, tmp_path / 'a'), quiet=True)
    assert results['iter'].tolist() == [0, 10] and not results.info[0]['finished']
    train(**settings_of(small_math, tmp_path / 'a'), init_from='resume', quiet=True)
    train(**settings_of(small_math, tmp_path / 'b'), quiet=True)
    one, other = ((tmp_path / name / 'results.csv').read_bytes() for name in 'ab')
    assert one == other


def test_a_second_ctrl_c_interrupts_the_notebook_and_does_not_end_it(small_math, tmp_path, handlers):
    def callback(iteration, rows):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(**settings_of(small_math, tmp_path / 'a'), quiet=True, callback=callback)


def test_a_thread_that_is_not_the_first_may_train(small_math, tmp_path, handlers):
    found = []
    settings = settings_of(small_math, tmp_path / 'a')
    thread = threading.Thread(target=lambda: found.append(train(**settings, quiet=True)))
    thread.start()
    thread.join()
    assert found[0]['iter'].tolist() == [0, 10, 20]


@pytest.mark.parametrize('settings, says', [
    (dict(n_embed=14), 'did you mean n_embd'), (dict(n_head=3), 'not divisible by n_head'),
    (dict(learning_rate='fast'), 'expected float'), (dict(dataset='nowhere'), 'no dataset nowhere'),
    (dict(init_from='resume'), 'no run in')])
def test_a_mistake_is_an_exception_in_the_words_of_the_script(small_math, tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        train(**settings_of(small_math, tmp_path / 'a', **settings))
    assert contents(tmp_path) == {}


def test_a_model_is_that_of_a_file_or_the_latest_of_a_folder(learned):
    latest, best = load_model(learned, 'cpu'), load_model(learned / 'ckpt_best_math.pt', 'cpu')
    assert latest.iteration == 300 and latest.path == learned / 'ckpt.pt' and best.iteration > 0
    assert latest.codec.decode(latest.codec.encode('<1+2=')) == '<1+2=' and list(latest.tasks) == ['math']


def test_a_model_is_asked_prompts_of_any_length_in_their_order(learned):
    model = load_model(learned, 'cpu')
    task, right, wrong = model.ask('math')
    said = ask(model, task.prompts)
    assert len(said) == len(task.prompts) and all('\n' not in text for text in said)
    marks = [task.mark(i, text) for i, text in enumerate(said)]
    assert np.mean(marks) == pytest.approx(right.mean() / 10, abs=0.1)
    sure = right == 10
    assert sure.any() and np.array(marks)[sure].all()
    assert ask(model, ['<1+2=']) == ask(model, ['<1+2=', '<1+2=3>  \n<3'])[:1]


def test_a_prompt_that_stands_there_often_is_drawn_for_as_often(learned):
    model = load_model(learned, 'cpu', seed=5)
    said = ask(model, ['<'] * 20, temperature=1.0, top_k=None)
    assert len(set(said)) > 1 and said == ask(load_model(learned, 'cpu', seed=5), ['<'] * 20, temperature=1.0,
                                              top_k=None)


@pytest.mark.parametrize('prompts, says', [('<1+2=', 'a list of prompts'), ([], 'a list of prompts'),
                                           (['<1', ''], 'none of them empty'), (['<a'], "character 'a'")])
def test_what_cannot_be_asked_is_refused(learned, prompts, says):
    with pytest.raises(UserError, match=re.escape(says)):
        ask(load_model(learned, 'cpu'), prompts)


def test_results_are_arrays_and_where_pandas_is_a_table(learned):
    results = load_results(learned)
    assert results['math_acc'].shape == results['iter'].shape == (7,) and results.seeds == [1337]
    assert load_results(learned / 'results.csv').keys() == results.keys()
    pytest.importorskip('pandas')
    table = results.to_pandas()
    assert table['iter'].tolist() == results['iter'].tolist() and (table['seed'] == 1337).all()
    assert 'math_acc' in table and 'facts_acc' not in table


def test_the_table_of_several_seeds_has_a_row_for_each_evaluation_of_each(small_math, tmp_path):
    pytest.importorskip('pandas')
    results = train(**settings_of(small_math, tmp_path / 'a', num_seeds=2), quiet=True)
    table = results.to_pandas()
    assert list(zip(table['seed'], table['iter'])) == [(s, t) for s in (1337, 1338) for t in (0, 10, 20)]
    assert table['train_loss'].to_numpy().reshape(2, 3) == pytest.approx(results['train_loss'])


def test_without_pandas_a_table_is_one_line(learned, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(UserError, match='pip install -r requirements-study.txt'):
        load_results(learned).to_pandas()


def test_no_results_are_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f'no results in {tmp_path}')):
        load_results(tmp_path)


@pytest.mark.slow
def test_a_dataset_is_prepared_as_its_script_does(small_math, tmp_path):
    folder = prepare_dataset('as_math', tmp_path / 'data', max_operand=4, heldout='1,3')
    assert contents(folder) == contents(small_math)
    for name, options, says in (('as_maths', {}, 'no dataset as_maths'),
                                ('as_math', {'heldout': 'x'}, 'expected pairs such as 5,7')):
        with pytest.raises(UserError, match=says):
            prepare_dataset(name, tmp_path / 'other', **options)
