# Does weight decay change what sweep_facts_both.py finds? 8 seeds each.
base = {'facts': 'config/train_facts_mini_14.py', 'both': 'config/train_both_mini_14.py'}
axes = {'n_embd': [14, 28]}
weight_decay = 0.1
num_seeds = 8
