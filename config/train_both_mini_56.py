# Table 4, row n56 (both). The paper: 98%, facts 100%, held-out 0/40.
out_dir = 'both_mini_56'
dataset = 'both_math_and_facts'
n_embd = 56
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
