"""How a sweep handles the folders that other calls left, and the answers of its child processes."""
import dataclasses
import json

import pytest

from chaos import forked_sweeps
from conftest import TINY
from tbtt.cli import UserError
from tbtt.sweep import launch
from tbtt.sweep.launch import Children
from tbtt.sweep.plan import Sweep
from test_sweep import SHARED, sweep_file


def state(folder, iteration, finished=False, **more):
    """A seed's folder as a run leaves it, without its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'ckpt.pt').write_bytes(b'')
    (folder / 'run.json').write_text(json.dumps({'iter_num': iteration, 'finished': finished, **more}))


def whole_job(tmp_path, num_seeds=4):
    job, = Sweep(sweep_file(tmp_path), {'num_seeds': str(num_seeds), 'seed': '1'}, tmp_path).jobs(64)
    return job


@pytest.fixture
def trained(monkeypatch):
    """The seeds of each training, in order; the trainings only write their final state."""
    calls = []

    def train(job, seeds, children, env):
        calls.append(list(seeds))
        for seed in seeds:
            state(job.folder / f'seed_{seed}', TINY['max_iters'], finished=True)
        return 0, ''

    monkeypatch.setattr(launch, 'train', train)
    monkeypatch.setattr(launch, 'WAIT', 0.01)
    return calls


class Asked:
    """Replaces Children: notes the commands instead of running them, and returns the given answers."""

    def __init__(self, *answers):
        self.answers, self.commands, self.stopping = list(answers), [], False

    def run(self, command, log, env):
        self.commands.append({name: value for name, _, value in (text.partition('=') for text in command)})
        answer = self.answers.pop(0)
        return answer() if callable(answer) else answer


def finish(job, seeds=None):
    """An answer: all seeds are finished."""
    def answer():
        for seed in seeds or job.seeds:
            state(job.folder / f'seed_{seed}', 20, finished=True)
        return 0, 'fine'
    return answer


# --- what is trained

def test_all_seeds_of_a_job_that_are_not_finished_go_on_as_one_wherever_they_stand(tmp_path):
    job = whole_job(tmp_path, 6)
    state(job.folder / 'seed_1', 20, finished=True)
    state(job.folder / 'seed_3', 20, finished=True)
    state(job.folder / 'seed_4', 10)
    asked = Asked(finish(job))
    assert launch.do(job, asked, {}) is None
    command, = asked.commands
    assert (command['--out_dir'], command['--seed'], command['--num_seeds']) == (str(job.folder), '2', '5')
    assert command['--init_from'] == 'resume'


def test_seeds_around_one_that_is_finished_go_on_though_none_of_them_is_begun(tmp_path):
    job = whole_job(tmp_path, 3)
    state(job.folder / 'seed_2', 20, finished=True)    # finished by another machine's part of the sweep
    asked = Asked(finish(job))
    assert launch.do(job, asked, {}) is None
    assert (asked.commands[0]['--num_seeds'], asked.commands[0]['--init_from']) == ('3', 'resume')


def test_the_last_seed_goes_on_in_its_own_folder_and_one_not_begun_from_the_start(tmp_path):
    job = whole_job(tmp_path, 2)
    state(job.folder / 'seed_1', 20, finished=True)
    asked = Asked(finish(job))
    assert launch.do(job, asked, {}) is None
    command, = asked.commands
    assert (command['--out_dir'], command['--seed'], command['--num_seeds']) == (str(job.folder / 'seed_2'),
                                                                                 '2', '1')
    assert '--init_from' not in command


def test_who_has_to_wait_says_once_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, 'WAIT', 0)
    job, said = whole_job(tmp_path, 2), []
    busy = 75, 'another training writes into seed_1'
    asked = Asked(busy, busy, (75, 'another training writes into seed_2'), finish(job))
    assert launch.do(job, asked, {}, said.append) is None
    assert said == [f'{job} waits: another training writes into seed_{seed}' for seed in (1, 2)]


def test_an_english_phrase_decides_nothing(tmp_path):
    job = whole_job(tmp_path, 2)
    assert launch.do(job, Asked((1, 'another training writes into seed_1')),
                     {}) == 'another training writes into seed_1'


def test_seeds_that_another_process_began_at_the_same_moment_are_gone_on_with(tmp_path):
    job = whole_job(tmp_path, 2)
    asked = Asked(lambda: (state(job.folder / 'seed_2', 10), (2, 'already holds a run'))[1], finish(job))
    assert launch.do(job, asked, {}) is None and asked.commands[1]['--init_from'] == 'resume'
    job = whole_job(tmp_path, 3)
    state(job.folder / 'seed_3', 10)
    assert launch.do(job, Asked((2, 'no room')), {}) == 'no room'


@pytest.mark.parametrize('status, says', [(-9, 'killed by signal 9 (SIGKILL; out of memory?)'),
                                          (-11, 'killed by signal 11 (SIGSEGV)'),
                                          (-40, 'killed by signal 40'), (3, 'iter     60: addition 0.0%')])
def test_a_child_that_a_signal_ended_is_not_reported_by_its_last_line(tmp_path, status, says):
    job = whole_job(tmp_path, 1)
    assert launch.do(job, Asked((status, 'iter     60: addition 0.0%')), {}) == says


def test_a_child_that_ends_well_without_having_finished_has_failed(tmp_path):
    job = whole_job(tmp_path, 2)
    assert launch.do(job, Asked(finish(job, [1])), {}) == f'{job.folder} did not finish'


@pytest.mark.parametrize('device, wants',
                         [('auto', True), ('cuda', True), ('cuda:1', True), ('cpu', False), ('mps', False)])
def test_a_job_wants_a_gpu_unless_its_runs_name_another_device(tmp_path, device, wants):
    job, = Sweep(sweep_file(tmp_path, device=device), {}, tmp_path).jobs(8)
    assert launch.wants_gpu(job) == wants


@pytest.mark.slow
@forked_sweeps()
def test_another_number_of_seeds_or_replicas_goes_on_with_a_sweep_that_was_stopped(command, tmp_path):
    path = sweep_file(tmp_path, num_seeds=3)
    sweep = Sweep(path, {}, tmp_path)
    job, = sweep.jobs(8)
    sweep.prepare(job.run)
    begun = command('train_with_eval.py', 'config/train_math_mini_14.py', **{
        **SHARED, 'out_dir': job.folder, 'dataset': job.run.settings['dataset'], 'num_seeds': 3,
        'max_iters': 10})
    assert begun.status == 0, begun.err    # the sweep, which is longer, resumes this run
    fewer = command('sweep.py', path, f'--sweeps_dir={tmp_path}', '--num_seeds=1')
    assert fewer.status == 0, fewer.err
    again = command('sweep.py', path, f'--sweeps_dir={tmp_path}')
    assert again.status == 0, again.err
    at = [json.loads((job.folder / f'seed_{seed}' / 'run.json').read_text())['iter_num']
          for seed in job.seeds]
    assert at == 3 * [TINY['max_iters']]


# --- what run.json says

@pytest.mark.parametrize('text, said', [
    ('{"finished": true}', 'damaged'), ('{"finished": true, "iter_num": "x"}', 'damaged'),
    ('{"fini', 'damaged'), ('{"finished": true, "iter_num": 20, "config": 3}', 'damaged'),
    ('{"finished": true, "iter_num": 20, "config": {"weight_decay": 0.5}}',
     'weight_decay=1.0, but the run in .*=0.5'),
])
def test_a_job_whose_record_is_damaged_or_of_other_settings_fails_alone(tmp_path, trained, text, said):
    first, second = Sweep(sweep_file(tmp_path, "axes = {'n_embd': [4, 6]}"), {}, tmp_path).jobs(8)
    state(first.folder / 'seed_1337', 20)
    (first.folder / 'seed_1337' / 'run.json').write_text(text)
    ended = {str(job): error
             for job, error in launch.local([first, second], lambda run: None, [{}], Children())}
    assert ended['n_embd=6'] is None and trained == [[1337]]
    with pytest.raises(UserError, match=said):
        raise UserError(ended['n_embd=4'])


def test_settings_that_may_change_do_not_undo_what_is_finished(tmp_path):
    job = whole_job(tmp_path, 1)
    config = job.run.config()
    recorded = {**dataclasses.asdict(config), 'seed': 1, 'num_seeds': 1, 'device': 'cuda', 'max_iters': 40,
                'log_interval': 7}
    state(job.folder / 'seed_1', 40, finished=True, config=recorded)
    assert launch.done(job)
    state(job.folder / 'seed_1', 10, finished=True, config={**recorded, 'max_iters': 10})
    assert not launch.done(job)
