# Table 2, row n28 (math), with weight decay 0.1 and without dropout.
out_dir = 'math_mini_28_wd'
dataset = 'as_math'
n_embd = 28
weight_decay = 0.1
