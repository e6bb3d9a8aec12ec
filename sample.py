"""
Sample from a checkpoint, ours or nanoGPT's; all samples in one batch.

    python sample.py --out_dir=math_mini_14 --ckpt=ckpt_best_math.pt --start="<7-5" --max_new_tokens=3

Prints each sample with its prompt, and a line of dashes after each.
"""
from collections.abc import Callable
from pathlib import Path

from tbtt import rng
from tbtt.cli import Parser, UserError, run
from tbtt.generate import generate
from tbtt.layout import LATEST
from tbtt.inference import add_options, load_model


def positive(kind: type) -> Callable[[str], int | float]:
    """argparse type: a number of this kind above zero."""
    def number(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < float('inf'):
            raise ValueError(text)
        return value
    number.__name__ = f'positive {kind.__name__}'
    return number


def read_start(start: str) -> str:
    """A prompt, or with FILE:name the text of that file."""
    if not start.startswith('FILE:'):
        return start
    path = Path(start.removeprefix('FILE:'))
    try:
        return path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is no UTF-8 text: {error}') from error


def main() -> None:
    """Load, sample, print."""
    parser = Parser(__doc__, texts=['--start'])
    add_options(parser, ckpt=LATEST)
    parser.add_argument('--start', default='\n',
                        help='prompt, or FILE:name for the text of a file (default: a newline)')
    parser.add_argument('--num_samples', type=positive(int), default=10, help='(default: 10)')
    parser.add_argument('--max_new_tokens', type=positive(int), default=500, help='(default: 500)')
    parser.add_argument('--temperature', type=positive(float), default=0.8,
                        help='below 1 sharper (default: 0.8)')
    parser.add_argument('--top_k', type=positive(int), default=200,
                        help='most likely tokens to draw from (default: 200)')
    args = parser.parse_args()
    start = read_start(args.start)
    if not start:
        raise UserError('the prompt is empty: --start takes at least one character')
    trained = load_model(Path(args.out_dir) / args.ckpt, args.device, args.seed, args.dataset)
    prompt = trained.codec.encode(start)
    completions = generate(
        trained.forward, [prompt], trained.seeds, rng.SAMPLES, num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens, block_size=trained.config.block_size,
        temperature=args.temperature, top_k=args.top_k)
    for row in completions.row[0, 0].tolist():
        print(start + trained.codec.decode(completions.tokens[row]))
        print('---------------')


if __name__ == '__main__':
    run(main)
