# Table 3, row n14 (facts), but lines are repeated as by Zipf. The paper: no such run.
# Ours: facts 16.6% (mean of 3 seeds, best).
# Time: 8 min (3 seeds together; AMD EPYC, 1 thread; compiled).
base = 'config/train_facts_mini_14.py'
out_dir = 'facts_skewed_mini_14'
dataset = 'facts_skewed'
max_iters = 10000    # a third of the paper's, the same schedule
warmup_iters = 700
lr_decay_iters = 8300
