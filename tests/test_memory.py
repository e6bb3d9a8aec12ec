"""Memory that runs out is said in one line, with what would fit."""
import pytest
import torch

from conftest import TINY, contents
from tbtt import memory
from tbtt.engine import Engine


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory.'), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")])
def test_out_of_memory_says_how_many_replicas_would_fit_and_keeps_what_is_there(command, small_math, tmp_path, monkeypatch,
                                                                                 error):
    settings = dict(TINY, dataset=small_math, out_dir=tmp_path / 'run', num_seeds=3)
    assert command('train_with_eval.py', **settings).status == 0
    before = contents(tmp_path / 'run' / 'seed_1337')
    run, calls = Engine.run, []

    def fails_at_first(self, first, last):
        calls.append(len(self.seeds))
        if len(self.seeds) > 1:
            raise error
        return run(self, first, last)

    monkeypatch.setattr(Engine, 'run', fails_at_first)
    monkeypatch.setattr(memory, 'free_bytes', lambda device: 2**24)
    result = command('train_with_eval.py', **settings | dict(init_from='resume', max_iters=30))
    assert result.status == 2 and calls == [3, 1]
    assert 'out of memory with num_seeds=3: about' in result.err and result.err.count('\n') == 1
    after = contents(tmp_path / 'run' / 'seed_1337')
    assert {name: after[name] for name in after if name != 'run.json'} == {
        name: before[name] for name in before if name != 'run.json'}


def test_other_errors_are_not_taken_for_memory():
    assert not memory.is_out_of_memory(RuntimeError('shapes do not fit'))


def test_fewer_tokens_go_through_a_larger_model_or_more_replicas_at_once(math_data):
    from model import GPTConfig
    cpu, small, large = torch.device('cpu'), GPTConfig(vocab_size=17, n_embd=14, n_head=1, block_size=9), GPTConfig()
    assert memory.tokens_per_pass(small, 1, cpu) > memory.tokens_per_pass(small, 100, cpu) >= 9
    assert memory.tokens_per_pass(small, 1, cpu) > memory.tokens_per_pass(large, 1, cpu) >= 1024
