# Where does a rule give way to a lookup? Fourteen widths, three tasks, with and without weight decay, 32
# seeds each.
base = {'math': 'config/train_math_mini_14.py', 'facts': 'config/train_facts_mini_14.py',
        'both': 'config/train_both_mini_14.py'}
axes = {'weight_decay': [0.0, 0.1],
        'n_embd': [4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 40, 56, 80, 112]}
num_seeds = 32
