# Table 4, row MLT (both), with weight decay 0.1 and without dropout.
base = 'config/train_both_mlt.py'
out_dir = 'both_mlt_wd'
dropout = 0.0
