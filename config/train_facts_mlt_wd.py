# Table 3, row MLT (facts), with weight decay 0.1 and no dropout. The paper: no numbers in its tables.
# Ours: not measured yet.
# Time: not measured yet.
base = 'config/train_facts_mlt.py'
out_dir = 'facts_mlt_wd'
dropout = 0.0
