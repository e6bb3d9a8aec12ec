"""Watch models learn: the tables of their answers, coloured by the probability of the right one.

    python analysis/animate.py --model_folder math_mini_14 math_mini_28 math_mini_56
    python analysis/animate.py --model_folder facts_mini_28 --every=500 --fps=5 --output_dir=figures
    python analysis/animate.py --model_folder math_mini_14 --format=mp4        (where ffmpeg is installed)
    python analysis/animate.py --model_folder math_mini_14 math_mini_28 --at=11000 --format=svg

Reads answers.npz and results.csv of run folders that were asked the same questions. Writes animation.gif into
--output_dir, or with --at a picture of one iteration, such as animation_11000.png. The runs are shown side by
side: the scores, the tables of a + b and a - b, the facts as bars, and below them the curves up to this
iteration. Held-out cells are framed and hold the model's answer. For several seeds a cell shows the share of
seeds whose most probable answer is right, and no answer. Frames are closer together in the first thousands of
iterations, as on the axis of the curves; --every=N takes one every N iterations. A run without answers.npz
shows only its curves. Takes half a minute; a GIF of two runs is smaller than 2 MB.
"""
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run    # first: it names missing packages

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.spines import Spine
from PIL import Image

from tbtt.answers import Answers, read_answers
from tbtt.atomic import write_file
from tbtt.figures import (BLUE, FIRST_THOUSANDS, FORMATS, draw_seeds, iterations_axis, legend_once, look,
                          percent_axis, run_title, save)
from tbtt.layout import ANSWERS
from tbtt.results import Results, group_label, read_info, read_seeds, seeds_in, seen_percent, stack_seeds
from tbtt.tasks import TASKS, Task

EXPRESSION = re.compile(r'<(\d\d?)([+-])(\d\d?)=')
FRAMES, HOLD = 110, 2.0       # frames without --every; seconds that the last frame stays
MOST_BYTES = 2_000_000        # of a GIF that a page should carry
MOVES = 'moves'               # gid of the artists that change with the iteration
SHADES = LinearSegmentedColormap.from_list('right', ['white', BLUE], N=16)    # few colours: a small GIF
UNKNOWN = '0.85'              # a cell without a number: nothing kept yet, or the loss is not finite

Show = Callable[[int], None]    # updates what is drawn to an iteration


# What is shown.

class Asked(NamedTuple):
    """The answers to the P questions of a task over E evaluations."""
    prompts: list[str]
    heldout: np.ndarray    # (P,) bool
    shade: np.ndarray      # (E, P) probability of the right answer; for several seeds the share that is right
    said: np.ndarray       # (E, P) text, the most probable answer; empty texts for several seeds


class Shown(NamedTuple):
    """What is shown of a run."""
    folder: Path
    title: str
    results: Results           # of all seeds, stacked
    iters: np.ndarray          # (E,) iterations of the answers
    asked: dict[str, Asked]    # by task; {} if no answers were kept


def tasks_in(results: Results) -> list[type[Task]]:
    """The tasks that a run was asked."""
    return [task for task in TASKS.values() if not np.isnan(results[f'{task.name}_acc']).all()]


def read_run(folder: Path) -> Shown:
    """Read a run of one seed or of many. Raises `UserError` if it is damaged, or has no scores of a task."""
    seeds = seeds_in(folder)
    results = stack_seeds(read_seeds(seeds))
    if not tasks_in(results):
        raise UserError(f'{folder}: this run was asked no questions: draw its losses with plot_results.py')
    kept = [seed / ANSWERS for seed in seeds if (seed / ANSWERS).exists()]
    if len(kept) < len(seeds):
        print(f'{folder}: {len(kept)} of {len(seeds)} seeds have an {ANSWERS}: '
              + ('the tables are of those' if kept else 'only the curves are shown'))
    answers = [read_answers(path) for path in kept]
    title = run_title(folder.resolve(), read_info(seeds[0]), len(seeds))
    iters = functools.reduce(np.union1d, [each.iters for each in answers], np.empty(0, int))
    for path, each in zip(kept, answers):
        if questions(each) != questions(answers[0]):
            raise UserError(f'{path} holds answers to other questions than {kept[0]}: name each run alone')
    tasks = [name for name in TASKS if answers and name in answers[0].tasks]
    return Shown(folder, title, results, iters, {name: asked_of(answers, name, iters) for name in tasks})


def questions(answers: Answers) -> dict[str, list[str]]:
    """{task: prompts}"""
    return {name: task.prompts for name, task in answers.tasks.items()}


def asked_of(answers: Sequence[Answers], name: str, iters: np.ndarray) -> Asked:
    """The answers to one task, from one seed or from several. iters: those of all seeds"""
    first = answers[0].tasks[name]
    if len(answers) == 1:
        return Asked(first.prompts, first.heldout, first.probability, first.said)
    right = np.full((len(answers), len(iters), len(first.prompts)), np.nan)
    for row, each in zip(right, answers):
        row[np.isin(iters, each.iters)] = each.tasks[name].right
    there = ~np.isnan(right)    # a seed that diverged has no later evaluations
    share = np.nansum(right, axis=0) / there.sum(axis=0)
    return Asked(first.prompts, first.heldout, share, np.full(share.shape, ''))


def check_alike(runs: Sequence[Shown]) -> None:
    """Raises `UserError` if the runs were asked different tasks or questions."""
    first, with_answers = runs[0], [each for each in runs if each.asked]
    for each in runs:
        one, other = ([task.name for task in tasks_in(some.results)] for some in (first, each))
        if one != other:
            raise UserError(f'{first.folder} was asked {"+".join(one)} and {each.folder} {"+".join(other)}: '
                            f'show runs of the same tasks side by side')
    for each in with_answers:
        prompts = [{name: asked.prompts for name, asked in some.asked.items()}
                   for some in (with_answers[0], each)]
        if prompts[0] != prompts[1]:
            raise UserError(f'{with_answers[0].folder} and {each.folder} were asked different questions: '
                            f'show runs of the same data side by side')


def iterations_of(runs: Sequence[Shown]) -> np.ndarray:
    """The iterations at which any of the runs was evaluated, (E,)."""
    return np.unique(np.concatenate([each.results['iter'] for each in runs])).astype(int)


def row_at(iters: np.ndarray, iteration: int) -> int:
    """The row of the last evaluation up to an iteration, or the first row if there is none."""
    return max(0, int(np.searchsorted(iters, iteration, side='right')) - 1)


def choose_frames(iters: np.ndarray, every: int | None) -> tuple[np.ndarray, np.ndarray]:
    """-> the iterations that are shown, and how many frames each of them lasts

    Without `every`, frames are evenly spaced on the axis of the curves. iters: (E,) -> (F,), (F,)
    """
    if every:
        rows = np.unique(np.searchsorted(iters, np.append(np.arange(iters[0], iters[-1], every), iters[-1])))
        return iters[rows], np.ones(len(rows), int)
    scale = SymmetricalLogTransform(10, **FIRST_THOUSANDS)
    places = scale.transform(iters.astype(float))
    moments = np.linspace(places[0], places[-1], FRAMES)
    rows, lasts = np.unique(np.searchsorted(places, moments + 1e-9, side='right') - 1, return_counts=True)
    return iters[rows], lasts


def scores_text(shown: Shown, iteration: int) -> str:
    """Scores such as `Seen in training 97%`, `Held-out 2 of 4`: means over the seeds that still have any."""
    row, parts = row_at(shown.results['iter'], iteration), []

    def mean(values: np.ndarray) -> float:
        values = values[:, row]
        return values[~np.isnan(values)].mean() if (~np.isnan(values)).any() else np.nan
    for task in tasks_in(shown.results):
        parts.append(f'{group_label(task.seen_group or task.scored[0])} '
                     f'{mean(seen_percent(shown.results, task)):.0f}%')
        if task.heldout_group:
            asked, answered = (mean(shown.results[f'{task.heldout_group}_{what}'])
                               for what in ('questions', 'answered'))
            if asked == asked:
                parts.append(f'{group_label(task.heldout_group)} {round(answered, 1):g} of {asked:.0f}')
    return '     '.join(parts)


# Drawing.

def draw_table(axes: Axes, shown: Shown, asked: Asked, sign: str) -> Show:
    """The table of sums or of differences, a down and b to the right, held-out cells framed."""
    cells = [(i, int(found[1]), int(found[3])) for i, prompt in enumerate(asked.prompts)
             if (found := EXPRESSION.fullmatch(prompt)) and found[2] == sign]
    which, a, b = np.array(cells).T
    mesh = axes.pcolormesh(np.zeros((max(a) + 1, max(b) + 1)), cmap=SHADES.with_extremes(bad=UNKNOWN),
                           vmin=0, vmax=1, edgecolors='0.9', linewidth=0.4, gid=MOVES)
    axes.invert_yaxis()
    axes.set_aspect('equal')
    ticks = np.arange(0, max(a) + 1, 1 if max(a) < 12 else 10)
    axes.set_xticks(ticks + 0.5, ticks)
    axes.set_yticks(ticks + 0.5, ticks)
    axes.tick_params(length=0, labelsize=7, pad=2)
    axes.set_title(f'a {"−" if sign == "-" else sign} b', fontsize=10, pad=3)
    axes.set_xlabel('b', fontsize=8, labelpad=1)
    axes.set_ylabel('a', fontsize=8, labelpad=6, rotation=0, va='center')
    texts = {}
    for i, row, column in cells:
        if asked.heldout[i]:
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, linewidth=1.8,
                                     edgecolor=look('heldout')['color'], zorder=3, gid=MOVES))
            texts[i] = axes.text(column + 0.5, row + 0.52, '', ha='center', va='center', fontsize=7, zorder=4,
                                 parse_math=False, gid=MOVES)

    def show(iteration: int) -> None:
        at = row_at(shown.iters, iteration)
        known = iteration >= shown.iters[0]    # before that, no answers were kept
        shades = np.full(mesh.get_array().shape, np.nan)
        shades[a, b] = asked.shade[at, which] if known else np.nan
        mesh.set_array(np.ma.masked_invalid(shades))
        for i, text in texts.items():
            text.set(text=str(asked.said[at, i])[:3] if known else '',
                     color='white' if asked.shade[at, i] > 0.6 else 'black')
    return show


def draw_bars(panels: Sequence[Axes], shown: Shown, asked: Asked, task: type[Task]) -> Show:
    """A bar for each question, half of them in each panel."""
    common = len(os.path.commonprefix(asked.prompts))
    end = len(os.path.commonprefix([prompt[::-1] for prompt in asked.prompts]))
    names = [prompt[common:len(prompt) - end] for prompt in asked.prompts]
    half = -(-len(names) // len(panels))
    bars = []
    for i, axes in enumerate(panels):
        some = slice(i * half, (i + 1) * half)
        colours = np.where(asked.heldout[some], look(task.heldout_group or task.scored[0])['color'],
                           look(task.scored[0])['color'])
        bars += axes.barh(range(len(names[some])), 0, color=colours, height=0.8, gid=MOVES)
        axes.set_yticks(range(len(names[some])), names[some], parse_math=False)
        axes.tick_params(length=0, labelsize=6, pad=2)
        axes.set(xlim=(0, 1), ylim=(half - 0.5, -0.5), xticks=[0, 1])
        axes.spines[['top', 'right']].set_visible(False)

    def show(iteration: int) -> None:
        for bar, shade in zip(bars, asked.shade[row_at(shown.iters, iteration)]):
            bar.set_width(np.nan_to_num(shade))
    return show


def draw_curves(axes: Axes, shown: Shown, last: int) -> Show:
    """Percent right of the questions seen in training and of the held-out ones, up to an iteration. last: the
    last iteration of all runs"""
    for task in tasks_in(shown.results):
        draw_seeds(axes, shown.results['iter'], seen_percent(shown.results, task),
                   look(task.seen_group or task.scored[0]))
        if task.heldout_group:
            draw_seeds(axes, shown.results['iter'], shown.results[f'{task.heldout_group}_acc'],
                       look(task.heldout_group))
    percent_axis(axes)
    iterations_axis(axes, last)
    axes.set_ylim(-4, 105)
    axes.tick_params(labelsize=8)
    axes.spines['right'].set_visible(False)
    past = Rectangle((0, -4), 0, 109, transform=axes.transData)
    drawn, now = [*axes.lines, *axes.collections], axes.axvline(0, color='0.4', linewidth=0.8, gid=MOVES)
    for artist in drawn:
        artist.set_gid(MOVES)

    def show(iteration: int) -> None:
        past.set_width(max(iteration, 1))
        now.set_xdata([iteration, iteration])
        for artist in drawn:
            artist.set_clip_path(past)
    return show


def draw_run(place: SubFigure, shown: Shown, tasks: Sequence[str], heights: Sequence[float], last: int
             ) -> Show:
    """One run: its title, scores, answers and curves. last: the last iteration of all runs"""
    cells = place.add_gridspec(len(heights), 2, height_ratios=heights)
    shows = []
    for i, name in enumerate(tasks):
        panels = [place.add_subplot(cells[i, j]) for j in (0, 1)]
        if name not in shown.asked:
            for axes in panels:
                axes.set_axis_off()
            panels[0].text(0, 0.5, f'no {ANSWERS} in {shown.folder.name}', fontsize=8, color='0.35',
                           parse_math=False)
        elif is_table(shown.asked[name]):
            shows += [draw_table(axes, shown, shown.asked[name], sign) for axes, sign in zip(panels, '+-')]
        else:
            shows.append(draw_bars(panels, shown, shown.asked[name], TASKS[name]))
    curves = place.add_subplot(cells[-1, :], ylabel='Right (%)')
    shows.append(draw_curves(curves, shown, last))
    title = place.suptitle(shown.title, fontsize=11, parse_math=False, gid=MOVES)

    def show(iteration: int) -> None:
        title.set_text(f'{shown.title}\n{scores_text(shown, iteration)}')
        for each in shows:
            each(iteration)
    return show


def is_table(asked: Asked) -> bool:
    """Are all questions sums or differences, with some of both?"""
    found = [EXPRESSION.fullmatch(prompt) for prompt in asked.prompts]
    return all(found) and {each[2] for each in found} == {'+', '-'}


def draw(runs: Sequence[Shown]) -> tuple[Figure, Show]:
    """-> the figure of runs side by side, and the function that updates it to an iteration"""
    asked = next((each.asked for each in runs if each.asked), {})
    heights = [2.1 if is_table(each) else 2.6 for each in asked.values()] + [1.6]
    width = {1: 5.6, 2: 9.2}.get(len(runs), 3.9 * len(runs))
    figure = Figure(figsize=(width, 1.6 + sum(heights)), layout='constrained')
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1)
    heading = figure.suptitle('Iteration 0', fontsize=13, fontweight='bold', gid=MOVES)
    places = figure.subfigures(1, len(runs), squeeze=False)[0]
    last = iterations_of(runs)[-1]
    shows = [draw_run(place, each, list(asked), heights, last) for place, each in zip(places, runs)]
    legend_once(figure, ncols=3, fontsize=9, title_fontsize=9, title=key_text(runs) if asked else None)

    def show(iteration: int) -> None:
        heading.set_text(f'Iteration {iteration:,}')
        for each in shows:
            each(iteration)
    show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine('none')    # a new layout for each frame would make the film shake
    return figure, show


def key_text(runs: Sequence[Shown]) -> str:
    """What colours, bars and frames mean."""
    asked = next(list(each.asked.values()) for each in runs if each.asked)
    tables = [is_table(each) for each in asked]
    several = any(len(each.results['train_loss']) > 1 for each in runs)
    drawn = {'white to blue': any(tables), 'bars': not all(tables)}
    text = ', '.join(what for what, there in drawn.items() if there)
    text += ': share of seeds that answer right' if several else ': probability of the right answer'
    framed = any(each.heldout.any() for each in asked)
    return text.capitalize() + ('. Framed: never trained on' if framed else '')


def frames(figure: Figure, show: Show, iterations: Sequence[int]) -> Iterator[Image.Image]:
    """The figure at each of the iterations. Axes, ticks and legend are drawn once: they take nearly all the
    time."""
    moving = figure.findobj(lambda artist: artist.get_gid() == MOVES or isinstance(artist, Spine))
    moving.sort(key=lambda artist: artist.get_zorder())    # spines lie above what moves
    for artist in moving:
        artist.set_animated(True)    # left out by draw
    figure.canvas.draw()
    still_parts = figure.canvas.copy_from_bbox(figure.bbox)
    for iteration in iterations:
        show(int(iteration))
        figure.canvas.restore_region(still_parts)
        for artist in moving:
            artist.draw(figure.canvas.get_renderer())
        yield Image.fromarray(np.array(figure.canvas.buffer_rgba())[..., :3])


def palette() -> Image.Image:
    """Few colours: the shades of the cells, greys, and the colours of the curves mixed with white."""
    curves = {look(group)['color'] for task in TASKS.values()
              for group in (task.heldout_group, task.seen_group or task.scored[0]) if group}
    colours = [SHADES(i)[:3] for i in range(SHADES.N)]
    for colour, steps in {'black': 12, **dict.fromkeys(sorted(curves), 7)}.items():
        colours += [tuple(1 - part * (1 - channel) for channel in to_rgb(colour))
                    for part in np.linspace(0, 1, steps)[1:]]
    image = Image.new('P', (1, 1))
    image.putpalette([round(255 * channel) for colour in colours for channel in colour])
    return image


def gif(images: Iterator[Image.Image], lasts: Sequence[int], fps: float) -> bytes:
    """An animated GIF that plays in a loop. lasts: how many frames each image stays"""
    colours = palette()
    first, *others = (image.quantize(palette=colours, dither=Image.Dither.NONE) for image in images)
    durations = [round(1000 * last / fps) for last in lasts]
    durations[-1] += round(1000 * HOLD)
    content = io.BytesIO()
    first.save(content, 'GIF', save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    return content.getvalue()


def mp4(animation: bytes, fps: float) -> bytes:
    """Convert a GIF to MP4 with ffmpeg. Raises `UserError` with the message of ffmpeg if it fails."""
    # Hold the last image, and pad to an even number of pixels, which most players need.
    filters = f'tpad=stop_mode=clone:stop_duration={HOLD},fps={fps},pad=ceil(iw/2)*2:ceil(ih/2)*2'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'animation.mp4'
        done = subprocess.run(['ffmpeg', '-loglevel', 'error', '-f', 'gif', '-i', '-', '-vf', filters,
                               '-pix_fmt', 'yuv420p', '-movflags', '+faststart', path],
                              input=animation, capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors='replace').strip().splitlines() or ['nothing']
            raise UserError(f'ffmpeg failed and said: {said[-1]}: choose --format=gif')
        return path.read_bytes()


def still(runs: Sequence[Shown], at: int, path: Path) -> None:
    """Write the picture of one iteration. Raises `UserError` if there is no evaluation at it."""
    iters = iterations_of(runs)
    if at not in iters:
        near = iters[np.argsort(np.abs(iters - at), kind='stable')[:2]]
        raise UserError(f'--at={at}: no evaluation then; the nearest are at {" and ".join(map(str, near))}')
    figure, show = draw(runs)
    show(at)
    save(figure, path)


def film(runs: Sequence[Shown], every: int | None, fps: float, path: Path) -> None:
    """Write the film of all iterations, as a GIF or an MP4."""
    iterations, lasts = choose_frames(iterations_of(runs), every)
    figure, show = draw(runs)
    content = gif(frames(figure, show, iterations), lasts, fps)
    if path.suffix == '.mp4':
        content = mp4(content, fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    if path.suffix == '.gif' and len(content) > MOST_BYTES:
        print(f'{path} has {len(content) / 1e6:.1f} MB: a larger --every makes it smaller')


def positive(text: str) -> float:
    """argparse type of a number above 0."""
    if not 0 < float(text) < float('inf'):
        raise ValueError
    return float(text)


def check_format(kind: str, at: int | None) -> None:
    """Raises `UserError` if a format does not go with --at, or if its program is missing."""
    if (kind in FORMATS) != (at is not None):
        raise UserError(f'--format={kind}: choose {", ".join(FORMATS)} with --at=ITERATION, gif or mp4 '
                        f'without')
    if kind == 'mp4' and shutil.which('ffmpeg') is None:
        raise UserError('--format=mp4 needs the program ffmpeg: install it, or choose --format=gif')


def main() -> None:
    """Read, draw, write."""
    parser = Parser(__doc__)
    parser.add_argument('--model_folder', nargs='+', type=Path, required=True,
                        help='folders of runs, of one seed or of many')
    parser.add_argument('--every', type=int, metavar='N',
                        help='a frame every N iterations (default: about a hundred, most of them early)')
    parser.add_argument('--fps', type=positive, default=10, help='frames a second (default: 10)')
    parser.add_argument('--at', type=int, metavar='ITERATION', help='one still')
    parser.add_argument('--format', choices=('gif', 'mp4', *FORMATS), help='default: gif, and png with --at')
    parser.add_argument('--output_dir', default='.', type=Path, help='where to write (default: .)')
    args = parser.parse_args()
    if args.every is not None and args.every < 1:
        raise UserError(f'--every={args.every}: expected at least 1')
    kind = args.format or ('gif' if args.at is None else 'png')
    check_format(kind, args.at)
    runs = [read_run(folder) for folder in args.model_folder]
    check_alike(runs)
    if args.at is None:
        output = args.output_dir / f'animation.{kind}'
        film(runs, args.every, args.fps, output)
    else:
        output = args.output_dir / f'animation_{args.at}.{kind}'
        still(runs, args.at, output)
    print(f'wrote {output}')


if __name__ == '__main__':
    run(main)
