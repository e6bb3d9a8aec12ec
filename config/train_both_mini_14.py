# Table 4, row n14 (both). The paper: addition 31.2%, subtraction 39.4%, facts 2.0%, held-out 0/40.
base = 'config/train_facts_mini_14.py'
out_dir = 'both_mini_14'
dataset = 'both_math_and_facts'
