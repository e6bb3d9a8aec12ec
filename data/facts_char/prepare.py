"""
Capitals of 50 countries, one a line: Capital of X is Y.

    python data/facts_char/prepare.py

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec and the
tasks). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare

if __name__ == '__main__':
    run(lambda: prepare(__file__, __doc__, kinds=['facts']))
