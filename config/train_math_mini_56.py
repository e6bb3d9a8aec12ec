# Table 2, row n56 (math). The paper: 98%, held-out 0/40.
base = 'config/train_math_mini_14.py'
out_dir = 'math_mini_56'
n_embd = 56
