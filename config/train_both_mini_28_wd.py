# Table 4, row n28 (both), with weight decay 0.1 and without dropout.
base = 'config/train_both_mini_28.py'
out_dir = 'both_mini_28_wd'
weight_decay = 0.1
