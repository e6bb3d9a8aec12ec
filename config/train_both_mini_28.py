# Table 4, row n28 (both). The paper: addition 95.0%, subtraction 97%, facts 87.6%, held-out 0/40.
out_dir = 'both_mini_28'
dataset = 'both_math_and_facts'
n_embd = 28
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
