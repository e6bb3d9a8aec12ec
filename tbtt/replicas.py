"""R seeds of one model computed as one: every parameter has a leading axis R, and the model's forward pass
broadcasts over it."""
from collections.abc import Iterable

import torch
from torch.func import functional_call

from model import GPT, GPTConfig

EMBEDDING, HEAD = 'transformer.wte.weight', 'lm_head.weight'    # one tied weight


class Replicas:
    """The parameters of R models of one shape, float32, in one buffer `flat` of shape (R, parameters of one
    model).

    `named` gives views of it by name, (R, *shape). An optimizer step on the buffer is a step of all models.
    """

    def __init__(self, models: list[GPT], device: torch.device | str = 'cpu') -> None:
        self.template = models[0]
        self.names, parameters = zip(*self.template.named_parameters())
        self.shapes = [parameter.shape for parameter in parameters]
        self.flat = torch.stack([torch.cat([p.detach().flatten() for p in model.parameters()])
                                 for model in models])
        self.flat = self.flat.float().to(device)

    @classmethod
    def from_seeds(cls, model_args: dict, seeds: Iterable[int],
                   device: torch.device | str = 'cpu') -> 'Replicas':
        """Fresh models, each initialised from its own seed on the CPU: the same weights on every device."""
        models = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                models.append(GPT(GPTConfig(**model_args)))
        return cls(models, device)

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """A buffer shaped like `flat` -> {name: (R, *shape) view}"""
        pieces = flat.split([shape.numel() for shape in self.shapes], dim=1)
        return {name: piece.unflatten(1, shape)
                for name, piece, shape in zip(self.names, pieces, self.shapes)}

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """Tokens (R, T, B), or (T, B) for all replicas alike -> logits (R, V, T, B), dropout off."""
        self.template.eval()
        return functional_call(self.template, self.named(self.flat), (idx,))

    def state_dict(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """One replica's row of the buffer (parameters,) -> its weights under nanoGPT's names, the tied head
        included."""
        weights = {name: value[0].clone() for name, value in self.named(row[None]).items()}
        return weights | {HEAD: weights[EMBEDDING]}

    def load(self, r: int, weights: dict[str, torch.Tensor]) -> None:
        """Set the weights of replica r from a state dict."""
        self.flat[r] = torch.cat([weights[name].flatten() for name in self.names])
