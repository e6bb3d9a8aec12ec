# Table 4, row n28 (both tasks), but lines are repeated as by Zipf. The paper: no such run.
# Ours: addition 81.5%, subtraction 80.5%, facts 85.9%, held-out 0.0 of 4 (mean of 3 seeds, best).
# Time: 18 min (3 seeds together; AMD EPYC, 1 thread; compiled).
base = 'config/train_both_skewed_mini_14.py'
out_dir = 'both_skewed_mini_28'
n_embd = 28
