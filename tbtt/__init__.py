"""The library behind the scripts. A script imports from here before torch and NumPy, to say what is missing."""
from tbtt.startup import prepare_script

prepare_script()
