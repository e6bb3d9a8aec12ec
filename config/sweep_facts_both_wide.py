# The question of sweep_facts_both.py at n10 and at n56, the widths below and above the others, 4 seeds each.
base = {'facts': 'config/train_facts_mini_14.py', 'both': 'config/train_both_mini_14.py'}
axes = {'n_embd': [10, 56]}
num_seeds = 4
