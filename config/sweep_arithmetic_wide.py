# The same question at one smaller and two larger widths, 8 seeds each:
# a threshold needs two sizes on each side.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [10, 40, 56]}
num_seeds = 8
