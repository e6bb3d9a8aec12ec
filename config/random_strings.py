# Random strings, at the width of n14. Not in the paper: how many bits does a model hold?
out_dir = 'random_strings'
dataset = 'random_strings'
n_embd = 14
block_size = 16
batch_size = 512    # x 16 = 8,192 characters a step
eval_interval = 5000
