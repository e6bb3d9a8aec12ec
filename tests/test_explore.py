"""The page of runs: what is in it, what is refused, and how it works in a browser."""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tbtt.answers import Given, append_answers, format_answers, no_answers, read_answers
from tbtt.cli import UserError
from tbtt.explore import page as page_module
from tbtt.explore.page import axes_of, make_page, names_of, seed_data, tables_of
from tbtt.explore.seeds import read_seeds, short_names
from tbtt.results import format_results
from tbtt.sweep.summary import seed_row, write_summary
from tbtt.tasks import Arithmetic, Capitals

pytest.importorskip('plotly')
EVIL = '<script>alert(1)<_script>&amp;<b>%{x}'    # a folder's name, so without a slash
SCRIPT = 'analysis/explore.py'
PHONE = {'width': 390, 'height': 844}


def write_seed(folder, tasks, evaluations=4, seed=1, **info):
    """A seed's folder of a made-up run: all answers are wrong at first, then more and more are right."""
    texts = [text for task in tasks for text in (*task.prompts, *task.answers)]
    characters = sorted(set(''.join(texts)))
    arrays, rows = no_answers({task.name: task for task in tasks}, dict(enumerate(characters))), []
    for t in range(evaluations):
        given, row = {}, {'iter': 250 * t, 'train_loss': 3 - t / 8, 'val_loss': 3 - t / 8}
        for task in tasks:
            share = (1 + np.arange(len(task.prompts))) / len(task.prompts) * t / max(evaluations - 1, 1)
            texts = [answer if p > 0.5 else task.answers[0] for answer, p in zip(task.answers, share)]
            length = task.max_new_tokens
            said = [[characters.index(c) for c in text.ljust(length, text[-1])[:length]] for text in texts]
            given[task.name] = Given(share.astype(np.float32), np.array(said))
            for group, members in task.groups().items():
                row |= {f'{group}_correct': int((share[members] > 0.5).sum()), f'{group}_total': len(members)}
        arrays = append_answers(arrays, 250 * t, given)
        rows.append(row)
    folder.mkdir(parents=True)
    (folder / 'answers.npz').write_bytes(format_answers(arrays))
    (folder / 'results.csv').write_text(format_results(rows))
    about = {'seed': seed, 'num_params': 1456, 'finished': True, 'config': {'n_embd': 14}}
    (folder / 'run.json').write_text(json.dumps(about | info))
    return folder


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
    """A sweep of two runs with two seeds each; the name of the second run is evil."""
    root = tmp_path_factory.mktemp('explored') / 'sweep'
    rows = []
    for run, size in (('small', 800), (EVIL, 5000)):
        for seed in (1, 2):
            folder = write_seed(root / run / f'seed_{seed}', [Arithmetic(2, [(1, 2)])], 4 + seed, seed,
                                num_params=size)
            rows.append({'run': run, 'folder': f'{run}/seed_{seed}', 'tasks': 'math', 'heldout': '1,2',
                         **seed_row(folder), 'n_embd': size // 100, 'weight_decay': 0.0})
    write_summary(root / 'summary.csv', rows)
    return root


def refused(command, *args):
    result = command(SCRIPT, *args)
    assert result.status == 2 and result.err.startswith('error: ') and result.err.count('\n') == 1, result.err
    return result.err


# What is in the page.

def test_a_page_is_written_whole_and_says_what_is_missing(learned, command, tmp_path):
    run = shutil.copytree(learned, tmp_path / 'run')
    first = command(SCRIPT, run, output=tmp_path / 'a' / 'page.html')
    assert first.status == 0 and first.out.startswith('wrote') and 'answers.npz' not in first.out
    (run / 'answers.npz').unlink()
    (run / 'run.json').unlink()
    second = command(SCRIPT, run, output=tmp_path / 'page.html')
    assert second.status == 0 and second.out.startswith('1 of 1 seeds have no answers.npz')
    assert (tmp_path / 'page.html').stat().st_size < (tmp_path / 'a' / 'page.html').stat().st_size < 3e6


def test_the_data_of_a_page_are_the_answers(learned):
    seed, = read_seeds([learned])
    answers, data = read_answers(learned / 'answers.npz'), seed_data(seed, 1, questions := [])
    task, given = answers.tasks['math'], data['answers'][0]
    assert data['iters'] == answers.iters.tolist() and questions[0]['prompts'] == task.prompts
    levels = np.array([[ord(character) for character in row] for row in given['level']])
    np.testing.assert_allclose(levels / 255, task.probability, atol=0.5 / 255 + 1e-6)
    said = [[given['texts'][k] if k else right for k, right in zip(row, task.answers)]
            for row in given['said']]
    assert said == task.said.tolist()


def test_a_page_that_would_be_too_large_has_fewer_evaluations_and_says_so(learned, monkeypatch):
    seeds = read_seeds([learned])
    page, left_out = make_page(seeds)
    assert not left_out
    monkeypatch.setattr(page_module, 'LIMIT', len(page) - 1)
    smaller, left_out = make_page(seeds)
    assert len(smaller) < len(page) and 'one evaluation in 2' in left_out[0]
    assert seed_data(seeds[0], 2, [])['iters'] == [0, 100, 200, 300]
    assert seed_data(seeds[0], 4, [])['iters'] == [0, 200, 300], 'the last stays'
    monkeypatch.setattr(page_module, 'LIMIT', 1000)
    with pytest.raises(UserError, match='name fewer runs'):
        make_page(seeds)


def test_sums_are_laid_out_as_tables_and_other_questions_as_a_list():
    plus, minus = tables_of(Arithmetic(3, ()).prompts)
    assert plus['sign'] == '+' and plus['cells'][1][2] == 6 and minus['cells'][0][0] == 16
    assert tables_of(['<1+2=', '<2+1='])[0]['cells'] == [[None, 0], [1, None]]
    assert tables_of(Capitals().prompts) == []
    assert names_of(Capitals().prompts)[:3] == ['France', 'the USA', 'Japan'] and names_of(['<1=']) == ['<1=']


def test_folders_of_one_name_are_told_apart():
    assert list(short_names([Path('/a/n14'), Path('/a/n28')]).values()) == ['n14', 'n28']
    assert list(short_names([Path('/a/n14'), Path('/b/n14')]).values()) == ['a/n14', 'b/n14']


def test_scores_can_be_drawn_against_the_settings_in_which_seeds_differ(sweep):
    rows = [seed.row for seed in read_seeds([sweep])]
    assert list(axes_of(rows)) == ['num_params', 'n_embd', 'run']
    assert 'data_order' in axes_of([row | {'data_order': name} for row, name in zip(rows, 'abcd')])
    assert list(axes_of([row | {'num_params': None, 'n_embd': 14} for row in rows])) == ['run']


def test_a_table_whose_runs_are_gone_still_shows_their_scores(sweep, command, tmp_path):
    shutil.copy(sweep / 'summary.csv', tmp_path)
    result = command(SCRIPT, tmp_path, output=tmp_path / 'page.html')
    assert result.status == 0 and '4 of 4 seeds have no results.csv' in result.out


# What is refused.

def test_what_is_no_run_or_damaged_is_refused_and_nothing_is_written(sweep, command, tmp_path):
    run, output = shutil.copytree(sweep / 'small', tmp_path / 'run'), f'--output={tmp_path / "page.html"}'
    assert 'no results.csv' in refused(command, tmp_path / 'nowhere', output)
    assert 'unknown option --outptu' in refused(command, run, '--outptu=x')
    for name in ('answers.npz', 'results.csv', 'run.json'):
        path = run / 'seed_2' / name
        whole = path.read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
        assert f'seed_2/{name}' in refused(command, run, output)
        path.write_bytes(whole)
    (tmp_path / 'summary.csv').write_text('run,folder\na,b\n')
    assert 'line 1 lacks the column' in refused(command, tmp_path, output)
    assert not (tmp_path / 'page.html').exists()


def test_runs_side_by_side_are_asked_the_same(sweep, command, tmp_path):
    facts = write_seed(tmp_path / 'facts', [Capitals()])
    other = write_seed(tmp_path / 'other', [Arithmetic(3, ())])
    assert 'different tasks' in refused(command, sweep / 'small', facts)
    assert 'different questions' in refused(command, sweep / 'small', other)


def test_without_plotly_one_line_says_how_to_get_it(sweep, command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'plotly.offline', None)
    page_module.packed_plotly.cache_clear()
    said = refused(command, sweep, f'--output={tmp_path / "page.html"}')
    assert 'pip install -r requirements-study.txt' in said and not (tmp_path / 'page.html').exists()


# In a browser.

@pytest.fixture(scope='module')
def chromium():
    """A headless browser."""
    api = pytest.importorskip('playwright.sync_api')
    found = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if found is None:
        pytest.skip('no chromium here')
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def show(chromium, tmp_path_factory):
    """show(*paths) -> their page, opened from the disk, offline. The page may write nothing to the console
    and request nothing from the network."""
    seen = []

    def opened(*paths, size=None):
        file = tmp_path_factory.mktemp('page') / 'page.html'
        file.write_bytes(make_page(read_seeds(paths))[0])
        tab = chromium.new_page(viewport=size or {'width': 1280, 'height': 1000}, offline=True)
        tab.set_default_timeout(20_000)
        tab.on('console', lambda message: seen.append(message.text))
        tab.on('pageerror', lambda error: seen.append(str(error)))
        tab.on('dialog', lambda dialog: seen.append(dialog.message))
        tab.on('request', lambda request: request.url == file.as_uri() or seen.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector('body[data-ready]')
        assert not seen
        return tab

    yield opened
    assert not seen


@pytest.fixture(scope='module')
def tab(show, sweep):
    """The page of the sweep."""
    return show(sweep)


@pytest.fixture
def opened(tab, expect, sweep):
    """opened(seed) -> the page of the sweep, open at a seed of the run `small`, and that seed's answers"""
    def run(seed):
        tab.select_option('#seed', label=f'small, seed {seed}')
        expect(tab.locator('#answers-title')).to_have_text(f'Answers: small, seed {seed}')
        return tab, read_answers(sweep / f'small/seed_{seed}/answers.npz')
    return run


@pytest.fixture(scope='module')
def expect():
    """expect(locator).to_have_text(...): waits for it."""
    api = pytest.importorskip('playwright.sync_api')
    api.expect.set_options(timeout=20_000)
    return api.expect


def curves(tab):
    """The lines of the curves."""
    return tab.locator('#curves .scatterlayer .trace')


def cells(tab, table=0):
    """What a table shows. -> probabilities and texts, a list of rows each"""
    return tab.evaluate(f"""() => {{
        const [colours, texts] = document.querySelectorAll('.table')[{table}].data;
        return [colours.z, texts.text]; }}""")


@pytest.mark.slow
def test_the_slider_changes_the_tables_to_what_the_answers_hold(opened):
    tab, answers = opened(1)
    task, last = answers.tasks['math'], len(answers.iters) - 1
    tab.focus('#time')
    for key, t in (('End', last), ('ArrowLeft', last - 1), ('Home', 0)):
        tab.keyboard.press(key)
        assert tab.text_content('#now').startswith(f'iteration {answers.iters[t]:,},')
        for table, part in enumerate((slice(0, 9), slice(9, 18))):
            shades, texts = cells(tab, table)
            np.testing.assert_allclose(np.ravel(shades), task.probability[t, part], atol=0.5 / 255 + 1e-6)
            plain = [text.removeprefix('<b>').removesuffix('×</b>') for text in texts]
            assert plain == task.said[t, part].tolist()
            wrong = [text.startswith('<b>') for text in texts]
            assert wrong == (task.said[t, part] != np.array(task.answers[part])).tolist()


@pytest.mark.slow
def test_hovering_a_cell_shows_the_prompt_and_a_click_the_course_of_its_answer(opened, expect):
    tab, answers = opened(2)
    task = answers.tasks['math']
    prompt = task.prompts.index('<2-1=')
    tab.locator('#tables').scroll_into_view_if_needed()
    tab.focus('#time')
    tab.keyboard.press('End')
    box = tab.locator('.table').nth(1).locator('.nsewdrag').bounding_box()
    place = box['x'] + box['width'] / 2, box['y'] + box['height'] * 5 / 6
    tab.mouse.move(*place)
    text = tab.locator('.table .hovertext').text_content()
    assert text.startswith(f'<2-1=right: 1says: {task.said[-1, prompt]}probability ')
    assert text.endswith('%held out')
    shown = float(text.split('probability ')[1].split('%')[0])
    assert shown == pytest.approx(100 * task.probability[-1, prompt], abs=0.3)
    count = curves(tab).count()
    tab.mouse.click(*place)
    expect(curves(tab)).to_have_count(count + 1)
    line = tab.evaluate("document.getElementById('curves').data.at(-1).y")
    np.testing.assert_allclose(line, 100 * task.probability[:, prompt], atol=0.2)
    assert 'right: 1' in tab.text_content('#said')


@pytest.mark.slow
def test_a_click_on_a_score_opens_the_run_and_a_name_is_shown_as_it_is(opened, expect):
    tab, _ = opened(1)
    assert tab.title().count(EVIL) == 1
    tab.locator('#scores .point').nth(3).click(force=True)
    expect(tab.locator('#answers-title')).to_have_text(f'Answers: {EVIL}, seed 2')
    assert tab.locator('#scores .hovertext').text_content().startswith(f'{EVIL}, seed 2')
    assert tab.text_content('#settings').count('num_params5000') == 1 and tab.input_value('#seed') == '3'
    count = curves(tab).count()
    tab.get_by_role('checkbox', name='seed 1').uncheck()
    expect(curves(tab)).to_have_count(count // 2)
    tab.get_by_role('checkbox', name='Held-out').uncheck()
    expect(curves(tab)).to_have_count(count // 2 - 1)
    tab.get_by_role('checkbox', name='Held-out').check()


@pytest.mark.slow
def test_a_phone_shows_facts_and_every_control_is_reached_by_keys(show, expect, tmp_path):
    root = tmp_path / 'both'
    for seed in (1, 2):
        write_seed(root / f'seed_{seed}', [Arithmetic(2, ()), Capitals()], seed=seed)
    tab = show(root, size=PHONE)
    assert tab.evaluate('document.documentElement.scrollWidth') <= PHONE['width']
    assert tab.locator('.row .barlayer .point').count() == len(Capitals().prompts)
    right = 'Facts: 26 of 50 right'    # 25, and Paris, which is also every wrong answer
    assert all(tab.get_by_text(text, exact=True).is_visible() for text in ('the Netherlands', right))
    controls = set(tab.evaluate("""[...document.querySelectorAll('select, input, button, summary')]
        .filter(each => each.checkVisibility()).map(each => each.id || each.value || each.tagName)"""))
    reached = set()
    for _ in range(2 * len(controls)):
        tab.keyboard.press('Tab')
        reached.add(tab.evaluate('(each => each.id || each.value || each.tagName)(document.activeElement)'))
    assert controls <= reached and {'seed', 'time', 'play', 'question', 'SUMMARY'} <= controls
    tab.focus('#play')
    tab.keyboard.press('Enter')    # it stands at the last evaluation and goes on from the first
    expect(tab.locator('#now')).to_contain_text('iteration 250')
    tab.keyboard.press('Enter')
    assert tab.text_content('#play') == 'Play'


@pytest.mark.slow
def test_a_sweep_of_400_seeds_opens_in_three_seconds(chromium, tmp_path):
    first = write_seed(tmp_path / 'first', [Arithmetic(), Capitals()], 121)
    for run in range(50):
        for seed in range(1, 9):
            shutil.copytree(first, tmp_path / 'runs' / f'run{run}' / f'seed_{seed}')
    page, _ = make_page(read_seeds(sorted((tmp_path / 'runs').iterdir())))
    (tmp_path / 'page.html').write_bytes(page)
    assert len(page) <= 8e6 and page.count(b'id="seed') > 400
    tab = chromium.new_page()
    metrics = tab.context.new_cdp_session(tab)
    metrics.send('Performance.enable')
    tab.goto((tmp_path / 'page.html').as_uri())
    tab.wait_for_selector('body[data-ready]')
    # Only the time of the page's thread counts: the machine may be busy with other work.
    found = {each['name']: each['value'] for each in metrics.send('Performance.getMetrics')['metrics']}
    tab.close()
    assert 0 < found['ThreadTime'] < 3
