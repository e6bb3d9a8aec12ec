# Table 4, row n14 (both tasks). The paper: addition 31.2%, subtraction 39.4%, facts 2.0%, held-out 0/40.
# Ours: addition 11.5%, subtraction 10.0%, facts 8.0%, held-out 0.0 of 4 (1 seed, best evaluation).
# Time: 18 min (1 seed; AMD EPYC, 1 thread; compiled).
base = 'config/train_facts_mini_14.py'
out_dir = 'both_mini_14'
dataset = 'both_math_and_facts'
