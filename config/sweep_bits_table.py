# How many bits of a table without a rule does a model hold? Results dealt out at random, tables of 50 to
# 3,200 questions, windows within a line, so that no order of lines takes room.
# For analysis/measure_capacity.py.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [10, 14, 20, 28, 40, 56]}
data = {'answers': ['shuffled'], 'heldout': ['none'], 'max_operand': [4, 6, 9, 14, 19, 29, 39]}
windows = 'line'
block_size = 12         # the longest line: <39-38=-39> and a newline
eval_interval = 5000    # the largest tables are asked 3,200 questions
num_seeds = 4
