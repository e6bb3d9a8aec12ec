# Table 4, row n56 (both tasks). The paper: addition 98%, subtraction 98%, facts 100.0%, held-out 0/40.
# Ours: addition 98.0%, subtraction 98.0%, facts 100.0%, held-out 0.0 of 4 (mean of 4 seeds, best).
# Time: 6 min (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_56'
n_embd = 56
