"""Intervals against published values, the verdicts on made-up summaries of each kind, and the figures by what they draw."""
import importlib

import numpy as np
import pytest

from conftest import run_script
from tbtt.results import format_results, wilson_interval
from tbtt.sweep.summary import PAIR, papers_recipe, read_summaries, write_summary

pytest.importorskip('scipy')
claims = importlib.import_module('tbtt.sweep.claims')


def seeds(task, model, count, decay=0.0, **scores):
    """Rows of `count` seeds of a model of the paper. scores: constants, or lists with one value a seed."""
    layers, heads, width, expansion = claims.SHAPES[model]
    mlt = model == 'MLT'
    row = {**papers_recipe(task, model), 'run': f'{task}_{model}_{decay}', 'heldout': '' if task == 'facts' else PAIR,
           'n_layer': layers, 'n_head': heads, 'n_embd': width, 'mlp_expansion': expansion, 'iter': 30000, 'diverged': None,
           'dropout': 0.2 if mlt and not decay else 0.0, 'weight_decay': 0.1 if mlt else decay, 'finished': 1,
           'heldout_total': None if task == 'facts' else 40.0, 'num_params': 1000.0}
    return [{**row, 'folder': f'{row["run"]}/seed_{s}', 'seed': s,
             **{name: value[s] if isinstance(value, list) else value for name, value in scores.items()}} for s in range(count)]


def math_seeds(model, count, last, best=None, decay=0.0, **more):
    return seeds('math', model, count, decay, last_heldout_correct=last, best_heldout_correct=last if best is None else best,
                 best_add=100.0, best_sub=100.0, **more)


def part(parts, what):
    return next(part for part in parts if part.what == what)


# --- intervals

@pytest.mark.parametrize('count, total, low, high', [
    (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])    # the last four: Newcombe 1998, table I, method 3
def test_wilson_intervals_are_the_published_ones(count, total, low, high):
    assert wilson_interval(count, total) == pytest.approx((low, high), abs=1e-4)
    if count not in (0, total):
        assert claims.share(count, total) == f'{count} of {total} seeds ({100 * low:.0f} to {100 * high:.0f}%)'


def test_the_interval_of_a_mean_is_students():
    scores = np.array([22.2, 23.1, 21.4, 24.0, 22.8])
    text, low, high = claims.mean(scores)
    half = 2.776 * scores.std(ddof=1) / np.sqrt(5)    # the 0.975 quantile of t with 4 degrees, from any table
    assert text == f'{scores.mean():.1f} ± {half:.1f}' and (high - low) / 2 == pytest.approx(half, rel=1e-3)


# --- verdicts

@pytest.mark.parametrize('last, verdict', [
    ([40] * 5, 'holds'), ([40, 40, 40, 39, 40], 'holds in part'), ([0] * 5, 'does not hold'), ([40] * 2, 'not enough runs'),
    ([], 'not enough runs')])
def test_a_claim_about_every_seed(last, verdict):
    rows = math_seeds('n14', len(last), last)
    assert part(claims.math_claim(rows), 'math n14, last').verdict == verdict


def test_the_evaluation_that_the_paper_reports_and_the_last_are_judged_apart():
    parts = claims.math_claim(math_seeds('n28', 4, 0, best=[0, 0, 0, 10]))
    assert part(parts, 'math n28, best').verdict == 'holds in part' and part(parts, 'math n28, last').verdict == 'holds'


@pytest.mark.parametrize('scores, verdict', [
    ([8.0, 8.4, 8.2], 'holds'), ([8.0, 8.0, 8.0], 'holds'), ([4.0, 4.2, 3.8], 'does not hold'),
    ([8.2, 8.2], 'not enough runs'), ([0.0, 2.0, 100.0], 'not enough runs')])    # a wide interval holds any number
def test_the_facts_of_n14_are_compared_with_the_papers_number(scores, verdict):
    assert claims.facts_claim(seeds('facts', 'n14', len(scores), best_facts=scores))[0].verdict == verdict


def test_everything_means_everything():
    rows = seeds('facts', 'n28', 3, best_facts=100.0) + seeds('facts', 'n56', 3, best_facts=[100.0, 99.8, 100.0])
    assert [p.verdict for p in claims.facts_claim(rows)[1:3]] == ['holds', 'holds in part']


@pytest.mark.parametrize('joint, verdict', [([30.0, 35, 40, 32], 'holds'), ([100.0] * 4, 'does not hold'),
                                            ([90.0, 100, 100, 100], 'not enough runs')])
def test_joint_training_lowers_n14(joint, verdict):
    rows = math_seeds('n14', 4, 40) + seeds('both', 'n14', 4, best_add=joint, best_sub=joint, last_heldout_correct=0,
                                            best_heldout_correct=0)
    assert claims.joint_claim(rows)[-1].verdict == verdict


@pytest.mark.parametrize('last, verdict', [
    ([40] * 20, 'holds'), ([40] * 6, 'not enough runs'), ([40] * 14 + [0] * 6, 'not enough runs'), ([0] * 6, 'does not hold'),
    ([0] * 3, 'not enough runs')])    # three seeds say nothing of a change, even where all change
def test_weight_decay_is_judged_by_the_interval_of_the_difference(last, verdict):
    rows = math_seeds('n14', len(last), 40) + math_seeds('n14', len(last), last, decay=0.1)
    assert part(claims.decay_claim(rows), 'math n14, last').verdict == verdict
    assert part(claims.decay_claim(rows), 'math n28, last').verdict == 'not enough runs'


def test_a_claim_as_a_whole_says_how_it_holds_in_part_and_what_is_missing():
    whole = [row for model in ('n28', 'n56', 'MLT') for row in math_seeds(model, 3, 0)]

    def first(rows):
        return claims.judge(rows)[0].verdict

    assert first(math_seeds('n14', 3, 40) + whole) == 'holds'
    assert first(math_seeds('n14', 3, [40, 0, 40]) + whole) == 'holds in part'
    assert first([row for model in ('n28', 'n56', 'MLT') for row in math_seeds(model, 3, 40)]).startswith('does not hold')
    assert first(math_seeds('n14', 3, 40)).startswith('not enough runs for math n28, best, math n28, last, math n56')
    assert first(math_seeds('n14', 3, 40)).endswith('; the rest holds')
    assert first([]) == 'not enough runs'


def test_runs_of_another_kind_do_not_count():
    rows = math_seeds('n14', 5, 40) + seeds('facts', 'n14', 5, best_facts=8.0)
    assert (claims.math_claim(rows)[0].seeds, claims.facts_claim(rows)[0].seeds) == (5, 5)
    for change in ({'max_iters': 2500}, {'data': 'other'}, {'weight_decay': 0.1}, {'n_layer': 2}, {'dropout': 0.2},
                   {'learning_rate': 0.1}, {'batch_size': 64}):
        others = [{**row, **change} for row in rows]
        assert (claims.math_claim(others)[0].seeds, claims.facts_claim(others)[0].seeds) == (0, 0), change


def test_a_change_of_whatever_trains_is_another_run_and_diverged_seeds_are_none(tmp_path):
    rows = math_seeds('n14', 2, 40)
    others = [{**row, **change, 'folder': f'{name}/{row["folder"]}'} for row in rows
              for name, change in (('rate', {'learning_rate': 0.1}), ('data', {'data': 'other'}), ('nan', {'diverged': 100}))]
    for row in rows + others:
        (tmp_path / row['folder']).mkdir(parents=True)
    path = tmp_path / 'summary.csv'
    write_summary(path, rows + others)
    found = [str(row['path'].relative_to(tmp_path)) for row in read_summaries([path, path])]
    assert sorted(found) == sorted(row['folder'] for row in rows + others if not row['diverged'])


def test_newcombes_intervals_of_a_difference_are_the_published_ones():
    # Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10.
    for (a, m), (b, n), expected in (((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)),
                                     ((10, 10), (0, 10), (0.6075, 1.0000)), ((0, 10), (0, 10), (-0.2775, 0.2775))):
        one, other = (np.arange(size) < count for count, size in ((a, m), (b, n)))
        assert claims.difference(one, other, 0.95) == pytest.approx(100 * np.array(expected), abs=0.01)


# --- thresholds

def widths(true, spread, sizes, count, sign, random):
    x = np.repeat(np.log(sizes), count)
    p = 1 / (1 + np.exp(-sign * (x - np.log(true)) / spread))
    return np.exp(x), (random.random(len(x)) < p).astype(float)


def test_a_threshold_is_found_where_it_was_put_as_often_as_its_interval_says():
    random, inside = np.random.default_rng(0), 0
    for _ in range(20):
        sizes, shares = widths(2000, 0.3, [500, 1000, 1500, 2500, 4000, 8000], 8, -1, random)
        found, sure = claims.threshold(sizes, shares, -1, resamples=60)
        assert sure == 1 and found.low <= found.at <= found.high
        inside += found.low <= 2000 <= found.high
    assert inside >= 17


def test_where_the_sizes_are_separated_the_threshold_lies_between_them():
    found, sure = claims.threshold(np.repeat([1932.0, 6216.0], 3), np.array([0.04, 0.05, 0.08, 1, 1, 1]), 1)
    assert sure == 1 and 1932 < found.at < 6216 and (found.low, found.high) == pytest.approx((1932, 6216))


@pytest.mark.parametrize('sizes, shares', [([1.0] * 6, [0, 0, 0, 1, 1, 1]), ([1.0, 1, 1, 9, 9, 9], [1] * 6),
                                           ([1.0, 1, 9, 9], [0, 0, 1, 1])])
def test_without_sizes_on_both_sides_or_seeds_there_is_no_threshold(sizes, shares):
    assert claims.threshold(np.array(sizes), np.array(shares, float), 1) is None


def test_what_is_too_small_to_learn_the_rule_has_not_lost_it():
    means = np.array([0.02, 0.15, 0.5, 0.79, 0.85, 0.87, 0.7, 0.29, 0.2, 0.12, 0.02, 0, 0, 0])
    sizes = np.array([6 * width**2 + 20 * width for width in (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 40, 56, 80, 112)], float)
    random = np.random.default_rng(0)
    shares = (random.random((len(sizes), 32)) < means[:, None]).astype(float)
    found, sure = claims.threshold(np.repeat(sizes, 32), shares.reshape(-1), -1, resamples=100)
    assert sizes[6] <= found.at <= sizes[7] and sizes[5] <= found.low <= found.high <= sizes[8] and sure == 1


def test_noise_has_no_sure_threshold_and_no_end_beyond_what_was_looked_at():
    x, y = np.repeat([1932.0, 6216.0], 3), np.array([0.0, 1, 0, 1, 0, 1])
    found, sure = claims.threshold(x, y, 1, resamples=100)
    assert sure < 0.975 and (found.low, found.high) == pytest.approx((1932, 6216))


def test_a_size_of_one_seed_does_not_count_and_does_not_hinder():
    x, y = np.repeat([1000.0, 2000.0, 3000.0], [3, 1, 3]), np.array([1.0, 1, 1, 0, 0, 0, 0])
    found, _ = claims.threshold(x, y, -1)
    assert (found.low, found.high) == pytest.approx((1000, 3000))


def test_the_last_claim_names_both_thresholds():
    rows = []
    for width, size, facts, held in ((14, 1456, 4.0, 100.0), (28, 5264, 100.0, 0.0)):
        for task, score in (('math', {'last_heldout': held, 'best_heldout': held}),
                            ('facts', {'last_facts': facts, 'best_facts': facts})):
            rows += [{**row, 'num_params': float(size)} for row in seeds(task, f'n{width}', 3, **score)]
    claim = claims.judge(rows)[4]
    assert claim.verdict == 'holds' and 'parameters (1,456 to 5,264)' in claim.parts[0].ours


# --- the scripts

@pytest.fixture
def summary(tmp_path):
    """Three widths of arithmetic, two of facts, with results.csv beside. -> path of the summary"""
    rows = []
    for task, model, size, held, facts in (('math', 'n14', 1456, 40, None), ('math', 'n28', 5264, 10, None),
                                           ('math', 'n56', 19936, 0, None), ('facts', 'n14', 1932, None, 8.0),
                                           ('facts', 'n28', 6216, None, 100.0)):
        scores = {'last_heldout_correct': held, 'best_heldout_correct': held, 'last_heldout': held and 2.5 * held,
                  'best_heldout': held and 2.5 * held, 'last_seen': None if held is None else 100.0, 'last_facts': facts,
                  'best_facts': facts, 'best_add': 100.0, 'best_sub': 100.0}
        rows += [{**row, 'num_params': size} for row in seeds(task, model, 4, **scores)]
    for row in rows:
        folder = tmp_path / row['folder']
        folder.mkdir(parents=True)
        task = {'facts_correct': 1, 'facts_total': 500, 'facts_prob': 0.5} if row['tasks'] == 'facts' else {
            'add_correct': 1, 'add_total': 1000, 'sub_correct': 1, 'sub_total': 1000, 'seen_prob': 0.9, 'heldout_prob': 0.1,
            'heldout_correct': 1, 'heldout_total': 40}
        (folder / 'results.csv').write_text(format_results([
            {'iter': t, 'train_loss': 1.0, 'val_loss': 1.0, **task} for t in (0, 250)]))
    write_summary(tmp_path / 'summary.csv', rows)
    return tmp_path / 'summary.csv'


def test_the_verdicts_are_printed(summary, capsys):
    assert run_script('analysis/make_tables.py', '--claims', summary) == 0
    out = capsys.readouterr().out
    assert '| math n14, last | 40/40 | 4 of 4 seeds (51 to 100%) at 40/40 | 4 | holds |' in out
    assert out.count('Verdict: ') == 5


def test_the_capacity_figure_draws_every_size_seed_and_value_of_the_paper(summary):
    import plot_capacity
    rows = plot_capacity.chosen(read_summaries([summary]), 0.0)
    math, facts = plot_capacity.draw_capacity(rows).axes[:2]
    assert math.get_xscale() == 'log' and [text.get_text() for text in math.texts] == ['n14', 'n28', 'n56']
    drawn = {container.get_label(): container.lines[0].get_ydata() for container in math.containers}
    assert list(drawn['seeds at 40/40 held-out, last evaluation']) == [100, 0, 0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in math.lines}
    assert lines['held-out answers, mean at the last evaluation'] == ([1456, 5264, 19936], [100, 25, 0])
    assert lines['seen answers, mean at the last evaluation'][1] == [100, 100, 100]
    fact_lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in facts.lines}
    assert fact_lines['facts recalled, mean at the last evaluation'] == ([1932, 6216], [8, 100])
    dots = [len(points.get_offsets()) for points in math.collections if len(points.get_offsets()) > 3]
    assert dots == [12, 12]    # each of 12 seeds, held-out and seen
    papers = [line for line in facts.lines if line.get_label() == 'paper, best evaluation: facts']
    assert [line.get_ydata()[0] for line in papers] == [8.2, 100, 100]    # n56 too, the MLT would be far away
    intervals = [container.lines[2][0].get_segments()[0] for container in math.containers]
    assert 100 * wilson_interval(4, 4)[0] == pytest.approx(intervals[-1][0][1])


def test_the_training_figure_draws_a_line_a_width(summary):
    import plot_capacity
    figure = plot_capacity.draw_training(plot_capacity.training_curves(read_summaries([summary])))
    seen, heldout, facts = figure.axes[0], figure.axes[1], figure.axes[2]
    assert [len(axes.lines) for axes in (seen, heldout, facts)] == [3, 3, 2]
    assert seen.lines[0].get_ydata()[-1] == 0.9 and heldout.lines[0].get_ydata()[-1] == 0.1
    assert len({line.get_linestyle() for line in seen.lines}) == 3    # told apart without colour
    assert len({line.get_color() for line in seen.lines}) == 3


@pytest.mark.parametrize('kind, head', [('png', b'\x89PNG'), ('svg', b'<?xml'), ('pdf', b'%PDF')])
def test_figures_are_written_in_every_format(summary, tmp_path, kind, head):
    assert run_script('analysis/plot_capacity.py', summary, f'--output_dir={tmp_path / "out"}', f'--format={kind}') == 0
    assert all((tmp_path / 'out' / f'{name}.{kind}').read_bytes().startswith(head)
               for name in ('capacity', 'capacity_training'))


def test_without_the_seeds_beside_only_the_first_figure_is_drawn(summary, tmp_path, capsys):
    (tmp_path / 'alone').mkdir()
    alone = tmp_path / 'alone' / 'summary.csv'
    alone.write_bytes(summary.read_bytes())
    assert run_script('analysis/plot_capacity.py', alone, f'--output_dir={tmp_path / "out"}') == 0
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['capacity.png'] and 'left out' in capsys.readouterr().out


@pytest.mark.parametrize('script, args', [
    ('analysis/plot_capacity.py', ['nothing.csv']), ('analysis/plot_capacity.py', ['--format=gif']), ('analysis/make_tables.py', ['--claims']),
    ('analysis/make_tables.py', ['--claims', 'nothing.csv'])])
def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch, script, args):
    monkeypatch.chdir(tmp_path)
    assert run_script(script, *args) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and len(said.splitlines()) == 1


def test_runs_that_were_trained_differently_are_not_averaged(summary, capsys):
    lines = summary.read_text().splitlines()
    at = lines[0].split(',').index('learning_rate')
    other = lines[1].replace('seed_0', 'seed_9').split(',')    # "5,7" stands before and is quoted: one comma more
    other[at + 1], other[0] = '0.5', 'other'
    summary.write_text('\n'.join([*lines, ','.join(other)]) + '\n')
    assert run_script('analysis/plot_capacity.py', summary) == 2
    assert 'differ in learning_rate, 0.01 and 0.5' in capsys.readouterr().err


def test_a_summary_without_such_runs_says_what_to_train(summary, capsys):
    assert run_script('analysis/plot_capacity.py', summary, '--weight_decay=0.5') == 2
    assert 'config/sweep_capacity.py' in capsys.readouterr().err


def test_other_held_out_pairs_have_a_figure_of_their_own(tmp_path):
    import plot_capacity
    rows = [{**row, 'run': f'{pairs}_{model}', 'folder': f'{pairs}_{model}/seed_{row["seed"]}', 'heldout': pairs}
            for pairs in ('1,2', '0,9', '5,7;3,8') for model, held in (('n14', 40), ('n28', 0))
            for row in math_seeds(model, 3, held, last_heldout=2.5 * held)]
    axes, = plot_capacity.draw_heldout(rows).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ['0,9', '1,2', '2 pairs']
    assert sum(len(points.get_offsets()) for points in axes.collections if len(points.get_offsets()) == 3) == 18
    write_summary(tmp_path / 'summary.csv', rows)
    assert run_script('analysis/plot_capacity.py', tmp_path / 'summary.csv', f'--output_dir={tmp_path}') == 0
    assert [path.name for path in tmp_path.glob('*.png')] == ['capacity_heldout.png']
