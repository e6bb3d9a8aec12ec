# Table 2, row n56 (math), with weight decay 0.1 and without dropout.
base = 'config/train_math_mini_56.py'
out_dir = 'math_mini_56_wd'
weight_decay = 0.1
