# Table 2, row MLT (math), with weight decay 0.1 and without dropout.
out_dir = 'math_mlt_wd'
dataset = 'as_math'
n_layer = n_head = 6
n_embd = 384
mlp_expansion = 4
learning_rate = 1e-5
min_lr = 1e-6
weight_decay = 0.1
