# Table 2, row n14 (arithmetic). The paper: addition 100.0%, subtraction 100.0%, held-out 40/40.
# Ours: addition 100.0%, subtraction 97.2%, held-out 3.8 of 4 (mean of 16 seeds, best evaluation).
# Time: 12 s (1 seed; Intel(R) Xeon(R) Processor, 2 threads; fused).
out_dir = 'math_mini_14'
# All else are the defaults of tbtt/config.py, which are this run's.
