# Table 4, row n14 (both), with weight decay 0.1 and without dropout.
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_14_wd'
weight_decay = 0.1
