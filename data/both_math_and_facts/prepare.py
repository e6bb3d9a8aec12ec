"""
The lines of as_math, then those of facts_char, in one file.

    python data/both_math_and_facts/prepare.py
    python data/both_math_and_facts/prepare.py --order=mixed --out_dir=both_mixed

Each block equals its own dataset prepared with the same --seed, as in the paper's data. --order=mixed
shuffles all lines together.

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec and the
tasks). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare

if __name__ == '__main__':
    run(lambda: prepare(__file__, __doc__, kinds=['math', 'facts']))
