# Table 3, row n56 (facts). The paper: facts 100%.
base = 'config/train_facts_mini_14.py'
out_dir = 'facts_mini_56'
n_embd = 56
