# Table 2, row n28 (arithmetic). The paper: addition 98%, subtraction 98%, held-out 0/40.
# Ours: addition 98.8%, subtraction 98.7%, held-out 1.5 of 4 (mean of 6 seeds, best evaluation).
# Time: 13 min (1 seed; AMD EPYC, 1 thread; compiled).
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_28'
n_embd = 28
