# Table 2, row n28 (arithmetic). The paper: addition 98%, subtraction 98%, held-out 0/40.
# Ours: addition 98.3%, subtraction 98.6%, held-out 1.1 of 4 (mean of 16 seeds, best evaluation).
# Time: 26 s (1 seed; Intel(R) Xeon(R) Processor, 2 threads; fused).
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_28'
n_embd = 28
