# Table 4, row n14 (both). The paper: addition 31.2%, subtraction 39.4%, facts 2.0%, held-out 0/40.
out_dir = 'both_mini_14'
dataset = 'both_math_and_facts'
n_embd = 14
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
