# Table 2, row n56 (arithmetic). The paper: addition 98%, subtraction 98%, held-out 0/40.
# Ours: addition 98.2%, subtraction 98.2%, held-out 0.5 of 4 (mean of 8 seeds, best).
# Time: 2 min (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_56'
n_embd = 56
