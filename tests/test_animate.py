"""animate.py: a frame shows what answers.npz holds, in few bytes; messages say what is missing or wrong."""
import io
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import animate
from conftest import contents
from tbtt.answers import Given, append_answers, format_answers, no_answers, read_answers
from tbtt.cli import UserError
from tbtt.results import format_results
from tbtt.tasks import Arithmetic, Capitals

SCRIPT = 'analysis/animate.py'
ITERS = [0, 500, 1000, 30_000]


def write_seed(folder, tasks, probability, right=True, iters=ITERS):
    """A seed's results.csv and answers.npz. probability: (E, P) or a number. right: are all answers right?"""
    used = {'<', '>', *''.join(text for task in tasks.values() for text in task.answers)}
    itos = dict(enumerate(sorted(used)))
    stoi = {character: token for token, character in itos.items()}
    arrays = no_answers(tasks, itos)
    for row, iteration in enumerate(iters):
        given = {}
        for name, task in tasks.items():
            texts = [(answer if right else '>').ljust(task.max_new_tokens, answer[-1])
                     for answer in task.answers]
            said = np.array([[stoi[character] for character in text] for text in texts])
            given[name] = Given(np.broadcast_to(probability, (len(iters), len(texts)))[row], said)
        arrays = append_answers(arrays, iteration, given)
    counts = {}
    for task in tasks.values():
        counts |= {f'{group}_{what}': 40 for group in task.counted() for what in ('correct', 'total')}
    folder.mkdir(parents=True)
    (folder / 'results.csv').write_text(format_results(
        [{'iter': at, 'train_loss': 1.0, 'val_loss': 1.0, **counts} for at in iters]))
    (folder / 'answers.npz').write_bytes(format_answers(arrays))
    return folder


def drawn(folder):
    """-> what is shown of a run, its figure, and the function that changes it to an iteration"""
    shown = animate.read_run(folder)
    return shown, *animate.draw([shown])


def pixel_of(figure, axes, a, b, height):
    """Where the middle of a cell is in a picture."""
    x, y = axes.transData.transform((b + 0.5, a + 0.5))
    return int(x), height - 1 - int(y)


# What a frame shows.

@pytest.mark.slow
def test_each_frame_of_the_gif_has_the_colours_of_the_answers(learned):
    shown, figure, show = drawn(learned)
    iterations, lasts = animate.choose_frames(animate.iterations_of([shown]), every=50)
    film = Image.open(io.BytesIO(animate.gif(animate.frames(figure, show, iterations), lasts, fps=10)))
    task = read_answers(learned / 'answers.npz').tasks['math']
    tables = {axes.get_title(): axes for place in figure.subfigs for axes in place.axes}
    assert film.n_frames == len(iterations) == 7 and film.info['loop'] == 0
    for row in (0, 3, 6):
        film.seek(row)
        picture = film.convert('RGB')
        for a, sign, b in ((0, '+', 0), (4, '+', 2), (2, '-', 4), (3, '-', 3)):
            probability = task.probability[row, task.prompts.index(f'<{a}{sign}{b}=')]
            expected = [round(255 * channel) for channel in animate.SHADES(float(probability))[:3]]
            axes = tables[f'a {sign.replace("-", "−")} b']
            place = pixel_of(figure, axes, a, b, picture.height)
            assert picture.getpixel(place) == pytest.approx(expected, abs=2)


def test_held_out_cells_are_framed_and_say_what_the_model_says(learned):
    shown, figure, show = drawn(learned)
    show(300)
    sums = figure.subfigs[0].axes[0]
    task = read_answers(learned / 'answers.npz').tasks['math']
    frames = {(patch.get_y(), patch.get_x()) for patch in sums.patches}
    assert frames == {(1, 3), (3, 1)}
    said = sorted((*text.get_position(), text.get_text()) for text in sums.texts)
    assert said == [(b + 0.5, a + 0.52, task.said[-1, task.prompts.index(f'<{a}+{b}=')])
                    for a, b in ((3, 1), (1, 3))]


def test_several_seeds_show_the_share_that_answers_right(tmp_path):
    for seed in range(4):
        write_seed(tmp_path / f'run/seed_{seed}', {'math': Arithmetic()}, 0.3, right=seed == 0,
                   iters=ITERS if seed < 2 else ITERS[:2])    # two of them diverge
    shown = animate.read_run(tmp_path / 'run')
    assert shown.asked['math'].shade.shape == (4, 200)
    assert shown.asked['math'].shade[:, 7].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert animate.key_text([shown]) == ('White to blue: share of seeds that answer right. '
                                         'Framed: never trained on')
    assert '4 seeds' in shown.title


def test_facts_are_a_bar_each(tmp_path):
    probability = np.linspace(0, 1, 200).reshape(4, 50)
    shown, figure, show = drawn(write_seed(tmp_path / 'run', {'facts': Capitals()}, probability))
    show(1000)
    assert animate.key_text([shown]) == 'Bars: probability of the right answer'
    bars = [bar for axes in figure.subfigs[0].axes[:2] for bar in axes.patches]
    assert [bar.get_width() for bar in bars] == pytest.approx(probability[2])
    names = [label.get_text() for axes in figure.subfigs[0].axes[:2] for label in axes.get_yticklabels()]
    assert names == [country for country, _ in Capitals().facts]


@pytest.mark.slow
def test_the_heading_has_the_iteration_and_the_scores(tmp_path):
    both = {'math': Arithmetic(), 'facts': Capitals()}
    _, figure, show = drawn(write_seed(tmp_path / 'run', both, 0.5))
    show(30_000)
    assert figure.get_suptitle() == 'Iteration 30,000'
    title = figure.subfigs[0].get_suptitle()
    assert 'Seen in training 100%' in title and 'Held-out 4 of 4' in title and 'Facts 100%' in title


def test_curves_reach_to_the_iteration(learned):
    _, figure, show = drawn(learned)
    curves = figure.subfigs[0].axes[-1]
    for iteration in (50, 200):
        show(iteration)
        end = curves.transData.transform((iteration, 0))[0]
        assert all(line.clipbox.x1 == pytest.approx(end) for line in curves.lines[:-1])


# Which frames.

@pytest.mark.parametrize('every, expected', [(500, [0, 500, 1000, 1500, 2000]), (600, [0, 750, 1250, 2000]),
                                             (5000, [0, 2000])])
def test_every_chooses_a_frame_in_so_many_iterations(every, expected):
    chosen, lasts = animate.choose_frames(np.arange(0, 2001, 250), every)
    assert chosen.tolist() == expected and set(lasts) == {1}


def test_without_every_time_runs_as_on_the_axis_of_the_curves():
    chosen, lasts = animate.choose_frames(np.arange(0, 30_001, 250), None)
    assert (chosen[0], chosen[-1]) == (0, 30_000) and sum(lasts) == animate.FRAMES
    assert set(range(0, 5001, 250)) <= set(chosen) and len(chosen) < 80
    assert lasts[chosen <= 2000].sum() > 0.4 * animate.FRAMES
    assert animate.choose_frames(np.array([0]), None)[0].tolist() == [0]


@pytest.mark.slow
def test_a_run_that_has_just_begun_and_one_that_diverged_are_drawn(tmp_path):
    begun = write_seed(tmp_path / 'begun', {'math': Arithmetic()}, 0.5, iters=[0])
    diverged = write_seed(tmp_path / 'diverged', {'math': Arithmetic()}, np.nan)
    animate.film([*map(animate.read_run, (begun, diverged))], 30_000, 10, tmp_path / 'a.gif')
    assert Image.open(tmp_path / 'a.gif').n_frames == 2


# The files.

@pytest.mark.slow
def test_a_gif_is_small_or_says_that_it_is_not(command, learned, tmp_path, monkeypatch, capsys):
    done = command(SCRIPT, '--model_folder', learned, '--every=300', output_dir=tmp_path / 'new')
    assert (done.status, done.out) == (0, f'wrote {tmp_path / "new" / "animation.gif"}\n'), done.err
    assert (tmp_path / 'new' / 'animation.gif').stat().st_size < 100_000
    monkeypatch.setattr(animate, 'MOST_BYTES', 1000)
    animate.film([animate.read_run(learned)], 300, 10, tmp_path / 'a.gif')
    assert 'a larger --every makes it smaller' in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_of_noise_are_below_two_megabytes(tmp_path):
    iters, random = list(range(0, 30_001, 50)), np.random.default_rng(0)
    folders = [write_seed(tmp_path / f'run_{i}', {'math': Arithmetic()}, random.random((len(iters), 200)),
                          iters=iters) for i in range(2)]
    animate.film([*map(animate.read_run, folders)], None, 10, tmp_path / 'a.gif')
    assert 200_000 < (tmp_path / 'a.gif').stat().st_size < animate.MOST_BYTES


@pytest.mark.slow_after_first
@pytest.mark.parametrize('kind, head', [('png', b'\x89PNG'), ('svg', b'<?xml'), ('pdf', b'%PDF')])
def test_a_still_is_written_in_every_format(command, learned, tmp_path, kind, head):
    done = command(SCRIPT, '--model_folder', learned, at=150, format=kind, output_dir=tmp_path)
    assert done.status == 0, done.err
    assert (tmp_path / f'animation_150.{kind}').read_bytes().startswith(head)


@pytest.mark.slow
def test_a_film_is_made_of_the_same_frames_by_ffmpeg(learned, tmp_path, monkeypatch):
    program = tmp_path / 'ffmpeg'    # writes its input to its output file
    program.write_text(f'#!{sys.executable}\nimport sys\n'
                       'open(sys.argv[-1], "wb").write(sys.stdin.buffer.read())')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    animate.check_format('mp4', None)
    animate.film([animate.read_run(learned)], 150, 4, tmp_path / 'animation.mp4')
    assert Image.open(tmp_path / 'animation.mp4').n_frames == 3
    program.write_text(f'#!{sys.executable}\nimport sys\nsys.stdin.read()\nsys.exit("no such codec")')
    with pytest.raises(UserError, match='ffmpeg failed and said: no such codec: choose --format=gif'):
        animate.mp4(b'', 4)


# What is missing or does not fit.

@pytest.mark.slow
def test_a_run_without_answers_shows_its_curves_and_says_so(command, learned, tmp_path):
    bare = shutil.copytree(learned, tmp_path / 'bare', ignore=shutil.ignore_patterns('answers.npz'))
    done = command(SCRIPT, '--model_folder', bare, learned, at=300, output_dir=tmp_path)
    assert done.status == 0 and done.out.splitlines()[0] == (
        f'{bare}: 0 of 1 seeds have an answers.npz: only the curves are shown')
    alone, _ = animate.draw([animate.read_run(bare)])
    assert len(alone.subfigs[0].axes) == 1
    side, _ = animate.draw([animate.read_run(bare), animate.read_run(learned)])
    assert 'no answers.npz' in side.subfigs[0].axes[0].texts[0].get_text() and len(side.subfigs[1].axes) == 3


def damaged(folder):
    (folder / 'answers.npz').write_bytes((folder / 'answers.npz').read_bytes()[:-100])


def damaged_results(folder):
    (folder / 'results.csv').write_text('iter,add_correct\n0')


@pytest.mark.parametrize('damage, names', [(damaged, 'answers.npz'), (damaged_results, 'results.csv')])
def test_a_damaged_file_is_named_in_one_line(command, copy_of_learned, learned, tmp_path, damage, names):
    damage(copy_of_learned)
    before = contents(tmp_path)
    done = command(SCRIPT, '--model_folder', learned, copy_of_learned, output_dir=tmp_path)
    assert done.status == 2 and done.err.count('\n') == 1 and f'{copy_of_learned / names}' in done.err
    assert contents(tmp_path) == before


def test_runs_of_other_questions_are_not_shown_side_by_side(learned, tmp_path):
    facts = write_seed(tmp_path / 'facts', {'facts': Capitals()}, 0.5)
    larger = write_seed(tmp_path / 'larger', {'math': Arithmetic()}, 0.5)
    small, large, other = map(animate.read_run, (learned, larger, facts))
    with pytest.raises(UserError, match='asked math and .* facts: show runs of the same tasks'):
        animate.check_alike([small, other])
    with pytest.raises(UserError, match='were asked different questions: show runs of the same data'):
        animate.check_alike([small, large])
    animate.check_alike([small, small])
    shutil.copytree(learned, tmp_path / 'mixed/seed_1')
    shutil.copytree(larger, tmp_path / 'mixed/seed_2')
    with pytest.raises(UserError, match='seed_2/answers.npz holds answers to other questions'):
        animate.read_run(tmp_path / 'mixed')


@pytest.mark.parametrize('options, says', [
    (dict(every=0), 'expected at least 1'), (dict(fps=0), 'fps'), (dict(format='webp'), 'webp'),
    (dict(format='png'), 'with --at=ITERATION'), (dict(format='gif', at=100), 'with --at=ITERATION'),
    (dict(at=120), '--at=120: no evaluation then; the nearest are at 100 and 150'),
    (dict(format='mp4'), 'needs the program ffmpeg'), (dict(model_folder='nowhere'), 'no results.csv in')])
def test_a_mistake_is_one_line_and_changes_nothing(command, learned, tmp_path, monkeypatch, options, says):
    monkeypatch.setenv('PATH', str(tmp_path))    # without ffmpeg
    done = command(SCRIPT, **dict(model_folder=learned, output_dir=tmp_path / 'new') | options)
    assert done.status == 2 and says in done.err and done.err.count('\n') == 1 and not done.out
    assert not (tmp_path / 'new').exists()


def test_a_run_that_was_asked_nothing_is_refused(tmp_path):
    (tmp_path / 'results.csv').write_text(format_results([{'iter': 0, 'train_loss': 1.0, 'val_loss': 1.0}]))
    with pytest.raises(UserError, match='was asked no questions'):
        animate.read_run(tmp_path)
