"""Plots, by what they draw: labels, limits, the data of every line, and what happens to the files."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from plot_all_models import draw_grid
from plot_results import draw_run
from tbtt import paper
from tbtt.cli import UserError
from tbtt.figures import LOSS_LOOKS, look, model_looks, save
from tbtt.results import format_results
from tbtt.tasks import TASKS

HERE = Path(__file__).parents[1]
ITERS = [0, 250, 500, 750]
PERFECT = [0, 500, 1000, 1000]
SLOW = [0, 100, 900, 990]


def write_run(folder, add=None, sub=None, facts=None, heldout=None, losses=(3, 2, 1, 0.5), **info):
    """Write a results.csv of four evaluations with these counts, and a run.json if `info` is given."""
    asked = {'add': (add, 1000), 'sub': (sub, 1000), 'heldout': (heldout, 40), 'facts': (facts, 500)}
    rows = [{'iter': at, 'train_loss': loss, 'val_loss': loss} for at, loss in zip(ITERS, losses)]
    for name, (correct, total) in asked.items():
        for row, count in zip(rows, correct or []):
            row |= {f'{name}_correct': count, f'{name}_total': total}
    folder.mkdir(parents=True)
    (folder / 'results.csv').write_text(format_results(rows))
    if info:
        (folder / 'run.json').write_text(json.dumps(info))
    return folder


def lines(axes):
    """{label: (x, y)} of the lines in `axes`."""
    return {line.get_label(): tuple(np.asarray(data).tolist() for data in line.get_data())
            for line in axes.lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def script(name, *args, cwd):
    return subprocess.run([sys.executable, HERE / name, *map(str, args)], cwd=cwd, capture_output=True,
                          text=True)


# One run.

def test_a_run_is_drawn_with_accuracies_left_and_losses_right(tmp_path):
    figure, operation = draw_run(write_run(tmp_path / 'math_mini_14', PERFECT, SLOW, heldout=[0, 4, 20, 40]))
    left, right = figure.axes
    assert operation == 'math'
    assert lines(left)['Addition'] == (ITERS, [0, 50, 100, 100])
    assert lines(left)['Subtraction'] == (ITERS, [0, 10, 90, 99])
    assert lines(left)['Held-out: 4 of 4 (40/40) at the end'] == (ITERS, [0, 10, 50, 100])
    assert lines(right) == {'Training loss': (ITERS, [3, 2, 1, 0.5]),
                            'Validation loss': (ITERS, [3, 2, 1, 0.5])}
    assert (left.get_xlabel(), left.get_ylabel(), right.get_ylabel()) == (
        'Iteration', 'Accuracy (%)', 'Loss (nats a character)')
    assert left.get_xlim() == (0, 750) and left.get_ylim() == (0, 105) and right.get_ylim() == (0, 4.5)


def test_the_legend_names_all_that_is_drawn_and_nothing_else(tmp_path):
    figure, _ = draw_run(write_run(tmp_path / 'facts_mini_14', facts=[0, 1, 2, 500]))
    assert set(legend(figure)) == {'Facts', 'Best combined: 750', 'Training loss', 'Validation loss'}


def test_black_dots_are_where_addition_and_subtraction_are_both_perfect(tmp_path):
    figure, _ = draw_run(write_run(tmp_path / 'a', PERFECT, [1000, 1000, 999, 1000]))
    assert lines(figure.axes[0])['Addition and subtraction at 100%'] == ([750], [100])


def test_the_legend_does_not_list_dots_that_are_not_there(tmp_path):
    figure, _ = draw_run(write_run(tmp_path / 'a', PERFECT, SLOW))
    assert not any('100%' in text for text in legend(figure))


@pytest.mark.parametrize('heldout, label',
                         [(0, 'Held-out: 0 of 4 (0/40) at the end'),
                          (30, 'Held-out: 2 to 4 of 4 (30/40) at the end')])
def test_the_legend_says_how_many_held_out_questions_are_answered(tmp_path, heldout, label):
    figure, _ = draw_run(write_run(tmp_path / 'a', PERFECT, SLOW, heldout=[0, 0, 40, heldout]))
    assert label in legend(figure)


def test_another_run_is_drawn_in_grey_behind(tmp_path):
    for name, add in (('a', PERFECT), ('older', SLOW)):
        write_run(tmp_path / name, add, add)
    left, right = draw_run(tmp_path / 'a', beside=tmp_path / 'older')[0].axes
    behind, front = (next(line for line in left.lines if line.get_label() == label)
                     for label in ('older, beside', 'Addition'))
    assert behind.get_ydata().tolist() == [0, 10, 90, 99] and behind.get_zorder() < front.get_zorder()
    assert right.lines[0].get_label() == 'older, beside'


def test_the_first_of_the_best_evaluations_is_marked(tmp_path):
    figure, _ = draw_run(write_run(tmp_path / 'a', PERFECT, PERFECT))
    assert lines(figure.axes[0])['Best combined: 500'][0] == [500, 500]


@pytest.mark.parametrize('folder, info, title', [
    ('math_mini_14', {}, 'math_mini_14, 1,456 parameters'),
    ('both_mlt_wd', {}, 'both_mlt_wd, 10,647,168 parameters'),
    ('math_mini_14', {'num_params': 2000}, 'math_mini_14, 2,000 parameters'),
    ('mine', {}, 'mine'),
    ('math_mini_28/seed_1337', {}, 'math_mini_28/seed_1337, 5,264 parameters')])
def test_the_title_has_the_parameter_count_of_run_json_or_of_the_paper(tmp_path, folder, info, title):
    figure, _ = draw_run(write_run(tmp_path / folder, PERFECT, SLOW, **info))
    assert figure.axes[0].get_title() == title


def test_an_operation_chooses_what_is_drawn_and_all_that_applies_is_the_default(tmp_path):
    run = write_run(tmp_path / 'a', PERFECT, SLOW, facts=[0, 0, 5, 500], heldout=[0] * 4)
    drawn = {operation: draw_run(run, operation) for operation in (None, 'math', 'facts', 'both')}
    assert drawn[None][1] == 'both'
    assert set(lines(drawn['both'][0].axes[0])) >= {'Addition', 'Subtraction', 'Facts',
                                                    'Held-out: 0 of 4 (0/40) at the end'}
    assert 'Facts' not in lines(drawn['math'][0].axes[0])
    assert set(lines(drawn['facts'][0].axes[0])) == {'Facts', 'Best combined: 750'}


def test_an_operation_that_the_run_was_not_asked_is_refused(tmp_path):
    with pytest.raises(UserError, match='no scores for --operation=facts: choose from math, losses'):
        draw_run(write_run(tmp_path / 'a', PERFECT, SLOW), 'facts')


def test_a_run_without_tasks_shows_its_losses_even_high_ones(tmp_path):
    figure, operation = draw_run(write_run(tmp_path / 'shakespeare', losses=[float('nan'), 10, 5, 4]))
    assert operation == 'losses' and not lines(figure.axes[0])
    assert lines(figure.axes[1])['Training loss'] == (ITERS[1:], [10, 5, 4])
    assert figure.axes[1].get_ylim() == (0, 10.5)


def test_the_papers_file_is_drawn_without_a_held_out_line(tmp_path):
    (tmp_path / 'results.csv').write_text(
        'iter,add_correct,add_total,sub_correct,sub_total,math_acc,facts_correct,facts_total,facts_acc,'
        'train_loss,val_loss\n0,0,1000,0,1000,0,0,0,0,3,3\n250,1000,1000,1000,1000,1,0,0,0,1,1\n')
    figure, operation = draw_run(tmp_path)
    assert operation == 'math' and lines(figure.axes[0])['Addition'] == ([0, 250], [0, 100])
    assert not any('Held-out' in text for text in legend(figure)) and 'Facts' not in legend(figure)


def test_many_seeds_are_a_median_a_range_and_a_share_of_perfect_seeds(tmp_path):
    for seed, add in enumerate(([0, 0, 900, 1000], [0, 500, 1000, 1000], [0, 700, 1000, 1000],
                                [0, 800, 950, 900])):
        write_run(tmp_path / f'math_mini_14/seed_{seed}', add, add)
    figure, _ = draw_run(tmp_path / 'math_mini_14')
    left = figure.axes[0]
    assert lines(left)['Addition'] == (ITERS, [0, 60, 97.5, 100])
    assert lines(left)['Seeds with addition and subtraction at 100%'] == ([500, 750], [50, 75])
    band = {tuple(point) for point in left.collections[0].get_paths()[0].vertices.tolist()}
    assert {(250, 0), (250, 80), (500, 90), (500, 100), (750, 90)} <= band
    assert lines(left)['Best combined, median: 500'][0] == [500, 500]
    assert left.get_title() == 'math_mini_14, 1,456 parameters, median and range of 4 seeds'


def test_a_diverged_seed_does_not_hide_the_others(tmp_path):
    write_run(tmp_path / 'a/seed_1', PERFECT, SLOW, losses=[3, 2, 1, 1])
    write_run(tmp_path / 'a/seed_2', PERFECT, SLOW, losses=[3, float('nan'), float('nan'), float('nan')])
    assert lines(draw_run(tmp_path / 'a')[0].axes[1])['Training loss'] == (ITERS, [3, 2, 1, 1])


# The grids.

def test_a_grid_has_four_panels_in_the_papers_manner(tmp_path):
    for name in ('both_mini_14', 'both_mini_28', 'both_mini_56', 'both_mlt'):
        write_run(tmp_path / name, PERFECT, SLOW, facts=[0, 50, 100, 500])
    figure = draw_grid('both', tmp_path)
    panels, losses = figure.axes[:4], figure.axes[4:]
    assert [panel.get_title() for panel in panels] == [
        f'{model} parameters), stopped at 750' for model in (
            'n14 (2,142', 'n28 (6,636', 'n56 (22,680', 'MLT (10,647,168')]
    for panel, loss in zip(panels, losses):
        assert lines(panel) == {'Addition': ([0, 0.25, 0.5, 0.75], [0, 50, 100, 100]),
                                'Subtraction': ([0, 0.25, 0.5, 0.75], [0, 10, 90, 99]),
                                'Facts': ([0, 0.25, 0.5, 0.75], [0, 10, 20, 100])}
        assert lines(loss) == {'Training loss': ([0, 0.25, 0.5, 0.75], [3, 2, 1, 0.5])}
        assert (panel.get_xlim(), panel.get_ylim(), loss.get_ylim()) == ((0, 30), (0, 105), (0, 4.5))
    assert {panel.get_xlabel() for panel in panels[2:]} == {'Iteration (thousands)'}
    assert panels[0].get_ylabel() == 'Accuracy (%)'
    assert losses[1].get_ylabel() == 'Training loss (nats a character)'
    assert legend(figure) == ['Addition', 'Subtraction', 'Facts', 'Held-out',
                              'Training loss'] and len(figure.legends) == 1


def test_the_grid_draws_what_was_held_out_and_says_how_many_questions_are_answered(tmp_path):
    write_run(tmp_path / 'math_mini_14', PERFECT, SLOW, heldout=[0, 10, 20, 40])
    for seed, last in enumerate((40, 0, 40)):
        write_run(tmp_path / f'math_mini_28/seed_{seed}', PERFECT, SLOW, heldout=[0, 0, 0, last])
    one, many, *_ = draw_grid('math', tmp_path).axes
    assert lines(one)['Held-out'][1] == [0, 25, 50, 100]
    assert one.get_title() == 'n14 (1,456 parameters), stopped at 750\nheld-out 4 of 4 (40/40) at the end'
    assert many.get_title().endswith('3 seeds\n2 of 3 seeds answer all 4 held-out questions')


def test_the_grid_says_where_a_run_was_stopped_early(tmp_path):
    write_run(tmp_path / 'facts_mlt', facts=[0, 100, 200, 300], dtype='bfloat16')
    assert draw_grid('facts', tmp_path).axes[3].get_title() == (
        'MLT (10,641,408 parameters), stopped at 750, bfloat16')


def test_only_the_right_panels_have_ticks_of_the_loss(tmp_path):
    left, right = draw_grid('math', tmp_path).axes[4:6]
    ticks = [[tick.tick2line.get_visible() for tick in axes.yaxis.get_major_ticks()]
             for axes in (left, right)]
    assert not any(ticks[0]) and all(ticks[1])


def test_a_grid_of_another_folder_is_drawn_in_grey_behind(tmp_path):
    write_run(tmp_path / 'now/math_mini_14', PERFECT, SLOW)
    write_run(tmp_path / 'older/math_mini_14', SLOW, SLOW)
    figure = draw_grid('math', tmp_path / 'now', beside=tmp_path / 'older')
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 10, 90,
                                                            99] and 'the same of older' in legend(figure)


def test_the_colours_are_okabe_and_itos_and_no_two_looks_are_equal():
    known = {'#009E73', '#56B4E9', '#D55E00', '#0072B2', '#E69F00', '#CC79A7', '#000000', '#F0E442'}
    looks = [look(group) for task in TASKS.values() for group in task.labels]
    assert len({each['color'] for each in looks}) == len(looks) and {each['color'] for each in looks} <= known
    styles = [each['linestyle'] for each in (*looks, *LOSS_LOOKS.values())]
    assert len(set(styles)) == len(styles)


def test_a_model_has_the_colour_of_its_size_in_every_figure():
    three, two = model_looks([1456, 5264, 19936]), model_looks([5264, 1456])
    assert [each['color'] for each in two] == [three[1]['color'], three[0]['color']]
    for looks in (three, model_looks([1456] * 4), model_looks([1456, 1500, 10_000_000])):
        assert len({each['color'] for each in looks}) == len({each['marker'] for each in looks}) == len(looks)


@pytest.mark.parametrize('wd, end', [(False, ''), (True, '_wd')])
def test_a_missing_run_leaves_a_panel_with_the_command_that_makes_it(tmp_path, wd, end):
    write_run(tmp_path / f'facts_mini_28{end}', facts=[0, 1, 2, 500])
    figure = draw_grid('facts', tmp_path, wd)
    said = [''.join(text.get_text() for text in panel.texts) for panel in figure.axes[:4]]
    assert not said[1] and lines(figure.axes[1])
    for panel, model in ((0, 'mini_14'), (2, 'mini_56'), (3, 'mlt')):
        assert f'python train_with_eval.py config/train_facts_{model}{end}.py' in said[panel]
        assert not figure.axes[panel].lines
    assert legend(figure) == ['Facts', 'Training loss']


def test_seeds_below_a_run_are_a_median_and_a_band_in_its_panel(tmp_path):
    for seed, add in enumerate((PERFECT, SLOW, SLOW)):
        write_run(tmp_path / f'math_mlt/seed_{seed}', add, add)
    figure = draw_grid('math', tmp_path)
    assert lines(figure.axes[3])['Addition'][1] == [0, 10, 90, 99]
    assert len(figure.axes[3].collections) == 2 and not figure.axes[0].collections
    assert figure.axes[3].get_title() == 'MLT (10,628,352 parameters), 3 seeds'
    assert 'Range over seeds' in legend(figure)


def test_the_papers_twelve_parameter_counts_belong_to_its_run_names():
    assert paper.num_params('math_mini_14') == paper.num_params('math_mini_14_wd') == 1456
    assert paper.num_params('facts_mini_56') == 21840 and paper.num_params('both_mlt') == 10647168
    assert paper.num_params('mine') is None


# The files and the commands.

def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'plot.png'
    save(Figure(), path)
    before = path.read_bytes()
    monkeypatch.setattr(Figure, 'savefig', lambda self, file, **_: file.write(b'half') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(Figure(), path)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ['plot.png']
    with pytest.raises(UserError, match='let its name end in one of .*png'):
        save(Figure(), tmp_path / 'plot.xyz')


@pytest.mark.slow
def test_plot_results_works_from_any_folder_and_says_what_it_wrote(command, monkeypatch, tmp_path):
    write_run(tmp_path / 'math_mini_14', PERFECT, SLOW)
    done = script('plot_results.py', '--model_folder', 'math_mini_14', cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, 'wrote math_mini_14/plot_math.png\n')
    assert (tmp_path / 'math_mini_14/plot_math.png').read_bytes().startswith(b'\x89PNG')
    monkeypatch.chdir(tmp_path)
    assert command('plot_results.py', '--model_folder=math_mini_14', '--output=a.svg').status == 0
    assert '<svg' in (tmp_path / 'a.svg').read_text()
    assert command('plot_results.py', '--model_folder=math_mini_14', '--format=pdf').status == 0
    assert (tmp_path / 'math_mini_14/plot_math.pdf').read_bytes().startswith(b'%PDF')


@pytest.mark.slow
def test_plot_all_models_writes_three_grids_and_counts_the_runs(command, monkeypatch, tmp_path):
    write_run(tmp_path / 'runs/both_mini_14_wd', PERFECT, SLOW, facts=[0, 1, 2, 500])
    monkeypatch.chdir(tmp_path)
    done = command('plot_all_models.py', '--wd', '--root_dir=runs', '--output_dir', 'figures')
    assert done.status == 0 and 'found 1 of 12 runs' in done.out
    written = sorted(file.name for file in (tmp_path / 'figures').iterdir())
    assert written == ['grid_combined_wd.png', 'grid_facts_wd.png', 'grid_math_wd.png']
    width = int.from_bytes((tmp_path / 'figures' / written[0]).read_bytes()[16:20], 'big')
    assert width == 200 * 9.5


@pytest.mark.parametrize('args, says', [
    (['plot_results.py', '--model_folder=nowhere'], 'no results.csv in'),
    (['plot_results.py', '--model_folder=damaged'], 'damaged/results.csv: line 2 has 2 of '),
    (['plot_results.py'], '--model_folder'),
    (['plot_results.py', '--model_folder=damaged', '--operation=maths'], 'maths'),
    (['plot_results.py', '--model_foldr=damaged', '--model_folder=a'], 'did you mean --model_folder'),
    (['plot_all_models.py', '--root_dir=nowhere'], 'no folder nowhere'),
    (['plot_all_models.py'], 'math_mini_14/results.csv is empty')])
def test_a_mistake_is_one_line_and_changes_nothing(command, monkeypatch, tmp_path, args, says):
    for folder, text in (('damaged', format_results([]) + '0,1'), ('math_mini_14', '')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'results.csv').write_text(text)
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.chdir(tmp_path)
    done = command(*args)
    assert done.status == 2 and not done.out
    assert says in done.err and done.err.count('\n') == 1
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.slow
def test_what_draws_or_prepares_needs_no_torch():
    names = ['plot_results', 'plot_all_models', 'analysis.make_tables', 'analysis.make_claims',
             'analysis.plot_capacity', 'analysis.plot_frequency', 'analysis.plot_trace', 'analysis.plot_race',
             'analysis.plot_bits', 'analysis.animate', 'tbtt.prepare', 'tbtt.text']
    code = 'import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n'
    code += 'sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code, *names], cwd=HERE).returncode == 0
