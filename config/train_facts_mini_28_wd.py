# Table 3, row n28 (facts), with weight decay 0.1 and without dropout.
out_dir = 'facts_mini_28_wd'
dataset = 'facts_char'
n_embd = 28
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
weight_decay = 0.1
