# Arithmetic and facts with Zipf repeats, n56. Not in the paper: a third of its iterations, the same schedule.
out_dir = 'both_skewed_mini_56'
dataset = 'both_skewed'
n_embd = 56
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
max_iters = 10000
warmup_iters = 700
lr_decay_iters = 8300
