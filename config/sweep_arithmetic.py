# Which models learn the rule, and which keep it? Arithmetic at the widths around which this changes, 32 seeds
# each, without and with weight decay.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [14, 20, 28], 'weight_decay': [0.0, 0.1]}
num_seeds = 32
