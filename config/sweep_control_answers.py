# Control: which models can store the table? The same questions, with results dealt out at random,
# so that there is no rule to find.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [10, 14, 20, 28, 40, 56]}
data = {'answers': ['shuffled']}
num_seeds = 8
