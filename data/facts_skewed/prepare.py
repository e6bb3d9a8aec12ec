"""
The statements of facts_char, some far more often than others: a Zipf distribution of repeats.

    python data/facts_skewed/prepare.py
    python data/facts_skewed/prepare.py --exponent=2 --repeats=1000 --seed=7

The ranks of the facts are drawn at random from --seed. The fact of rank r has a share r**-EXPONENT / (sum of
that over all ranks) of --repeats lines, rounded to the nearest whole number (a half to the even one), and at
least one line. So there are about --repeats lines in all. meta.pkl, and so each checkpoint, says how often
each fact occurs.

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec and the
tasks). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare

if __name__ == '__main__':
    run(lambda: prepare(__file__, __doc__, kinds=['facts'], skewed=True))
