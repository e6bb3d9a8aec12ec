# Table 4, row n14 (both tasks), but lines are repeated as by Zipf. The paper: no such run.
# Ours: addition 14.6%, subtraction 16.2%, facts 10.0%, held-out 0.0 of 4 (mean of 3 seeds, best).
# Time: 9 min (3 seeds together; AMD EPYC, 1 thread; compiled).
base = 'config/train_facts_skewed_mini_14.py'
out_dir = 'both_skewed_mini_14'
dataset = 'both_skewed'
