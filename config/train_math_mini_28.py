# Table 2, row n28 (math). The paper: 98%, held-out 0/40.
out_dir = 'math_mini_28'
dataset = 'as_math'
n_embd = 28
