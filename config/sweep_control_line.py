# Control: does the order of the lines take the rule away? Every window is within one line,
# so that there is no order to learn.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [10, 14, 20, 28, 56], 'windows': ['line']}
num_seeds = 8
