# Table 3, row MLT (facts), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not run.
# Time: not run.
base = 'config/train_facts_mlt.py'
out_dir = 'facts_mlt_wd'
dropout = 0.0
