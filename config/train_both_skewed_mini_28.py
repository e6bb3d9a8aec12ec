# Arithmetic and facts with Zipf repeats, n28. Not in the paper: a third of its iterations, the same schedule.
base = 'config/train_both_skewed_mini_14.py'
out_dir = 'both_skewed_mini_28'
n_embd = 28
