# Table 2, row n14 (arithmetic). The paper: addition 100.0%, subtraction 100.0%, held-out 40/40.
# Ours: addition 100.0%, subtraction 94.0%, held-out 3.8 of 4 (mean of 6 seeds, best evaluation).
# Time: 5 min (1 seed; AMD EPYC, 1 thread; compiled).
out_dir = 'math_mini_14'
# All else are the defaults of tbtt/config.py, which are this run's.
