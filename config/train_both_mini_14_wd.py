# Table 4, row n14 (both tasks), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: addition 23.1%, subtraction 13.4%, facts 4.0%, held-out 0.0 of 4 (1 seed, best evaluation).
# Time: 68 s (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_14_wd'
weight_decay = 0.1
