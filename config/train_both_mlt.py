# Table 4, row MLT (both tasks). The paper: addition 98%, subtraction 98%, facts 100.0%, held-out 0/40.
# Ours: not run.
# Time: not run.
base = 'config/train_facts_mlt.py'
out_dir = 'both_mlt'
dataset = 'both_math_and_facts'
