# Table 3, row MLT (facts). The paper: facts 100%.
out_dir = 'facts_mlt'
dataset = 'facts_char'
n_layer = n_head = 6
n_embd = 384
mlp_expansion = 4
block_size = 24
batch_size = 576    # x 24 = 13,824 characters a step
learning_rate = 1e-5
min_lr = 1e-6
dropout = 0.2
weight_decay = 0.1
