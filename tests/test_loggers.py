"""Evaluations in TensorBoard, W&B and Trackio, read back from what the real packages wrote to the disk."""
import json
import os
import struct
from pathlib import Path

import pytest

import tbtt.loggers
from conftest import TINY, contents, run_script
from tbtt.config import Config
from tbtt.dataset import Dataset
from tbtt.distributed import Ranks
from tbtt.loggers import Logs, final_scores, read_points
from tbtt.results import format_results
from tbtt.run_folder import RunFolder

SCRIPT = 'train_with_eval.py'
SEEDS = ('seed_1337', 'seed_1338')


class Killed(BaseException):
    """Imitates the end of a process."""


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """Folders for wandb and Trackio instead of the user's. Each variable names a folder of the same name."""
    root = tmp_path_factory.mktemp('places')
    with pytest.MonkeyPatch.context() as patch:
        for name in ('WANDB_DIR', 'WANDB_CACHE_DIR', 'WANDB_CONFIG_DIR', 'WANDB_DATA_DIR', 'TRACKIO_DIR',
                     'HF_HOME'):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        (root / 'WANDB_DIR/later').mkdir()
        for name in ('WANDB_MODE', 'WANDB_API_KEY', 'WANDB_SWEEP_ID', 'TRACKIO_SPACE_ID'):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope='module', params=[
    'tensorboard', *(pytest.param(name, marks=pytest.mark.slow) for name in ('wandb', 'trackio'))])
def logged(request, places, small_math, tmp_path_factory):
    """A run of two seeds, logged by one package. It is killed when an evaluation is on the disk but not yet
    in the log, and then resumed to its end. -> (package, folder)"""
    package = request.param
    pytest.importorskip(package)
    folder = tmp_path_factory.mktemp(package) / 'run'
    settings = TINY | dict(dataset=small_math, out_dir=folder, num_seeds=2, wandb_mode='offline',
                           **{f'{package}_log': True})
    add, killed = Logs.add, []

    def killed_at_10(self, written):
        if any(row['iter'] == 10 for _, row in written):
            killed.append(10)
            raise Killed
        if not killed:
            add(self, written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logs, 'add', killed_at_10)
        with pytest.raises(Killed):
            run_script(SCRIPT, **settings)
    with pytest.MonkeyPatch.context() as patch:
        # Within the same second, wandb would give the folders of both processes the same name.
        patch.setenv('WANDB_DIR', str(places / 'WANDB_DIR/later'))
        end_of_process(package)
        assert run_script(SCRIPT, init_from='resume', **settings) == 0
    end_of_process(package)
    return package, folder


def end_of_process(package):
    """What wandb does after the end of a run: it writes the rest, and its service ends."""
    if package == 'wandb':
        import wandb
        wandb.teardown()


def read_tensorboard(folder, seed):
    """-> ({iteration: point}, final scores, settings) of a seed, by TensorBoard's own reader"""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(folder / seed / 'tensorboard'), size_guidance={'scalars': 0}).Reload()
    points, final = {}, {}
    for tag in events.Tags()['scalars']:
        for event in events.Scalars(tag):
            into = final if tag.startswith('final/') else points.setdefault(event.step, {})
            assert tag not in into, (tag, event.step)
            into[tag.removeprefix('final/')] = event.value
    described = events.SummaryMetadata('_hparams_/session_start_info').plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(described).hparams
    return points, final, {name: value.string_value or value.number_value
                           for name, value in settings.items()}


def records(path):
    """The records in a file of wandb: blocks as LevelDB writes them (7 bytes before each piece: checksum,
    length, kind), behind a header of 7 bytes."""
    content, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:    # the rest of a block
            at += 2**15 - at % 2**15
        _, length, kind = struct.unpack_from('<IHB', content, at)
        parts.append(content[at + 7:at + 7 + length])
        at += 7 + length
        if kind in (1, 4):    # whole, or the last piece
            yield b''.join(parts)
            parts = []


def read_wandb(folder, seed):
    """The same for a run of W&B, read from its folders in order, with the message types of the package."""
    from wandb.proto.wandb_internal_pb2 import Record

    about = json.loads((folder / seed / 'wandb.json').read_text())
    files = sorted(Path(os.environ['WANDB_DIR']).rglob(f'run-{about["id"]}.wandb'),
                   key=lambda path: 'later' in path.parts)
    assert len(files) == 2    # one for each process
    points, summary, settings = {}, {}, {}
    for path in files:
        for content in records(path):
            record = Record.FromString(content)
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            if record.WhichOneof('record_type') == 'history':
                assert record.history.step.num not in points
                point = {item.key or '/'.join(item.nested_key): json.loads(item.value_json)
                         for item in record.history.item}
                points[record.history.step.num] = {name: value for name, value in point.items()
                                                   if not name.startswith('_')}
    return points, {name: value for name, value in summary.items()
                    if name.startswith(('best_', 'last_'))}, settings


def read_trackio(folder, seed):
    """The same for a run of Trackio, read by Trackio's own storage."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    run, = (run for run in trackio.Api().runs('tbtt') if run.name == f'{folder}/{seed}')
    points, final = {}, {}
    for entry in SQLiteStorage.get_logs('tbtt', run_id=run.id):
        for name, value in entry.items():
            if name not in ('step', 'timestamp'):
                into = final if name.startswith('final/') else points.setdefault(entry['step'], {})
                assert name not in into, (name, entry['step'])
                into[name.removeprefix('final/')] = value
    return points, final, run.config


READERS = {'tensorboard': read_tensorboard, 'wandb': read_wandb, 'trackio': read_trackio}


def approx(point):
    return pytest.approx(point, rel=1e-6, nan_ok=True)    # TensorBoard stores float32


@pytest.mark.parametrize('seed', SEEDS)
def test_a_log_has_every_evaluation_once_and_the_settings_and_final_scores(logged, seed):
    package, folder = logged
    points, final, settings = READERS[package](folder, seed)
    wanted = read_points((folder / seed / 'results.csv').read_text())
    assert list(wanted) == [0, 10, 20] == sorted(points)
    assert all(points[iteration] == approx(wanted[iteration]) for iteration in wanted)
    assert final == approx(final_scores(wanted)) and final['last_train_loss'] > 0
    assert settings['seed'] == int(seed[5:]) and settings['learning_rate'] == 0.01
    assert settings['out_dir'] == str(folder / seed)


def test_a_run_that_is_overwritten_begins_a_log_of_its_own(logged, small_math):
    package, folder = logged
    assert run_script(SCRIPT, dataset=small_math, out_dir=folder, num_seeds=2, wandb_mode='offline',
                      overwrite=True, **TINY | {f'{package}_log': True, 'max_iters': 10}) == 0
    state = folder / SEEDS[0] / 'wandb.json'
    end_of_process(package)
    if package == 'wandb':
        about = json.loads(state.read_text())
        files = list(Path(os.environ['WANDB_DIR']).rglob(f'run-{about["id"]}.wandb'))
        assert about['logged'] == 10 and len(files) == 1
    elif package == 'tensorboard':
        assert sorted(read_tensorboard(folder, SEEDS[0])[0]) == [0, 10]
    else:
        import trackio
        assert sum(run.name == f'{folder}/{SEEDS[0]}' for run in trackio.Api().runs('tbtt')) == 2


@pytest.mark.slow
def test_wandb_that_is_not_logged_in_stops_the_training_before_it_begins(places, command, small_math,
                                                                        tmp_path):
    pytest.importorskip('wandb')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('NETRC', str(tmp_path / 'netrc'))
        result = command(SCRIPT, dataset=small_math, out_dir=tmp_path / 'run', tensorboard_log=True,
                         wandb_log=True, wandb_mode='online', **TINY)
    errors = [line for line in result.err.splitlines() if not line.startswith('wandb: ')]
    assert result.status == 2 and len(errors) == 1 and 'wandb_log=True' in errors[0], result.err
    assert contents(tmp_path) == {}


class Broken:
    """A log that fails at iteration `at`; if `at` is None, it cannot be opened."""
    first, at, closed = 0, 10, 0

    def __init__(self, seed, config, resuming):
        if self.at is None:
            raise ValueError('no such\nproject')

    def add(self, iteration, point, final):
        if iteration == self.at:
            raise ConnectionError('the network is gone')

    def close(self, finished):
        type(self).closed += 1


@pytest.fixture
def broken(monkeypatch):
    """A package whose log fails."""
    monkeypatch.setattr(tbtt.loggers, 'LOGS', {'trackio_log': ('pytest', Broken)})
    monkeypatch.setattr(Broken, 'closed', 0)


def test_a_log_that_fails_costs_no_byte_of_the_run_and_is_said_once(broken, command, small_math, tmp_path):
    settings = TINY | dict(dataset=small_math)
    alone = command(SCRIPT, out_dir=tmp_path / 'alone', **settings)
    result = command(SCRIPT, out_dir=tmp_path / 'run', trackio_log=True, **settings)
    assert alone.status == result.status == 0 and result.out.count('the network is gone') == 1
    assert 'training continues' in result.out and Broken.closed == 0
    one, other = ((tmp_path / name / 'results.csv').read_bytes() for name in ('alone', 'run'))
    assert one == other


def test_a_log_that_cannot_be_opened_is_one_line_and_leaves_nothing(broken, monkeypatch, command, small_math,
                                                                    tmp_path):
    monkeypatch.setattr(Broken, 'at', None)
    result = command(SCRIPT, dataset=small_math, out_dir=tmp_path / 'run', trackio_log=True, **TINY)
    assert result.status == 2 and result.err == 'error: pytest_log=True: ValueError: no such project\n'
    assert contents(tmp_path) == {}


class Noting:
    """A log that records what it receives."""
    told, first = [], 10

    def __init__(self, seed, config, resuming):
        self.told.append('opened')

    def add(self, iteration, point, final):
        self.told.append((iteration, point['train_loss'], final.get('last_train_loss')))

    def close(self, finished):
        self.told.append(finished)


def test_a_finished_run_that_is_resumed_with_a_log_gives_it_what_it_lacks(monkeypatch, command, small_math,
                                                                          tmp_path):
    monkeypatch.setattr(tbtt.loggers, 'LOGS', {'trackio_log': ('pytest', Noting)})
    monkeypatch.setattr(Noting, 'told', [])
    settings = TINY | dict(dataset=small_math, out_dir=tmp_path / 'run')
    assert command(SCRIPT, **settings).status == 0
    before = contents(tmp_path)
    assert command(SCRIPT, **settings, init_from='resume', trackio_log=True).status == 0
    points = read_points((tmp_path / 'run/results.csv').read_text())
    losses = [point['train_loss'] for point in points.values()]
    assert Noting.told == ['opened', (10, losses[1], None), (20, losses[2], losses[2]), True]
    assert contents(tmp_path) == before


def test_every_process_logs_the_seeds_that_it_writes(broken, small_math, tmp_path):
    """Also the processes after the first, which print nothing."""
    config = Config(dataset=str(small_math), out_dir=str(tmp_path / 'run'), num_seeds=4, trackio_log=True)
    found = []
    for rank in range(2):
        logs = Logs(config, print)
        logs.open(RunFolder(config, Dataset(small_math, 9), Ranks(rank, 2, rank)))
        found.append([seed.seed for _, seed in logs.logs])
    assert found == [[1337, 1339], [1338, 1340]]


def test_final_scores_come_with_the_last_evaluation_even_if_an_earlier_one_is_told_late(monkeypatch,
                                                                                        small_math, tmp_path):
    """An evaluation is told after it was written, when the next one may have begun to be written."""
    monkeypatch.setattr(tbtt.loggers, 'LOGS', {'trackio_log': ('pytest', Noting)})
    monkeypatch.setattr(Noting, 'told', [])
    config = Config(dataset=str(small_math), out_dir=str(tmp_path / 'run'), max_iters=20, trackio_log=True)
    folder = RunFolder(config, Dataset(small_math, 9), Ranks(0, 1, 0))
    seed, logs = folder.seeds[0], Logs(config, print)
    logs.open(folder)
    rows = [dict(iter=iteration, train_loss=loss) for iteration, loss in ((10, 2.0), (20, 1.0))]
    seed.iteration = seed.last_evaluated = 20
    for n, row in enumerate(rows, 1):
        seed.csv = format_results(rows[:n])
        logs.add([(seed, row)])
    assert Noting.told == ['opened', (10, 2.0, None), (20, 1.0, 1.0)]


@pytest.mark.slow
def test_a_sweep_of_wandb_has_one_run_a_process(places, command, monkeypatch, small_math, tmp_path):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_SWEEP_ID', 'abc')
    result = command(SCRIPT, dataset=small_math, out_dir=tmp_path / 'run', wandb_log=True, num_seeds=2,
                     **TINY)
    assert result.status == 2 and 'num_seeds=1' in result.err and contents(tmp_path) == {}


def test_final_scores_are_those_of_the_first_highest_and_of_the_last_evaluation():
    points = {0: dict(combined_acc=1.0, train_loss=3.0), 10: dict(combined_acc=5.0, train_loss=2.0),
              20: dict(combined_acc=5.0, train_loss=1.0, add_correct=3.0)}
    assert final_scores(points) == dict(best_combined_acc=5.0, best_train_loss=2.0, last_combined_acc=5.0,
                                        last_train_loss=1.0)
    assert final_scores({0: dict(train_loss=3.0)}) == dict(last_train_loss=3.0)
