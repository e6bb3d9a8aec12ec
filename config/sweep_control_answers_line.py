# Control: which models can store the answers if every window holds one line? The results are dealt out at
# random as in sweep_control_answers.py, so there is no rule. sweep_control_line.py has the rule.
base = 'config/train_math_mini_14.py'
axes = {'n_embd': [8, 10, 14, 20, 28], 'windows': ['line']}
data = {'answers': ['shuffled']}
num_seeds = 8
