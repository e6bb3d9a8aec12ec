# Table 2, row n14 (math), with weight decay 0.1 and without dropout.
out_dir = 'math_mini_14_wd'
dataset = 'as_math'
n_embd = 14
weight_decay = 0.1
