"""
Export a checkpoint of ours, of nanoGPT or of the paper's code as a folder that the library transformers
loads.

    python analysis/export.py --out_dir=math_mini_14 --to=hf_math_14

Writes config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json and a
model card, README.md, into the new folder --to. For a run of several seeds, each seed has such a folder below
it. AutoModelForCausalLM and AutoTokenizer load it without our code. Before the folder appears, it is loaded
in float64 and its logits are compared with ours; the largest difference, about 1e-14, is printed. Takes ten
seconds. docs/interchange.md says what to do with the folder.
"""
import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tbtt.cli import Parser, UserError, run, study_package    # first: it names missing packages

import numpy as np
import torch

from model import GPT
from tbtt import gpt2
from tbtt.atomic import TMP, flush_folder, write_file
from tbtt.bpe import Bpe
from tbtt.checkpoint import build_model, read_checkpoint
from tbtt.dataset import Codec
from tbtt.figures import markdown_table
from tbtt.inference import find_checkpoints, load_model
from tbtt.results import counted_groups, group_label, last_row, read_info, read_results
from tbtt.layout import LATEST, RESULTS
from tbtt.seed_folder import MAY_CHANGE, best_of

TOLERANCE = 1e-9    # of the largest logit, in float64: rounding is far below, the smallest mistake far above
# Settings that say where a run was trained, not how: the model card leaves them out.
OF_THE_MACHINE = MAY_CHANGE - {'dataset', 'dtype', 'max_iters'} | {'num_seeds', 'backend',
                                                                   'always_save_checkpoint'}


class Source(NamedTuple):
    """A checkpoint to export."""
    path: Path
    checkpoint: dict[str, Any]
    model: GPT
    codec: Codec | Bpe
    has_tasks: bool    # its lines end in a newline, which ends an answer


def read_source(path: Path, dataset: str | None = None) -> Source:
    """Read a checkpoint to export. dataset: has the characters of a checkpoint that carries none; by default
    the one that its config names.

    Raises `UserError` for a checkpoint that is damaged, or has characters that are not text, or weights that
    are not finite.
    """
    checkpoint = read_checkpoint(path)
    model = build_model(checkpoint, path).eval()
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f'{path} holds weights that are not finite: export one from before it diverged')
    trained = load_model(path, 'cpu', dataset=dataset)
    surrogates = [character for character in trained.codec.stoi if '\ud800' <= character <= '\udfff']
    if surrogates:
        raise UserError(f'{path}: its vocabulary has {surrogates[0]!r}, which is no text')
    return Source(path, checkpoint, model, trained.codec, bool(trained.tasks))


def model_config(source: Source) -> dict[str, Any]:
    """config.json: transformers' GPT2Config."""
    return {
        **gpt2.to_settings(source.model.config),
        'bos_token_id': None, 'eos_token_id': end_token(source), 'pad_token_id': None}


def end_token(source: Source) -> int | None:
    """The token that ends an answer, if the checkpoint knows its tasks; None for other text, which goes
    on."""
    return source.codec.stoi.get('\n') if source.has_tasks else None


def generation_config(source: Source) -> dict[str, Any]:
    """generation_config.json: greedy, to the end of the line, never beyond the block's last position."""
    end = end_token(source)
    return {'do_sample': False, 'max_length': source.model.config.block_size, 'eos_token_id': end,
            'pad_token_id': end}


def tokenizer_json(source: Source) -> str:
    """tokenizer.json: that of the data if they have GPT-2's tokens, else one token per character. There is no
    unknown token, so an unknown character is an error."""
    if isinstance(source.codec, Bpe):
        return source.codec.text
    tokenizers = study_package('tokenizers')
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(source.codec.stoi))
    character = tokenizers.Regex(r'[\s\S]')
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(character, behavior='isolated')
    tokenizer.decoder = tokenizers.decoders.Fuse()
    return tokenizer.to_str(pretty=True)


def tokenizer_config(source: Source) -> dict[str, Any]:
    """tokenizer_config.json: no special tokens, and every blank is kept."""
    return {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': source.model.config.block_size,
            'clean_up_tokenization_spaces': False}


def score_table(source: Source) -> str:
    """Markdown: what the run measured at the checkpoint's iteration, and at its last evaluation."""
    path = source.path.parent / RESULTS
    if not path.is_file():
        loss = best_of(source.checkpoint, source.path)[1]
        return f'The checkpoint comes without results. Its best validation loss: {loss:.4f}.'
    results = read_results(path)
    columns = {f'{group_label(group)} %': results[f'{group}_acc'] for group in counted_groups()}
    columns |= {'training loss': results['train_loss'], 'validation loss': results['val_loss']}
    columns = {head: values for head, values in columns.items() if not np.isnan(values).all()}
    here = np.flatnonzero(results['iter'] == source.checkpoint['iter_num'])
    rows = [('this checkpoint', i) for i in here] + [('last evaluation', last_row(results))]
    return markdown_table(['', 'iteration', *columns], [
        [label, f'{results["iter"][i]:,.0f}', *(f'{values[i]:.4g}' for values in columns.values())]
        for label, i in rows])


def model_card(source: Source, name: str) -> str:
    """README.md, with the front matter that model hubs read."""
    checkpoint = source.checkpoint
    settings = {key: value for key, value in checkpoint['config'].items() if key not in OF_THE_MACHINE}
    dataset = settings['dataset'] = Path(str(settings.get('dataset', 'unknown'))).name
    info = read_info(source.path.parent)
    made_by = {key: info[key] for key in ('commit', 'hardware', 'versions') if key in info}
    unit, unknown = 'characters', ' A character that was not in training is an error.'
    if isinstance(source.codec, Bpe):
        unit, unknown = "GPT-2's tokens", ''
    rows = [[f'`{key}`', f'`{value}`'] for key, value in {**settings, **made_by}.items()]
    return f'''---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
---
# {name}

A GPT of {source.model.get_num_params():,} parameters (position embeddings not counted) that reads and writes
{unit}, trained on `{dataset}` with seed {checkpoint['config'].get('seed', 'not recorded')}; the weights
of iteration {checkpoint['iter_num']:,} (`{source.path.name}`).

```python
from transformers import pipeline
ask = pipeline('text-generation', '{name}')
```

It answers greedily; a prompt and its answer together have at most {source.model.config.block_size}
of these.{unknown}

## Scores
{score_table(source)}

Scores are percent of near-greedy samples; held-out questions are those that training never saw. One seed is
an anecdote.

## Settings
{markdown_table(['setting', 'value'], rows)}
'''


def make_files(source: Source, name: str) -> dict[str, bytes]:
    """{file name: content} of a folder for transformers."""
    safetensors = study_package('safetensors.torch')
    weights = safetensors.save(gpt2.to_weights(source.model), metadata={'format': 'pt'})
    plain = {'config.json': model_config(source), 'generation_config.json': generation_config(source),
             'tokenizer_config.json': tokenizer_config(source)}
    texts = {file: json.dumps(content, indent=2) + '\n' for file, content in plain.items()}
    texts |= {'tokenizer.json': tokenizer_json(source), 'README.md': model_card(source, name)}
    # The name of a folder may not be valid UTF-8.
    return {'model.safetensors': weights, **{file: text.encode(errors='backslashreplace')
                                             for file, text in texts.items()}}


def read_folder(folder: Path) -> tuple[Any, Any]:
    """-> the model, in float64, and the tokenizer, both of transformers"""
    transformers = study_package('transformers')
    transformers.utils.logging.disable_progress_bar()
    load = transformers.AutoModelForCausalLM.from_pretrained
    return (load(folder, dtype=torch.float64, local_files_only=True),
            transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True))


@torch.no_grad()
def check_folder(source: Source, folder: Path) -> float:
    """Load the folder with transformers. -> the largest difference of its logits from ours, in float64

    Raises `UserError` if it is more than rounding, or if the tokenizer does not give back every character.
    """
    theirs, tokenizer = read_folder(folder)
    vocab_size, block_size = source.model.config.vocab_size, source.model.config.block_size
    tokens = torch.randint(vocab_size, (block_size,), generator=torch.Generator().manual_seed(0))
    ours = copy.deepcopy(source.model).double()(tokens[:, None])[..., 0].T    # (T, V)
    difference = (theirs(tokens[None]).logits[0] - ours).abs().max().item()
    text = ''.join(source.codec.stoi)
    ids = source.codec.encode(text)
    same_text = tokenizer(text, verbose=False)['input_ids'] == ids and tokenizer.decode(ids) == text
    if difference > TOLERANCE * ours.abs().max() or not same_text:
        raise UserError(f'this version of transformers reads {source.path} as another model (logits differ '
                        f'by {difference:.1e}): pip install -r requirements-study.txt')
    return difference


def write_folder(sources: dict[str, Source], to: Path) -> dict[str, float]:
    """Write a folder for each source, all of them or none. sources: {place below `to`: source}

    -> {place: the difference that `check_folder` found}
    """
    contents = {place: make_files(source, str(Path(to.name) / place)) for place, source in sources.items()}
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(f'{to}.{os.getpid()}{TMP}')
    try:
        for place, files in contents.items():
            (beside / place).mkdir(parents=True)
            for name, content in files.items():
                write_file(beside / place / name, content)
        found = {place: check_folder(source, beside / place) for place, source in sources.items()}
        beside.rename(to)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    flush_folder(to.parent)
    return found


def main() -> None:
    """Read, convert, write."""
    parser = Parser(__doc__)
    parser.add_argument('--out_dir', default='out', help='folder of the run (default: out)')
    parser.add_argument('--ckpt', default=LATEST, help=f'checkpoint in that folder (default: {LATEST})')
    parser.add_argument('--dataset', help='whose meta.pkl has the characters of a '
                        "checkpoint of nanoGPT's (default: as its config names it)")
    parser.add_argument('--to', required=True, help='the new folder')
    args = parser.parse_args()
    out_dir, to = Path(args.out_dir), Path(args.to)
    if os.path.lexists(to):
        raise UserError(f'{to} already exists: remove it, or name another folder with --to')
    sources = {'' if place == out_dir else place.name: read_source(place / args.ckpt, args.dataset)
               for place in find_checkpoints(out_dir, args.ckpt)}
    for place, difference in write_folder(sources, to).items():
        print(f'wrote {to / place}: its logits differ from ours by at most {difference:.1e} in float64')


if __name__ == '__main__':
    run(main)
