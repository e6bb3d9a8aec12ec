"""The benchmark measures what it says: its slow versions give the same numbers as the fast paths."""
import functools
import json

import pytest
import torch

import bench
from tbtt import baseline
from tbtt.engine import Engine
from tbtt.evaluate import NUM_SAMPLES

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bench')
    for experiment in bench.EXPERIMENTS:
        bench.write_dataset(folder / experiment, [task() for task in bench.tasks_of(experiment)], seed=1337)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('task', ['math', 'both'])
def test_the_slow_twin_takes_the_same_steps(folder, task):
    setup = bench.Setup(task, 'n14', folder, CPU)
    ours, theirs = setup.steps(15), setup.slow_steps(15)
    assert ours[-1, 0].item() == pytest.approx(theirs, rel=1e-5)
    weights = setup.replicas.state_dict(setup.replicas.flat[0])
    for name, value in setup.slow_model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_plain_loop_takes_the_same_steps(folder, monkeypatch):
    # Only trace as for the compiler. Compiling takes ten seconds more and is tested in test_engine.py.
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    setup = bench.Setup('math', 'n14', folder, CPU)
    plain = setup.plain_loop()
    ours, without = setup.steps(20), setup.plain_steps(plain, 20)
    assert ours[-1, 0].item() == pytest.approx(without.item(), rel=1e-5)
    assert plain.state[3].item() == 20


@pytest.mark.slow
def test_the_slow_twin_finds_the_same_loss_and_about_the_same_estimate(folder):
    setup = bench.Setup('math', 'n14', folder, CPU)
    row, = setup.evaluate()
    data, block_size = setup.dataset.train, setup.config.block_size
    exact = baseline.slow_losses(setup.slow_model, data, [list(range(len(data) - block_size))])
    assert row['train_loss'] == pytest.approx(exact, rel=1e-5)
    estimate = baseline.slow_losses(setup.slow_model, data, torch.randint(len(data) - block_size, (5, 882)))
    assert row['train_loss'] == pytest.approx(estimate, rel=0.01)


@pytest.mark.slow
def test_the_slow_twin_gives_the_answers_of_ours_where_nothing_is_left_to_chance(folder):
    setup = bench.Setup('facts', 'n14', folder, CPU)
    task, codec = setup.dataset.tasks['facts'], setup.dataset.codec
    with torch.no_grad():    # large weights: the most likely character gets all the probability
        setup.replicas.flat.mul_(20)
    setup.slow_model.load_state_dict(setup.replicas.state_dict(setup.replicas.flat[0]))
    evaluator = setup.evaluation
    completions = evaluator.sample('facts', 0)
    for i in (0, 25, 49):
        theirs = baseline.slow_generate(setup.slow_model.eval(), codec.encode(task.prompts[i]), 20, 0.01, 10)
        ours = completions.tokens[completions.row[0, i, 0]].tolist()
        assert ours == theirs[:len(ours)]
    assert completions.row.shape == (1, 50, NUM_SAMPLES)


@pytest.mark.slow
def test_json_is_one_line_with_hardware_versions_commit_medians_and_spread(monkeypatch, capsys):
    monkeypatch.setattr(Engine, 'prepare', lambda self: None)    # compiling is not tested here
    steps = bench.Setup.steps
    monkeypatch.setattr(bench.Setup, 'steps', lambda self, count: steps(self, 1))
    monkeypatch.setattr(bench.Setup, 'slow_steps', lambda self, count: None)
    monkeypatch.setattr(bench.Setup, 'plain_steps', lambda self, plain, count: None)
    monkeypatch.setattr('sys.argv',
                        ['bench.py', '--json', '--only=step', '--sizes=n14', '--tasks=math', '--device=cpu'])
    bench.main()
    line, = capsys.readouterr().out.splitlines()
    about = json.loads(line)
    row, = about['rows']
    assert row['what'] == 'step n14 math'
    assert 0 < row['ours_ms']['min'] <= row['ours_ms']['median'] <= row['ours_ms']['max']
    assert about['hardware'] and about['versions']['torch']
    assert 'commit' in about and about['peak_memory_mb'] > 0


def test_a_whole_run_is_the_sum_of_its_parts():
    parts = [{'what': 'step n14 math', 'ours_ms': {'median': 2.0}, 'slow_ms': {'median': 20.0},
              'prepare_s': 15.0},
             {'what': 'evaluation n14 math', 'ours_ms': {'median': 30.0}, 'slow_ms': {'median': 6000.0}}]
    row = bench.bench_run(parts)
    assert row['ours_ms']['median'] == 15000 + 30000 * 2 + 121 * 30
    assert row['slow_ms']['median'] == 30000 * 20 + 121 * 6000


def test_a_large_vocabulary_takes_the_same_steps_as_its_twin(tmp_path):
    setup = bench.TextSetup(tmp_path, CPU, vocab_size=1500, compile='False', batch_size=2, n_layer=1,
                            block_size=16, warmup_iters=0)
    ours, theirs = setup.steps(5), setup.slow_steps(5)
    assert ours[-1, 0].item() == pytest.approx(theirs, rel=1e-5)
    weights = setup.replicas.state_dict(setup.replicas.flat[0])
    for name, value in setup.slow_model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)
