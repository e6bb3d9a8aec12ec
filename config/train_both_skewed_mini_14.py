# Arithmetic and facts with Zipf repeats, n14. Not in the paper: a third of its iterations, the same schedule.
base = 'config/train_facts_skewed_mini_14.py'
out_dir = 'both_skewed_mini_14'
dataset = 'both_skewed'
