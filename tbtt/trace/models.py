"""The probability that our checkpoints, and causal models of `transformers`, give each token of an output.

Both have `name`, `parameters`, `seed` (None if there is none), `language` (tbtt/trace/ngrams.py) and
    log_probabilities(examples)    for each example the natural log-probabilities of its output's tokens,
                                   teacher-forced after its prompt, (tokens,) float64
"""
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tbtt.bpe import Bpe
from tbtt.checkpoint import read_checkpoint
from tbtt.cli import UserError, study_package
from tbtt.device import choose_device
from tbtt.evaluate import AnswerWindows
from tbtt.inference import load_model
from tbtt.trace.examples import Example
from tbtt.trace.ngrams import Characters, Words, first_of_output

MAX_TOKENS = 2**20    # in a forward pass of OurModel
MAX_LOGITS = 2**27    # in a forward pass of TransformersModel: half a gigabyte


class OurModel:
    """A checkpoint of a run."""

    def __init__(self, path: Path, name: str, device: str, dataset: str | None = None) -> None:
        """dataset: has the characters, if the checkpoint does not contain them. Raises `UserError` for a
        checkpoint with GPT-2's tokens."""
        checkpoint = read_checkpoint(path)
        self.trained = load_model(path, device, dataset=None if 'meta' in checkpoint else dataset)
        if isinstance(self.trained.codec, Bpe):
            raise UserError(f"{path} was trained on GPT-2's tokens, and a run is traced by its characters: "
                            'export it with analysis/export.py, then name it with --model')
        self.name, self.parameters, self.seed = name, self.trained.num_params, int(self.trained.seeds[0])
        self.language = Characters(self.trained.codec)

    def log_probabilities(self, examples: list[Example]) -> list[np.ndarray]:
        """A text that is longer than the block is cropped to its last `block_size` characters, as in
        generation."""
        asked = SimpleNamespace(prompts=[example.prompt for example in examples],
                                answers=[example.output for example in examples])
        trained = self.trained
        answers = AnswerWindows(asked, trained.codec, trained.config.block_size, trained.device)
        log_p = answers.log_probabilities(trained.forward, MAX_TOKENS)[0].cpu().double().numpy()
        return np.split(log_p, np.cumsum([len(answer) for answer in asked.answers])[:-1])


class TransformersModel:
    """A causal language model of the package `transformers`, in float32. No code that comes with it is run.

    name: a folder, or a name on the Hugging Face hub, from which it is downloaded only if `download`.
    """

    def __init__(self, name: str, device: str, download: bool = False) -> None:
        transformers = study_package('transformers')
        self.tokenizer = load(transformers.AutoTokenizer, name, download)
        self.model = load(transformers.AutoModelForCausalLM, name, download, dtype=torch.float32)
        self.device = choose_device(device)
        self.model.to(self.device).eval()
        self.name, self.seed = name, None
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.language = Words(self.tokenizer, name)
        vocab_size = self.model.get_input_embeddings().num_embeddings
        if self.language.vocab_size > vocab_size:
            raise UserError(f'{name}: a tokenizer of {self.language.vocab_size} tokens for a model of '
                            f'{vocab_size}: they do not belong together')
        self.context = getattr(self.model.config, 'max_position_embeddings', None)
        self.check_causal()
        encoded = self.tokenizer('a', return_special_tokens_mask=True)
        special = encoded['special_tokens_mask']
        # The special tokens that the tokenizer puts before each text, as in the training of the model.
        self.before = encoded['input_ids'][:special.index(0)] if 0 in special else []

    @torch.no_grad()
    def check_causal(self) -> None:
        """Raise `UserError` for an encoder, which sees the answer: transformers loads it as causal too."""
        one, other = self.model(input_ids=torch.tensor([[0, 0], [0, 1]], device=self.device)).logits[:, 0]
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
            raise UserError(f'{self.name} is no causal model: it sees the tokens that it should predict')

    @torch.no_grad()
    def log_probabilities(self, examples: list[Example]) -> list[np.ndarray]:
        """A text that is longer than the model's context is cropped at its beginning.

        Raises `UserError` if the output and one token before it do not fit, or if no token is before it.
        """
        texts = [self.tokens(i, example) for i, example in enumerate(examples)]
        # Texts of similar length need little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
        found = [None] * len(texts)
        while order:
            longest = len(texts[order[-1]][0])
            size = max(1, MAX_LOGITS // (longest * self.model.config.vocab_size))
            batch, order = order[-size:], order[:-size]
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):    # padded on the right: later tokens change nothing
                length = len(texts[i][0])
                ids[row, :length], mask[row, :length] = torch.tensor(texts[i][0]), 1
            logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
            for row, i in enumerate(batch):
                tokens, start = texts[i]
                log_p = logits[row, start - 1:len(tokens) - 1].float().log_softmax(-1)
                answer = torch.tensor(tokens[start:], device=self.device)[:, None]
                found[i] = log_p.gather(1, answer)[:, 0].cpu().double().numpy()
        return found

    def tokens(self, i: int, example: Example) -> tuple[list[int], int]:
        """-> ids of prompt and output as far as they fit into the context, and where the output begins"""
        ids, spans = self.language.encode(example.prompt + example.output)
        ids, start = self.before + ids, len(self.before) + first_of_output(spans, example)
        if not start:
            raise UserError(f'example {i + 1} ({example.output[:40]!r}): no token stands before its output: '
                            f'put text before it with --template')
        crop = max(0, len(ids) - self.context) if self.context else 0
        if start - crop < 1:
            raise UserError(f'example {i + 1} ({example.output[:40]!r}): its output has {len(ids) - start} '
                            f'tokens and {start} before it, {self.name} takes {self.context} together')
        return ids[crop:], start - crop


def load(kind: Any, name: str, download: bool, **settings: Any) -> Any:
    """`kind`.from_pretrained, only from local files unless `download`. It never runs code that comes with a
    model."""
    logging = study_package('transformers.utils.logging')
    logging.disable_progress_bar()    # loading is short, and an error should be one line
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return kind.from_pretrained(name, local_files_only=not download, trust_remote_code=False,
                                        **settings)
    except Exception as error:    # a folder without a model can raise nearly any exception
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        hint = '; --download fetches models from the Hugging Face hub'
        if download or Path(name).exists():
            hint = ''
        raise UserError(f'{name}: no model or tokenizer of transformers could be loaded '
                        f'({reason[:200]}){hint}') from error
