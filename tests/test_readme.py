"""README.md, docs/, headers of config/: numbers match committed files, and all that they name exists."""
import re
from pathlib import Path

import numpy as np
import pytest

import readme
from readme import BLOCKS, CONFIGS, PAGES, ROOT, block, fill_config, fill_page
from tbtt.config import FIELDS, Config, load_config
from tbtt.sweep import claims, controls

README = ROOT / 'README.md'
CURRENT = [page for page in PAGES if page.name != 'LOG.md']    # LOG.md names files of its time
SCRIPTS = [path.relative_to(ROOT).as_posix() for folder in ('.', 'analysis', 'runs')
           for path in sorted((ROOT / folder).glob('*')) if path.suffix in ('.py', '.sh')]


@pytest.fixture(scope='module')
def made() -> dict[str, str]:
    """{name: text} of every generated block, made once."""
    return {name: make() for name, make in BLOCKS.items()}


def seed(**columns) -> dict:
    """A row of a summary: all right at the best evaluation, half of the held-out answers at the last."""
    return dict(heldout_total=40, heldout_questions=4, best_heldout_correct=40, last_heldout_correct=20,
                best_combined=100.0, best_add=100.0, best_sub=100.0, best_facts=None, iter=30_000,
                path=Path('nowhere')) | columns


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_those_of_the_committed_files(page, made):
    text = page.read_text(encoding='utf-8')
    assert fill_page(text, {name: lambda name=name: made[name] for name in BLOCKS}) == text


def test_every_block_stands_in_one_page_and_every_mark_is_a_block():
    texts = {page: page.read_text(encoding='utf-8') for page in PAGES}
    marks = re.findall(r'^<!-- /?(\w+) -->$', '\n'.join(texts.values()), re.MULTILINE)
    assert sorted(marks) == sorted([*BLOCKS, *BLOCKS])
    assert all(sum(bool(block(name).search(text)) for text in texts.values()) == 1 for name in BLOCKS)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_says_what_its_committed_runs_gave(path):
    text = path.read_text(encoding='utf-8')
    assert fill_config(text, readme.config_header(load_config([path], {}))) == text


@pytest.mark.slow
def test_the_committed_verdicts_are_those_of_the_committed_sweeps():
    rows = readme.swept()
    assert readme.verdicts() == claims.report([*claims.judge(rows), *controls.judge_controls(rows)])


def test_the_table_of_verdicts_has_every_claim_with_the_verdict_of_its_text():
    text = readme.verdicts()
    for number, line in enumerate(readme.verdict_table().splitlines()[2:], 1):
        _, said, claim, verdict, _ = map(str.strip, line.split('|'))
        assert said == str(number) and f'**Claim {number}: {claim}** Verdict: {verdict}.' in text
    assert number == text.count('**Claim ')


def test_a_stale_page_is_named_and_mended(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'page.md'
    page.write_text('Before.\n<!-- number -->\n1\n<!-- /number -->\nAfter.\n')
    monkeypatch.setattr(readme, 'ROOT', tmp_path)
    monkeypatch.setattr(readme, 'PAGES', [page])
    monkeypatch.setattr(readme, 'CONFIGS', [])
    monkeypatch.setattr(readme, 'BLOCKS', {'number': lambda: '2'})

    def call(*options: str) -> int:
        monkeypatch.setattr('sys.argv', ['readme.py', *options])
        return readme.main()

    assert call('--check') == 1 and 'page.md' in capsys.readouterr().out
    assert call() == 0 and page.read_text() == 'Before.\n<!-- number -->\n2\n<!-- /number -->\nAfter.\n'
    assert call('--check') == 0 and not capsys.readouterr().out.count('stale')


def test_held_out_scores_are_questions():
    assert readme.heldout([seed()], 'best') == '4.0'
    assert readme.heldout([seed(), seed(), seed(best_heldout_correct=25)], 'best') == '3.5 (1.3 to 4.0)'
    assert readme.heldout([seed(heldout_total=None)], 'best') == ''
    assert readme.extreme([seed(), seed(last_heldout_correct=0)], 0) == '0 / 1'
    assert readme.heldout([seed(best_heldout_correct=35, best_heldout_answered=3)], 'best') == '3.0'


def test_intervals_stay_within_what_is_possible():
    assert readme.interval(np.array([98.0, 100.0, 99.9]), 100) == '99.3 (96.5 to 100.0)'
    assert readme.interval(np.array([0.0, 1.0]), 4) == '0.5 (0.0 to 4.0)'
    assert readme.interval(np.array([7.25]), 100) == '7.2'
    assert readme.interval(np.array([0.0, 0.0, 0.0]), 4) == '0.0 (all alike)'


def test_runs_that_stopped_early_say_where():
    assert readme.our_cells([seed(iter=2750)])[0] == '1, stopped at 2,750'
    assert '(1 seed, stopped at 2,750, best)' in readme.scores([seed(iter=2750)], 30_000)
    assert 'stopped' not in readme.scores([seed(iter=2750)], 2750)


def test_a_model_that_was_not_run_says_so():
    header = readme.config_header(Config(out_dir='no_such_run'))
    assert list(header.values()) == ['# Ours: not run.', '# Time: not run.']


def test_the_header_of_a_config_file_has_a_score_a_task_and_held_out_questions():
    facts = seed(best_add=None, best_sub=None, best_facts=8.0, heldout_total=None)
    assert readme.scores([seed(), seed(best_sub=90.0)], 30_000) == (
        'addition 100.0%, subtraction 95.0%, held-out 4.0 of 4 (mean of 2 seeds, best).')
    assert readme.scores([facts], 30_000) == 'facts 8.0% (1 seed, best).'


def test_seeds_that_share_the_seconds_of_a_process_were_trained_together(monkeypatch):
    seconds = {'a': 60.0, 'b': 60.0, 'c': 450.0}
    monkeypatch.setattr(readme, 'read_info', lambda path: dict(
        seconds=seconds[path.name], step='eager', hardware='a CPU'))
    a, b, c = (seed(path=Path(name)) for name in 'abc')
    assert readme.time_taken([a, b]) == '60 s (2 seeds together; a CPU; eager).'
    assert readme.time_taken([a, b, c]) == '8 min (1 seed; a CPU; eager).'


def test_only_the_header_lines_that_a_config_file_has_are_made_anew():
    text = '# Table 2.\n# Ours: old\nn_embd = 14\n'
    header = {'# Ours:': '# Ours: new', '# Time:': '# Time: new'}
    assert fill_config(text, header) == '# Table 2.\n# Ours: new\nn_embd = 14\n'


def test_every_setting_is_in_the_table():
    assert [line.split('`')[1] for line in readme.settings().splitlines()[2:]] == list(FIELDS)


def test_the_readme_is_short():
    assert 100 <= len(README.read_text(encoding='utf-8').splitlines()) <= 130


def test_every_script_is_named():
    text = '\n'.join(page.read_text(encoding='utf-8') for page in CURRENT)
    names = [Path(script).name for script in SCRIPTS]
    assert names and not [name for name in names if not re.search(rf'\b{re.escape(name)}\b', text)]


def test_every_module_and_wing_has_one_room():
    modules = [path.stem for path in (ROOT / 'tbtt').glob('*.py') if path.name != '__init__.py']
    wings = [path.parent.name for path in (ROOT / 'tbtt').glob('*/__init__.py')]
    assert sorted(name for names in readme.ROOMS.values() for name in names) == sorted([*modules, *wings])


def test_every_file_has_a_line_that_says_what_it_is_for(made):
    for path in [*ROOT.glob('*.py'), *ROOT.glob('analysis/*.py'), *ROOT.glob('tbtt/**/*.py')]:
        if path.name != '__init__.py':
            line = re.search(f'^- `{path.relative_to(ROOT).as_posix()}`: (.*)$', made['files'], re.MULTILINE)
            assert line and len(line[1]) > 20, path


@pytest.mark.parametrize('page', CURRENT, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding='utf-8')
    links = [link for link in re.findall(r'\]\(([^)]+)\)', text) if not link.startswith('http')]
    named = re.findall(r'(?<![\w/.])(?:results|config|runs|tbtt|docs|tests|analysis)/[\w./=]*\w\.\w+', text)
    assert not [link for link in links if not (page.parent / link).exists()]
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_test_that_a_page_names_is_there():
    tests = ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'tests').glob('*.py'))
    text = '\n'.join(page.read_text(encoding='utf-8') for page in CURRENT)
    named = re.findall(r'`(test_\w+)`', text)
    assert named and not [name for name in named if f'def {name}(' not in tests]


def test_every_entry_of_the_log_says_why_what_and_how_to_see_it():
    entries = (ROOT / 'docs' / 'LOG.md').read_text(encoding='utf-8').split('\n## ')[1:]
    wanted = (r'\*\*Idea\.\*\*', r'\*\*Conclusion\.\*\*', r'\nCommits? [0-9a-f]{7}[^\n]*`')
    assert entries
    for entry in entries:
        assert all(re.search(part, entry) for part in wanted), entry.splitlines()[0]
