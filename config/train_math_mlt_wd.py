# Table 2, row MLT (math), with weight decay 0.1 and without dropout.
base = 'config/train_math_mlt.py'
out_dir = 'math_mlt_wd'
dropout = 0.0
