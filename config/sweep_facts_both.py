# Facts alone, and both tasks in the paper's order, 16 seeds each.
base = {'facts': 'config/train_facts_mini_14.py', 'both': 'config/train_both_mini_14.py'}
axes = {'n_embd': [14, 28]}
num_seeds = 16
