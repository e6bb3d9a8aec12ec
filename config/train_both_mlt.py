# Table 4, row MLT (both). The paper: 98%, facts 100%, held-out 0/40.
out_dir = 'both_mlt'
dataset = 'both_math_and_facts'
n_layer = n_head = 6
n_embd = 384
mlp_expansion = 4
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
learning_rate = 1e-5
min_lr = 1e-6
dropout = 0.2
weight_decay = 0.1
