# Table 3, row n28 (facts). The paper: facts 100%.
out_dir = 'facts_mini_28'
dataset = 'facts_char'
n_embd = 28
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
