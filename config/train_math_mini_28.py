# Table 2, row n28 (math). The paper: 98%, held-out 0/40.
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_28'
n_embd = 28
