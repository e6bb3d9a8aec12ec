# Control: does the order of the lines take the rule away? Windows of the usual length, each with the lines
# in a new random order: there is context, but nothing in it to learn.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 28, 56], 'line_order': ['fresh']}
num_seeds = 8
