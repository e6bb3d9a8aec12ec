"""How much fits: tokens in one forward pass of an evaluation, replicas in one training."""
import gc
import os
from dataclasses import replace

import torch

from tbtt.engine import Engine
from tbtt.replicas import Replicas


def free_bytes(device):
    """Memory that is not in use, of the GPU or of the machine."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def tokens_per_pass(model, num_replicas, device):
    """How many tokens a replica an evaluation may put through the model at once. model: its GPTConfig."""
    floats = 6 * model.vocab_size + (8 + 2 * model.mlp_expansion) * model.n_embd + 3 * model.n_head * model.block_size
    budget = free_bytes(device) // 4 if device.type == 'cuda' else 2**28
    return max(model.block_size, budget // (4 * floats * num_replicas))


def is_out_of_memory(error):
    """Does this exception say that memory ran out? The CPU's allocator has no type of its own for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def bytes_a_replica(config, vocab_size):
    """About how much memory the step of one replica takes at its peak, from the sizes of its activations alone."""
    tokens = config.batch_size * config.block_size
    floats = 12 * tokens * (vocab_size + config.n_layer * (8 + 2 * config.mlp_expansion) * config.n_embd)
    return 4 * floats


def replicas_that_fit(config, model_args, data, device, dtype):
    """How many replicas would train in the memory that is free now, going by a step of one; 0 where not even one does."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    free = free_bytes(device)
    config = replace(config, windows='any', line_order='fixed')    # which windows they are takes no more memory
    try:
        engine = Engine(Replicas.from_seeds(model_args, [config.seed], device), data, [config.seed], config, device, dtype)
        for _ in engine.run(0, 1):
            pass
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return 0
    if device.type == 'cuda':
        return int(0.9 * free / (torch.cuda.max_memory_allocated(device) - before))
    return int(0.9 * free / bytes_a_replica(config, model_args['vocab_size']))
