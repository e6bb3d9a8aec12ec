# Table 4, row n14 (both tasks). The paper: addition 31.2%, subtraction 39.4%, facts 2.0%, held-out 0/40.
# Ours: addition 24.4%, subtraction 17.1%, facts 2.2%, held-out 0.1 of 4 (mean of 16 seeds, best).
# Time: 68 s (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_facts_mini_14.py'
out_dir = 'both_mini_14'
dataset = 'both_math_and_facts'
