"""The verdicts on made-up summaries of each kind, and what the figures of sweeps draw."""
import numpy as np
import pytest
from matplotlib.collections import PathCollection

import plot_capacity
from conftest import run_script
from tbtt.results import format_results
from tbtt.stats import wilson_interval
from tbtt.sweep import claims
from tbtt.sweep.summary import PAIR, read_summaries, row_of_paper, write_summary


def seeds(experiment, model, count, wd=False, **scores):
    """Rows of `count` seeds of a model of the paper. scores: constants, or lists with one value per seed."""
    row = {**row_of_paper(experiment, model, wd), 'run': f'{experiment}_{model}_{wd}', 'iter': 30000,
           'diverged': None, 'heldout': '' if experiment == 'facts' else PAIR, 'finished': 1,
           'num_params': 1000.0, 'heldout_total': None if experiment == 'facts' else 40.0}
    return [{**row, 'folder': f'{row["run"]}/seed_{s}', 'seed': s,
             **{name: value[s] if isinstance(value, list) else value for name, value in scores.items()}}
            for s in range(count)]


def math_seeds(model, count, last, best=None, wd=False, **more):
    return seeds('math', model, count, wd, last_heldout_correct=last,
                 best_heldout_correct=last if best is None else best, best_add=100.0, best_sub=100.0, **more)


def part(parts, what):
    return next(part for part in parts if part.name == what)


# --- verdicts

@pytest.mark.parametrize('last, verdict', [
    ([40] * 16, 'holds'), ([40] * 31 + [10], 'holds'), ([40] * 15, 'agree so far'),
    ([40] * 3, 'agree so far'), ([40, 40, 40, 39, 40], 'agree so far'),
    ([40, 40, 40, 30, 40], 'holds in part'), ([40] + [0] * 11, 'does not hold'), ([0] * 6, 'does not hold'),
    ([0] * 3, 'disagree so far'), ([40] * 2, 'not enough runs'), ([], 'not enough runs')])
def test_a_claim_about_every_seed(last, verdict):
    rows = with_questions(math_seeds('n14', len(last), last))
    assert part(claims.math_claim(rows), 'math n14, last').verdict == verdict


def with_questions(rows):
    """The rows as they are read from a summary without the columns of questions."""
    from tbtt.sweep.summary import answered_columns
    return [row | {'best_heldout_correct': row['best_heldout_correct']} | answered_columns(row, 'heldout')
            for row in rows]


def test_a_question_counts_as_answered_and_not_its_forty_answers():
    rows = math_seeds('n14', 3, 28, last_heldout_answered=4.0, best_heldout_answered=3.0,
                      heldout_questions=4.0)
    assert [part.verdict for part in claims.math_claim(rows)[:2]] == ['disagree so far', 'agree so far']
    assert claims.math_claim(rows)[1].ours == '3 of 3 seeds (44 to 100%) answer 4 of 4'


def test_the_evaluation_that_the_paper_reports_and_the_last_are_judged_apart():
    parts = claims.math_claim(math_seeds('n28', 4, 0, best=[0, 0, 0, 10]))
    assert part(parts, 'math n28, best').verdict == 'holds in part'
    assert part(parts, 'math n28, last').verdict == 'agree so far'


@pytest.mark.parametrize('scores, verdict', [
    ([8.0, 8.4, 8.2] * 2, 'holds'), ([8.0, 8.0, 8.0], 'agree so far'), ([4.0, 4.2, 3.8], 'disagree so far'),
    ([4.0, 4.2, 3.8] * 2, 'does not hold'),
    # a wide interval contains any number
    ([8.2, 8.2], 'not enough runs'), ([0.0, 2.0, 100.0], 'not enough runs')])
def test_the_facts_of_n14_are_compared_with_the_papers_number(scores, verdict):
    assert claims.facts_claim(seeds('facts', 'n14', len(scores), best_facts=scores))[0].verdict == verdict


def test_everything_means_everything():
    rows = seeds('facts', 'n28', 3, best_facts=100.0) + seeds('facts', 'n56', 3,
                                                              best_facts=[100.0, 99.8, 100.0])
    assert [p.verdict for p in claims.facts_claim(rows)[1:3]] == ['agree so far', 'holds in part']


@pytest.mark.parametrize('joint, verdict',
                         [([30.0, 35, 40, 32] * 2, 'holds'), ([30.0, 35, 40, 32], 'agree so far'),
                          ([100.0] * 4, 'disagree so far'),
                          ([90.0, 100, 100, 100], 'not enough runs')])
def test_joint_training_lowers_n14(joint, verdict):
    rows = math_seeds('n14', 8, 40) + seeds('both', 'n14', len(joint), best_add=joint, best_sub=joint,
                                            last_heldout_correct=0, best_heldout_correct=0)
    assert claims.joint_claim(rows)[-1].verdict == verdict


@pytest.mark.parametrize('last, verdict', [
    ([40] * 20, 'holds'), ([40] * 6, 'not enough runs'), ([40] * 14 + [0] * 6, 'not enough runs'),
    ([0] * 6, 'does not hold'),
    ([0] * 3, 'not enough runs')])    # three seeds show no change, even if all of them change
def test_weight_decay_is_judged_by_the_interval_of_the_difference(last, verdict):
    rows = math_seeds('n14', len(last), 40) + math_seeds('n14', len(last), last, wd=True)
    assert part(claims.decay_claim(rows), 'math n14, last').verdict == verdict
    assert part(claims.decay_claim(rows), 'math n28, last').verdict == 'not enough runs'


def test_a_claim_as_a_whole_says_how_far_it_holds_in_sentences():
    others = [row for model in ('n28', 'n56', 'MLT') for row in math_seeds(model, 16, 0)]

    def first(rows):
        return claims.judge(rows)[0].sentences

    assert first(math_seeds('n14', 16, 40)
                 + others).startswith('Verdict: holds. It holds for math n14 (best and last')
    assert first(math_seeds('n14', 3, 40) + others).startswith('Verdict: agree so far. It holds for math n28')
    assert first(math_seeds('n14', 16, [40, 0] * 8)
                 + others).startswith('Verdict: holds in part. It holds for')
    assert first([{**row, 'last_heldout_correct': 40, 'best_heldout_correct': 40} for row in others]) == (
        'Verdict: does not hold, as far as there are runs. It does not hold for math n28 (best and last '
        'evaluation), math n56 (best and last evaluation) and math MLT (best and last evaluation). There are '
        'not enough runs for math n14 (best and last evaluation).')
    assert first([]) == 'Verdict: not enough runs.'


def test_runs_of_another_kind_do_not_count():
    rows = math_seeds('n14', 5, 40) + seeds('facts', 'n14', 5, best_facts=8.0)
    assert (claims.math_claim(rows)[0].seeds, claims.facts_claim(rows)[0].seeds) == (5, 5)
    for change in ({'max_iters': 2500}, {'data': 'other'}, {'weight_decay': 0.1}, {'n_layer': 2},
                   {'dropout': 0.2}, {'learning_rate': 0.1}, {'batch_size': 64}):
        others = [{**row, **change} for row in rows]
        assert (claims.math_claim(others)[0].seeds, claims.facts_claim(others)[0].seeds) == (0, 0), change


def test_a_change_of_whatever_trains_is_another_run_and_diverged_seeds_are_none(tmp_path):
    rows = math_seeds('n14', 2, 40)
    others = [{**row, **change, 'folder': f'{name}/{row["folder"]}'} for row in rows
              for name, change
              in (('rate', {'learning_rate': 0.1}), ('data', {'data': 'other'}), ('nan', {'diverged': 100}))]
    for row in rows + others:
        (tmp_path / row['folder']).mkdir(parents=True)
    path = tmp_path / 'summary.csv'
    write_summary(path, rows + others)
    found = [str(row['path'].relative_to(tmp_path)) for row in read_summaries([path, path])]
    assert sorted(found) == sorted(row['folder'] for row in rows + others if not row['diverged'])


def test_the_numbers_of_the_paper_are_those_of_its_tables(monkeypatch):
    rows = claims.paper.published()
    changed = {key: dict(row) for key, row in rows.items()}
    changed['facts', 'n14']['facts_pct'] = '55.5'
    changed['both', 'n14'] |= {'addition_pct': '10', 'subtraction_pct': '20'}
    changed['math', 'n28'] |= {'heldout_correct': '40'}
    monkeypatch.setattr(claims.paper, 'published', lambda: changed)
    found = claims.judge([])
    assert '55.5%' in found[1].text and part(found[1].parts, 'facts n14').paper == '55.5'
    assert part(found[2].parts, 'arithmetic of n14, joint below alone').paper == '15.0 below 100.0'
    assert part(found[0].parts, 'math n28, last').paper == '40/40 (4 of 4)'


# --- thresholds

@pytest.mark.parametrize('means', [[0, 1], [0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_a_threshold_takes_four_sizes_with_two_on_each_side(means):
    def found(means):
        return claims.find_threshold(np.repeat(1000.0 * 2 ** np.arange(len(means)), 3), np.repeat(means, 3),
                                     1, resamples=20)
    assert found(np.array(means, float)) is None
    assert 2000 < found(np.array([0.0, 0, 1, 1])).at < 4000


def test_sizes_of_few_seeds_do_not_count_and_do_not_hinder():
    sizes = np.repeat([1000.0, 2000, 3000, 4000, 8000], [3, 3, 2, 3, 3])
    shares = np.repeat([1.0, 1, 0, 0, 0], [3, 3, 2, 3, 3])
    assert claims.sizes_that_count(sizes, shares, -1)[0].tolist() == [1000, 2000, 4000, 8000]
    found = claims.find_threshold(sizes, shares, -1, resamples=20)
    assert (found.low, found.high) == pytest.approx((2000, 4000))


def test_what_is_too_small_to_learn_the_rule_has_not_lost_it():
    means = np.array([0.02, 0.15, 0.79, 0.85, 0.87, 0.7, 0.29, 0.2, 0.02, 0])
    sizes = np.array([6 * width**2 + 20 * width for width in (4, 6, 10, 12, 14, 16, 20, 24, 40, 56)], float)
    shares = (np.random.default_rng(0).random((len(sizes), 32)) < means[:, None]).astype(float)
    found = claims.find_threshold(np.repeat(sizes, 32), shares.reshape(-1), -1, resamples=30)
    assert sizes[5] <= found.at <= sizes[6]
    assert sizes[4] <= found.low <= found.high <= sizes[7] and found.sure == 1
    assert claims.sizes_that_count(np.repeat(sizes, 32), shares.reshape(-1), -1)[0][0] == sizes[2]


@pytest.mark.slow
def test_the_last_claim_names_both_thresholds(monkeypatch):
    threshold = claims.threshold    # with a tenth of the resamples
    monkeypatch.setattr(claims, 'threshold', lambda *args: threshold(*args[:3], resamples=40))
    rows = []
    for width, size, facts, held in ((10, 800, 0.0, 100.0), (14, 1456, 4.0, 100.0), (20, 2800, 100.0, 0.0),
                                     (28, 5264, 100.0, 0.0)):
        for task, score in (('math', {'last_heldout': held, 'best_heldout': held}),
                            ('facts', {'last_facts': facts, 'best_facts': facts})):
            rows += [{**row, 'n_embd': width, 'num_params': float(size)}
                     for row in seeds(task, 'n14', 6, **score)]
    claim = claims.judge(rows)[4]
    assert claim.verdict == 'holds' and 'parameters (1,456 to 2,800)' in claim.parts[0].ours
    few = claims.judge([row for row in rows if row['seed'] < 3])[4]
    assert few.verdict == 'agree so far'
    two = claims.judge([row for row in rows if row['n_embd'] in (14, 28)])[4]
    assert two.verdict == 'not enough runs'
    assert two.parts[0].ours.startswith('1 sizes above one half, 1 below')


# --- the scripts

@pytest.fixture
def summary(tmp_path):
    """A summary of three widths of arithmetic and two of facts, with the results.csv files. -> its path"""
    rows = []
    for task, model, size, held, facts in (('math', 'n14', 1456, 40, None), ('math', 'n28', 5264, 10, None),
                                           ('math', 'n56', 19936, 0, None), ('facts', 'n14', 1932, None, 8.0),
                                           ('facts', 'n28', 6216, None, 100.0)):
        scores = {'last_heldout_correct': held, 'best_heldout_correct': held,
                  'last_heldout': held and 2.5 * held, 'best_heldout': held and 2.5 * held,
                  'last_seen': None if held is None else 100.0, 'last_facts': facts,
                  'best_facts': facts, 'best_add': 100.0, 'best_sub': 100.0}
        rows += [{**row, 'num_params': size} for row in seeds(task, model, 4, **scores)]
    for row in rows:
        folder = tmp_path / row['folder']
        folder.mkdir(parents=True)
        task = {'facts_correct': 1, 'facts_total': 500, 'facts_prob': 0.5} if row['tasks'] == 'facts' else {
            'add_correct': 1, 'add_total': 1000, 'sub_correct': 1, 'sub_total': 1000, 'seen_prob': 0.9,
            'heldout_prob': 0.1, 'heldout_correct': 1, 'heldout_total': 40}
        (folder / 'results.csv').write_text(format_results([
            {'iter': t, 'train_loss': 1.0, 'val_loss': 1.0, **task} for t in (0, 250)]))
    write_summary(tmp_path / 'summary.csv', rows)
    return tmp_path / 'summary.csv'


def test_the_verdicts_are_printed(summary, capsys):
    assert run_script('analysis/make_claims.py', summary) == 0
    out = capsys.readouterr().out
    row = ['math n14, last', '40/40 (4 of 4)', '4 of 4 seeds (51 to 100%) answer 4 of 4', '4',
           'agree so far (4 seeds)']
    assert f'| {" | ".join(row)} |' in out
    assert out.count('Verdict: ') == 12    # five claims of the paper, seven of ours


def test_the_capacity_figure_draws_every_size_seed_and_value_of_the_paper(summary):
    rows = plot_capacity.chosen(read_summaries([summary]), 0.0)
    math, facts, shares, _ = plot_capacity.draw_capacity(rows).axes    # the last has the legend
    assert math.get_xscale() == 'log' and [text.get_text() for text in math.texts] == ['n14', 'n28', 'n56']
    drawn = {container.get_label(): container.lines[0].get_ydata().tolist()
             for axes in (math, shares) for container in axes.containers}
    assert drawn == {'seeds that answer all held-out questions, best evaluation': [100, 0, 0],
                     'seeds that answer all held-out questions, last evaluation': [100, 0, 0],
                     'held-out, mean at the last evaluation': [100, 25, 0],
                     'seen in training, mean at the last evaluation': [100, 100, 100]}
    assert facts.containers[0].lines[0].get_ydata().tolist() == [8, 100]
    dots = [len(points.get_offsets()) for points in math.collections if len(points.get_offsets()) == 4]
    assert len(dots) == 6    # four seeds of each of three sizes, held-out and seen
    papers = [line for line in facts.lines if line.get_label() == 'paper, best evaluation: facts']
    assert [line.get_ydata()[0] for line in papers] == [8.2, 100, 100]    # n56 too; the MLT would be far away
    intervals = [container.lines[2][0].get_segments()[0] for container in shares.containers]
    assert 100 * wilson_interval(4, 4)[0] == pytest.approx(intervals[0][0][1])


@pytest.mark.slow
def test_what_was_trained_on_other_data_than_the_papers_says_so(summary):
    rows = plot_capacity.chosen(read_summaries([summary]), 0.0)
    other = [{**row, 'data': 'other'} if row['tasks'] == 'facts' else row for row in rows]
    titles = [axes.get_title() for axes in plot_capacity.draw_capacity(other).axes[:2]]
    assert [title.partition('\n')[2] for title in titles] == ['', "(not the paper's data or order of lines)"]


def test_the_rule_figure_draws_a_dot_a_seed_the_papers_values_and_questions_on_the_right(summary):
    rows = [row for row in plot_capacity.chosen(read_summaries([summary]), 0.0) if row['tasks'] == 'math']
    axes, right = plot_capacity.draw_rule(rows, rows, 'older').axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines['Held-out: mean of 4 seeds per size, 95% interval'] == lines['older, beside'] == [100, 25, 0]
    assert lines['paper, best evaluation: held-out'] == [0]
    assert lines['paper, best evaluation: seen in training'] == [100]
    dots = [points.get_offsets() for points in axes.collections if isinstance(points, PathCollection)]
    assert [len(each) for each in dots] == [12, 12]
    assert all(x < 1456 for x, _ in dots[0][:4]) and all(x > 1456 for x, _ in dots[1][:4])
    assert len(np.unique(np.vstack(dots), axis=0)) == 24    # no dot hides another
    assert [text.get_text() for text in right.get_yticklabels()] == ['0', '1', '2', '3', '4']
    assert right.get_ylim() == axes.get_ylim() and right.get_yticks().tolist() == [0, 25, 50, 75, 100]
    assert [text.get_text() for text in axes.get_xticklabels()] == ['1,456', '5,264', '19,936']


def test_the_papers_score_on_what_was_seen_follows_from_its_tables():
    assert plot_capacity.published_scores('math', 'n28') == {'add': 98, 'sub': 98, 'heldout': 0, 'seen': 100}


def test_the_training_figure_has_a_full_panel_for_each_task_and_width(summary):
    figure = plot_capacity.draw_training(plot_capacity.training_curves(read_summaries([summary])))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [[line.get_label() for line in axes.lines]
            for axes in panels] == 3 * [['Seen in training', 'Held-out']] + 2 * [
        ['Facts']]
    assert panels[0].lines[0].get_ydata()[-1] == 0.9 and panels[0].lines[1].get_ydata()[-1] == 0.1
    assert panels[0].get_title() == 'Arithmetic, n14\n1,456 parameters, 4 seeds'


@pytest.mark.slow
@pytest.mark.parametrize('kind, head', [('png', b'\x89PNG'), ('svg', b'<?xml'), ('pdf', b'%PDF')])
def test_figures_are_written_in_every_format(summary, tmp_path, kind, head):
    assert run_script('analysis/plot_capacity.py', summary, f'--output_dir={tmp_path / "out"}',
                      f'--format={kind}') == 0
    assert all((tmp_path / 'out' / f'{name}.{kind}').read_bytes().startswith(head)
               for name in ('rule', 'capacity', 'capacity_training'))


@pytest.mark.slow
def test_one_figure_can_be_asked_for_with_another_sweep_behind(summary, tmp_path):
    assert run_script('analysis/plot_capacity.py', summary, '--only=rule', f'--beside={summary.parent}',
                      f'--output_dir={tmp_path / "out"}') == 0
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['rule.png']


@pytest.mark.slow
def test_without_the_seeds_beside_the_figure_over_training_is_left_out(summary, tmp_path, capsys):
    (tmp_path / 'alone').mkdir()
    alone = tmp_path / 'alone' / 'summary.csv'
    alone.write_bytes(summary.read_bytes())
    assert run_script('analysis/plot_capacity.py', alone, f'--output_dir={tmp_path / "out"}') == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['capacity.png', 'rule.png']
    assert 'left out' in capsys.readouterr().out


@pytest.mark.parametrize('script, args', [
    ('analysis/plot_capacity.py', ['nothing.csv']), ('analysis/plot_capacity.py', ['--format=gif']),
    ('analysis/make_claims.py', []), ('analysis/make_claims.py', ['nothing.csv'])])
def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch, script, args):
    monkeypatch.chdir(tmp_path)
    assert run_script(script, *args) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and len(said.splitlines()) == 1


def test_runs_that_were_trained_differently_are_not_averaged(summary, capsys):
    lines = summary.read_text().splitlines()
    at = lines[0].split(',').index('learning_rate')
    # "5,7" comes before it and is quoted: one more comma
    other = lines[1].replace('seed_0', 'seed_9').split(',')
    other[at + 1], other[0] = '0.5', 'other'
    summary.write_text('\n'.join([*lines, ','.join(other)]) + '\n')
    assert run_script('analysis/plot_capacity.py', summary) == 2
    assert 'differ in learning_rate, 0.01 and 0.5' in capsys.readouterr().err


def test_a_summary_without_such_runs_says_what_to_train(summary, capsys):
    assert run_script('analysis/plot_capacity.py', summary, '--weight_decay=0.5') == 2
    assert 'config/sweep_capacity.py' in capsys.readouterr().err


def test_other_held_out_pairs_have_a_figure_of_their_own(tmp_path):
    rows = [{**row, 'run': f'{pairs}_{model}', 'folder': f'{pairs}_{model}/seed_{row["seed"]}',
             'heldout': pairs}
            for pairs in ('1,2', '0,9', '5,7;3,8') for model, held in (('n14', 40), ('n28', 0))
            for row in math_seeds(model, 3, held, last_heldout=2.5 * held)]
    axes, = plot_capacity.draw_heldout(rows).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ['0,9', '1,2', '2 pairs']
    assert sum(len(points.get_offsets()) for points in axes.collections
               if len(points.get_offsets()) == 3) == 18
    write_summary(tmp_path / 'summary.csv', rows)
    assert run_script('analysis/plot_capacity.py', tmp_path / 'summary.csv', f'--output_dir={tmp_path}') == 0
    assert [path.name for path in tmp_path.glob('*.png')] == ['capacity_heldout.png']
