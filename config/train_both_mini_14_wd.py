# Table 4, row n14 (both), with weight decay 0.1 and without dropout.
out_dir = 'both_mini_14_wd'
dataset = 'both_math_and_facts'
n_embd = 14
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
weight_decay = 0.1
