# Table 4, row n56 (both), with weight decay 0.1 and without dropout.
base = 'config/train_both_mini_56.py'
out_dir = 'both_mini_56_wd'
weight_decay = 0.1
