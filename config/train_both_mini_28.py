# Table 4, row n28 (both tasks). The paper: addition 95.0%, subtraction 97%, facts 87.6%, held-out 0/40.
# Ours: addition 98.0%, subtraction 59.6%, facts 88.0%, held-out 0.0 of 4 (1 seed, best evaluation).
# Time: 22 min (1 seed; AMD EPYC, 1 thread; compiled).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_28'
n_embd = 28
