# Does it depend on the held-out pair? Ten other pairs are held out, and 2, 4 and 8 pairs at once, at the
# width that learns the rule and at the width that does not, 16 seeds each.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 28]}
data = {'heldout': ['0,1', '0,9', '1,2', '1,8', '2,6', '3,4', '3,9', '4,8', '6,7', '8,9',
                    '5,7;2,6', '5,7;2,6;3,9;1,8', '5,7;2,6;3,9;1,8;0,4;6,8;1,3;2,9']}
num_seeds = 16
