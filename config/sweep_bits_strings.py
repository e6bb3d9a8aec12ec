# How many bits of random strings can a model hold? 16 to 1,024 strings of 16 characters from an alphabet of
# 16; each window is within one line. For analysis/measure_capacity.py.
base = 'config/random_strings.py'
axes = {'n_embd': [10, 14, 20, 28, 40, 56]}
data = {'num': [16, 32, 64, 128, 256, 512, 1024]}
windows = 'line'
num_seeds = 4
