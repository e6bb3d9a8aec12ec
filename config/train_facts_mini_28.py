# Table 3, row n28 (facts). The paper: facts 100%.
base = 'config/train_facts_mini_14.py'
out_dir = 'facts_mini_28'
n_embd = 28
