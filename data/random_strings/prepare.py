"""
Random strings, one a line, which can only be memorised: they measure how many bits a model can hold.

    python data/random_strings/prepare.py
    python data/random_strings/prepare.py --num=1000 --length=16 --alphabet=16 --seed=7 --out_dir=strings

No string occurs twice. The vocabulary is the alphabet and the newline, even if a character does not occur.

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec; there
is no task). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare_strings

if __name__ == '__main__':
    run(lambda: prepare_strings(__file__, __doc__))
