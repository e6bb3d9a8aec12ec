# Table 2, row n14 (math), with weight decay 0.1 and without dropout.
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_14_wd'
weight_decay = 0.1
