# Table 4, row n14 (both tasks). The paper: addition 31.2%, subtraction 39.4%, facts 2.0%, held-out 0/40.
# Ours: addition 26.6%, subtraction 17.3%, facts 2.5%, held-out 0.0 of 4 (mean of 4 seeds, best evaluation).
# Time: 45 s (1 seed; Intel(R) Xeon(R) Processor, 2 threads; fused).
base = 'config/train_facts_mini_14.py'
out_dir = 'both_mini_14'
dataset = 'both_math_and_facts'
