# Table 4, row MLT (both tasks), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not run.
# Time: not run.
base = 'config/train_both_mlt.py'
out_dir = 'both_mlt_wd'
dropout = 0.0
