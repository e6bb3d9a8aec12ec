# Table 3, row n56 (facts). The paper: facts 100%.
out_dir = 'facts_mini_56'
dataset = 'facts_char'
n_embd = 56
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
