# Table 4, row n28 (both tasks). The paper: addition 95.0%, subtraction 97%, facts 87.6%, held-out 0/40.
# Ours: addition 97.5%, subtraction 79.9%, facts 94.8%, held-out 0.7 of 4 (mean of 3 seeds, best evaluation).
# Time: 22 min (1 seed; AMD EPYC, 1 thread; compiled).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_28'
n_embd = 28
