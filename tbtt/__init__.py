"""The library behind the scripts. A script imports from here first, before torch and NumPy:
so it can say what is missing."""
from tbtt.startup import prepare_script

prepare_script()
