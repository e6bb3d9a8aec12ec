# Your own text, prepared by data/text/prepare.py; --init_from=gpt2 finetunes GPT-2 on it (docs/own_text.md).
# Ours: not run.
# Time: not run.
out_dir = 'out_text'
dataset = 'text'
n_layer = 4
n_head = 4
n_embd = 128
mlp_expansion = 4
block_size = 64
batch_size = 12    # x 64 = 768 tokens a step
max_iters = 2000
learning_rate = 1e-3
warmup_iters = 100
lr_decay_iters = 2000
weight_decay = 0.1
eval_iters = 20
log_interval = 10
