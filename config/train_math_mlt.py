# Table 2, row MLT (arithmetic). The paper: addition 98%, subtraction 98%, held-out 0/40.
# Ours: addition 98.0%, subtraction 98.0%, held-out 0.0 of 4 (1 seed, stopped at 3,000, best).
# Time: not measured.
base = 'config/train_math_mini_14.py'
out_dir = 'math_mlt'
n_layer = n_head = 6
n_embd = 384
mlp_expansion = 4
learning_rate = 1e-5
min_lr = 1e-6
dropout = 0.2
weight_decay = 0.1
