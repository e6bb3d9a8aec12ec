"""
Sums and differences of two numbers, one a line: <a+b=c> and <a-b=c>, all operands from 0 to --max_operand.

    python data/as_math/prepare.py
    python data/as_math/prepare.py --answers=shuffled --out_dir=no_rule

With --answers=shuffled the questions stay the same, and the results are dealt out to them at random, once,
from --seed: a table without a rule. The dealt results count as right. The held-out questions, which are still
never trained on, are dealt results too, but nothing in the training data tells which.

Writes train.txt and val.txt (to read), train.bin and val.bin (uint16 tokens) and meta.pkl (the codec and the
tasks). Training and validation data are the same. Takes a second.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.prepare import prepare

if __name__ == '__main__':
    run(lambda: prepare(__file__, __doc__, kinds=['math']))
