# A first look: a width that learns the rule and a width that is too small, two seeds each, with far fewer
# steps than in the paper. Takes about two minutes on two cores.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [6, 14]}
num_seeds = 2
max_iters = 2500
warmup_iters = 200
lr_decay_iters = 2200
