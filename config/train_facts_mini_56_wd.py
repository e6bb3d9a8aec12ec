# Table 3, row n56 (facts), with weight decay 0.1 and without dropout.
out_dir = 'facts_mini_56_wd'
dataset = 'facts_char'
n_embd = 56
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
weight_decay = 0.1
