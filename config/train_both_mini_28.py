# Table 4, row n28 (both tasks). The paper: addition 95.0%, subtraction 97%, facts 87.6%, held-out 0/40.
# Ours: addition 93.8%, subtraction 84.7%, facts 93.3%, held-out 0.1 of 4 (mean of 16 seeds, best).
# Time: 2 min (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_28'
n_embd = 28
