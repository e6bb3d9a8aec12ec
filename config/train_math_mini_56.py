# Table 2, row n56 (math). The paper: 98%, held-out 0/40.
out_dir = 'math_mini_56'
dataset = 'as_math'
n_embd = 56
