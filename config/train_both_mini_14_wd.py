# Table 4, row n14 (both tasks), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: addition 24.7%, subtraction 17.9%, facts 6.1%, held-out 0.1 of 4 (mean of 8 seeds, best).
# Time: 68 s (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_14_wd'
weight_decay = 0.1
