# The question of sweep_facts_both.py at n56, the paper's largest small model, 4 seeds each.
base = {'facts': 'config/train_facts_mini_14.py', 'both': 'config/train_both_mini_14.py'}
axes = {'n_embd': [56]}
num_seeds = 4
