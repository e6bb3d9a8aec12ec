# The facts with Zipf repeats, n56. Not in the paper: a third of its iterations, the same schedule.
base = 'config/train_facts_skewed_mini_14.py'
out_dir = 'facts_skewed_mini_56'
n_embd = 56
