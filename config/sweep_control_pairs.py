# Control: is it the pair? Two other pairs held out, at the width that learns the rule and at one that does
# not keep it.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 28]}
data = {'heldout': ['2,6', '3,8']}
num_seeds = 8
