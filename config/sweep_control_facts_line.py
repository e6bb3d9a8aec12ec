# Control: are facts too many bits for n10 and n14, or do they recall so few because of the paper's windows?
# Every window is within one line. 4 seeds each.
base = 'config/train_facts_mini_14.py'
axes = {'n_embd': [10, 14], 'windows': ['line']}
num_seeds = 4
