# Table 2, row MLT (arithmetic), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not run.
# Time: not run.
base = 'config/train_math_mlt.py'
out_dir = 'math_mlt_wd'
dropout = 0.0
