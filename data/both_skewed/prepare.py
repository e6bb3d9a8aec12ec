"""
The lines of facts_skewed, and those of as_math with their own Zipf distribution of repeats, in one file.

    python data/both_skewed/prepare.py
    python data/both_skewed/prepare.py --exponent=2 --repeats=1000 --math_repeats=2000 --seed=7

The ranks of the facts and of the expressions are drawn at random from --seed. The fact of rank r has a share
r**-EXPONENT / (sum of that over all ranks) of --repeats lines. An expression that is not held out has such a
share, over the ranks of these expressions, of --math_repeats lines. Each count is rounded to the nearest
whole number (a half to the even one), and is at least one. meta.pkl, and so each checkpoint, says how often
each occurs. All lines are shuffled together; --order=blocks puts arithmetic before facts.

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec and the
tasks). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare

if __name__ == '__main__':
    run(lambda: prepare(__file__, __doc__, kinds=['math', 'facts'], skewed=True))
