"""
The lines of facts_skewed, and those of as_math with a Zipf distribution of repeats of their own, in one file.

    python data/both_skewed/prepare.py
    python data/both_skewed/prepare.py --exponent=2 --repeats=1000 --math_repeats=2000 --seed=7

Which expression has which rank is drawn from --seed, as which fact has. What has rank r among the facts has
r**-EXPONENT / (sum of that over all ranks) of --repeats lines, among the expressions that are not held out of
--math_repeats lines, rounded to the nearest whole number (a half to the even one), and at least one. How
often each occurs is in meta.pkl, and so in checkpoints. All lines are shuffled together; --order=blocks puts
arithmetic before facts.

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
