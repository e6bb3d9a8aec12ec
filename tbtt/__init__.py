"""The library behind the scripts. They import from here before torch and NumPy, to say what is missing."""
from tbtt.startup import prepare_script

prepare_script()
