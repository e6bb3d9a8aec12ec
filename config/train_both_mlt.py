# Table 4, row MLT (both). The paper: 98%, facts 100%, held-out 0/40.
base = 'config/train_facts_mlt.py'
out_dir = 'both_mlt'
dataset = 'both_math_and_facts'
