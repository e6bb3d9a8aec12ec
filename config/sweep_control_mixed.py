# Control: does a second task in the same window matter? Both tasks, all lines shuffled together.
base = 'config/train_both_mini_14.py'
axes = {'n_embd': [14, 28, 56]}
data = {'order': ['mixed']}
num_seeds = 8
