"""The library behind the scripts. They import it before torch and NumPy, to name a package that is missing.

The letters of shapes, the same in every file:
    R   replicas: seeds that are trained together
    B   windows of a batch; the last axis, as in model.py
    T   positions of a window
    C   features of the residual stream, in H heads of D
    V   tokens of the vocabulary
    P   prompts of a task, S samples of each, N distinct completions among them
    E   evaluations of a run
So logits of several seeds are (R, V, T, B), and samples (R, P, S). docs/files.md says what each file is for.
"""
from tbtt.startup import prepare_script

prepare_script()
