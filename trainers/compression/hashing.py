r"""How do few parameters make a large layer? Its weights share them, by a hash of their place.

$V_{ij} = \xi(i, j) \, w_{h(i, j)}$, h a hash into the K parameters and $\xi$ a sign that takes away the bias of what
meets by chance. Nothing but w is learned and stored. (Chen et al., Compressing Neural Networks with the Hashing Trick,
ICML 2015, eq. 3 and 7.)
"""

from __future__ import annotations

import functools
import math

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from trainers.errors import CompressionError


class HashedLinear(nn.Module):
    """A linear layer whose `n_inputs` x `n_outputs` weights share `n_shared` parameters."""

    index: Tensor
    sign: Tensor

    def __init__(self, n_inputs: int, n_outputs: int, n_shared: int, *, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= n_shared <= n_inputs * n_outputs:
            raise CompressionError(f"{n_shared} parameters cannot be shared by {n_inputs * n_outputs} weights")
        self.in_features, self.out_features = n_inputs, n_outputs
        self.shared = nn.Parameter(torch.empty(n_shared))
        self.bias = nn.Parameter(torch.empty(n_outputs)) if bias else None
        hashed = _hashed(n_inputs * n_outputs, seed).reshape(n_outputs, n_inputs)
        buckets = (hashed >> np.uint64(1)) % np.uint64(n_shared)
        signs = np.where(hashed & np.uint64(1), 1.0, -1.0)  # a bit that the bucket does not depend on
        self.register_buffer("index", torch.from_numpy(buckets.astype(np.int64)), persistent=False)
        self.register_buffer("sign", torch.from_numpy(signs.astype(np.float32)), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `torch.nn.Linear` does: the weights have the same distribution."""
        bound = 1.0 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @property
    def weight(self) -> Tensor:
        """The weights that the parameters stand for, shape (out_features, in_features)."""
        return self.shared[self.index] * self.sign

    def forward(self, inputs: Tensor) -> Tensor:
        """As a linear layer."""
        return linear(inputs, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, shared={self.shared.numel()}"


def hash_layers(model: nn.Module, ratio: float) -> None:
    """Replace every plain linear layer by one with `ratio` parameters per weight, which are new: train it after that.

    Raises CompressionError where there is none.
    """
    places = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear  # a subclass has a meaning of its own
    ]
    if not places:
        raise CompressionError(
            "compress.hash_ratio: the model has no linear layer whose weights could share parameters"
        )
    for seed, (parent, name, layer) in enumerate(places):
        n_shared = max(1, round(ratio * layer.weight.numel()))
        hashed = HashedLinear(layer.in_features, layer.out_features, n_shared, bias=layer.bias is not None, seed=seed)
        setattr(parent, name, hashed.to(layer.weight.device, layer.weight.dtype))


def share_weights(model: lightning.LightningModule, ratio: float) -> None:
    """Hash the linear layers that are there, and those that the model makes later, in `configure_model`."""
    if any(type(layer) is nn.Linear for layer in model.modules()):
        hash_layers(model, ratio)
        return
    configure = model.configure_model

    @functools.wraps(configure)
    def configure_model() -> None:
        configure()
        if not any(isinstance(layer, HashedLinear) for layer in model.modules()):  # Lightning may call it again
            hash_layers(model, ratio)

    model.configure_model = configure_model  # type: ignore[method-assign]


def _hashed(count: int, seed: int) -> NDArray[np.uint64]:
    """A hash of 0 ... count - 1, the same on every machine: SplitMix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = (np.arange(count, dtype=np.uint64) + np.uint64(seed) * np.uint64(2**32) + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
