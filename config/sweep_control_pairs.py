# Control: does it depend on the held-out pair? Two other pairs are held out, at the width that learns the
# rule and at a width that does not keep it.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 28]}
data = {'heldout': ['2,6', '3,8']}
num_seeds = 8
