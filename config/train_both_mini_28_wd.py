# Table 4, row n28 (both tasks), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not run.
# Time: not run.
base = 'config/train_both_mini_28.py'
out_dir = 'both_mini_28_wd'
weight_decay = 0.1
