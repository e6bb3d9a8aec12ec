# Table 4, row MLT (both tasks). The paper: addition 98%, subtraction 98%, facts 100.0%, held-out 0/40.
# Ours: addition 98.0%, subtraction 98.0%, facts 100.0%, held-out 0.0 of 4 (1 seed, stopped at 4,500, best).
# Time: not measured.
base = 'config/train_facts_mlt.py'
out_dir = 'both_mlt'
dataset = 'both_math_and_facts'
