# The facts with Zipf repeats, n14. Not in the paper: a third of its iterations, the same schedule.
base = 'config/train_facts_mini_14.py'
out_dir = 'facts_skewed_mini_14'
dataset = 'facts_skewed'
max_iters = 10000    # a third of the paper's, the same schedule
warmup_iters = 700
lr_decay_iters = 8300
