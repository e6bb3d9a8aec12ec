# How many bits of random strings does a model hold? 16 to 1,024 strings of 16 characters out of 16, windows
# within a line. For analysis/measure_capacity.py.
base = 'config/random_strings.py'
axes = {'n_embd': [10, 14, 20, 28, 40, 56]}
data = {'num': [16, 32, 64, 128, 256, 512, 1024]}
windows = 'line'
num_seeds = 4
