# Table 4, row MLT (both), with weight decay 0.1 and without dropout.
out_dir = 'both_mlt_wd'
dataset = 'both_math_and_facts'
n_layer = n_head = 6
n_embd = 384
mlp_expansion = 4
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
learning_rate = 1e-5
min_lr = 1e-6
weight_decay = 0.1
