# Table 4, row n56 (both). The paper: 98%, facts 100%, held-out 0/40.
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_56'
n_embd = 56
