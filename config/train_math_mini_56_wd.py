# Table 2, row n56 (arithmetic), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not run.
# Time: not run.
base = 'config/train_math_mini_56.py'
out_dir = 'math_mini_56_wd'
weight_decay = 0.1
