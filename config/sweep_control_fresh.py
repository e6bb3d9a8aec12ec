# Control: the same with windows as long as ever, from lines dealt out anew for each:
# there is context, and nothing in it.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 28, 56], 'line_order': ['fresh']}
num_seeds = 8
