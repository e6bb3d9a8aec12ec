"""
Prepare your own text files, as characters or as GPT-2's tokens.

    python data/text/prepare.py --input=book.txt
    python data/text/prepare.py --input=one.txt two.txt --tokens=gpt2 --val=0.1 --out_dir=data/books

Files are UTF-8; line ends become newlines. The files are joined in the order in which they are named. With
--tokens=gpt2, the token <|endoftext|> separates them. The last tenth of the characters is for validation
(--val). GPT-2's tokens come from local files: --tokenizer=FOLDER, or this machine's Hugging Face cache.

Writes train.bin and val.bin (uint16 tokens) and meta.pkl (the codec; there is no task). Reads in pieces, so
that a file may be larger than the memory. Then: python train_with_eval.py config/train_text.py
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tbtt.cli import run
from tbtt.text import prepare_text

if __name__ == '__main__':
    run(lambda: prepare_text(__file__, __doc__))
