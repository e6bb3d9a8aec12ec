# Table 2, row n14 (arithmetic). The paper: addition 100.0%, subtraction 100.0%, held-out 40/40.
# Ours: addition 99.9%, subtraction 96.6%, held-out 3.8 of 4 (mean of 32 seeds, best).
# Time: 19 s (1 seed; Intel(R) Xeon(R) Processor, 1 thread; fused).
out_dir = 'math_mini_14'
# All else are the defaults of tbtt/config.py, which are this run's.
