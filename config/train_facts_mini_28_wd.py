# Table 3, row n28 (facts), with weight decay 0.1 and without dropout.
base = 'config/train_facts_mini_28.py'
out_dir = 'facts_mini_28_wd'
weight_decay = 0.1
