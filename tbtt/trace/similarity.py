"""Which n-grams mean related things: cosine similarity of embeddings by a model of `transformers`."""
import numpy as np
import torch

from tbtt.cli import UserError, study_package
from tbtt.device import choose_device
from tbtt.trace.models import load

BATCH = 256      # n-grams
LONGEST = 512    # tokens of an n-gram, if a model has no limit: more are cut off


class Similarity:
    """similarity(inputs, outputs) -> (inputs, outputs) bool array: which pairs have a similarity of at least
    `threshold`. An embedding is the mean of the model's last hidden states over the tokens of a text. Each
    text is embedded only once."""

    def __init__(self, name: str, threshold: float, device: str, download: bool = False) -> None:
        transformers = study_package('transformers')
        self.tokenizer = load(transformers.AutoTokenizer, name, download)
        self.device = choose_device(device)
        self.model = load(transformers.AutoModel, name, download, dtype=torch.float32).to(self.device).eval()
        self.threshold, self.known = threshold, {}
        self.tokenizer.padding_side = 'right'    # so that position 0 is the first token of a text
        if self.tokenizer.pad_token is None:    # any token will do: padding is masked
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(0)
        vocab_size = self.model.get_input_embeddings().num_embeddings
        if self.model.config.is_encoder_decoder or len(self.tokenizer) > vocab_size:
            raise UserError(f'{name}: --embedding_model takes an encoder or a causal model, with its own '
                            'tokenizer')
        self.length = min(self.tokenizer.model_max_length,
                          getattr(self.model.config, 'max_position_embeddings', None) or LONGEST)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> torch.Tensor:
        """-> (texts, C) embeddings of length 1"""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        for begin in range(0, len(new), BATCH):
            some = new[begin:begin + BATCH]
            batch = self.tokenizer(some, return_tensors='pt', padding=True, truncation=True,
                                   max_length=self.length).to(self.device)
            hidden = self.model(input_ids=batch['input_ids'],
                                attention_mask=batch['attention_mask']).last_hidden_state
            mask = batch['attention_mask'][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            self.known |= zip(some, torch.nn.functional.normalize(mean, dim=-1).cpu())
        return torch.stack([self.known[text] for text in texts])

    def __call__(self, inputs: list[str], outputs: list[str]) -> np.ndarray:
        """-> (inputs, outputs) bool: which pairs are similar"""
        return (self.embed(inputs) @ self.embed(outputs).T >= self.threshold).numpy()
