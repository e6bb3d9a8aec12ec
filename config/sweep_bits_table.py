# How many bits of a table without a rule can a model hold? The results are dealt out at random, and the
# tables have 50 to 3,200 questions. Each window is within one line, so that the order of lines takes no
# capacity. For analysis/measure_capacity.py.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [10, 14, 20, 28, 40, 56]}
data = {'answers': ['shuffled'], 'heldout': ['none'], 'max_operand': [4, 6, 9, 14, 19, 29, 39]}
windows = 'line'
block_size = 12         # the longest line: <39-38=-39> and a newline
eval_interval = 5000    # the largest tables are asked 3,200 questions
num_seeds = 4
