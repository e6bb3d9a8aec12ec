# Table 2, row n28 (math), with weight decay 0.1 and without dropout.
base = 'config/train_math_mini_28.py'
out_dir = 'math_mini_28_wd'
weight_decay = 0.1
