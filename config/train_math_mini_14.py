# Table 2, row n14 (math). The paper: addition and subtraction 100%, held-out 40/40.
out_dir = 'math_mini_14'
# All else are the defaults of tbtt/config.py, which are this run's.
