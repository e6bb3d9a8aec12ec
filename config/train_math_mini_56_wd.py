# Table 2, row n56 (math), with weight decay 0.1 and without dropout.
out_dir = 'math_mini_56_wd'
dataset = 'as_math'
n_embd = 56
weight_decay = 0.1
