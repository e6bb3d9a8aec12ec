# Table 4, row n28 (both). The paper: addition 95.0%, subtraction 97%, facts 87.6%, held-out 0/40.
base = 'config/train_both_mini_14.py'
out_dir = 'both_mini_28'
n_embd = 28
