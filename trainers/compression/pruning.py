"""Which weights become zero? The smallest of all (magnitude), or whole output channels of small norm (structured).

The sparsity grows in steps, with training between them: what is left learns to do without the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import prune

from trainers.compression.layers import hidden_layers, weighted_layers
from trainers.compression.settings import Compression
from trainers.errors import CompressionError

CHANNELS = 0  # the axis of a weight that its output channels are on


def compress(model: nn.Module, settings: Compression, finetune: Callable[[nn.Module], None]) -> None:
    """Prune a model in place, step by step; `finetune` trains it after each.

    Raises CompressionError where there is nothing to prune.
    """
    for sparsity in schedule(settings.sparsity, settings.schedule_steps):
        if settings.prune == "structured":
            prune_channels(model, sparsity)
        else:
            prune_smallest(model, sparsity)
        finetune(model)
    make_permanent(model)


def schedule(target: float, steps: int) -> list[float]:
    r"""The sparsity after each step: much at first, while there is much to spare.

    $s_k = s (1 - (1 - k / n)^3)$. Zhu & Gupta, To Prune, or Not to Prune, 2017, eq. 1, from a dense model.
    """
    return [target * (1.0 - (1.0 - step / steps) ** 3) for step in range(1, steps + 1)]


def prune_smallest(model: nn.Module, sparsity: float) -> None:
    """Set to zero the smallest weights of all layers together, until that share of them is zero."""
    weights = [(layer, name) for _, layer, name in weighted_layers(model)]
    if not weights:
        raise CompressionError("nothing can be pruned: the model has neither a linear nor a convolutional layer")
    total = sum(getattr(layer, name).numel() for layer, name in weights)
    more = round(sparsity * total) - sum(_pruned(layer, name) for layer, name in weights)
    prune.global_unstructured(weights, prune.L1Unstructured, amount=max(0, more))


def prune_channels(model: nn.Module, sparsity: float) -> None:
    """Set to zero the output channels of smallest norm, that share of each layer, with their biases.

    The last layer keeps all of them: they are the answer.
    """
    layers = hidden_layers(model)
    if not layers:
        raise CompressionError(
            "no channel can be pruned: the model has no linear or convolutional layer before its last"
        )
    for layer in layers:
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        n_channels = weight.shape[CHANNELS]
        wanted = min(round(sparsity * n_channels), n_channels - 1)
        more = wanted - int((_channel_norms(weight) == 0).sum())
        prune.ln_structured(layer, "weight", amount=max(0, more), n=2, dim=CHANNELS)  # type: ignore[no-untyped-call]
        if getattr(layer, "bias", None) is not None:
            kept = (_channel_norms(layer.weight) != 0).to(weight.dtype)  # type: ignore[arg-type]
            prune.custom_from_mask(layer, "bias", kept)  # type: ignore[no-untyped-call]


def make_permanent(model: nn.Module) -> None:
    """Leave the zeros where they are, and the masks out."""
    for layer in model.modules():
        for name in ("weight", "bias", "shared"):
            if hasattr(layer, f"{name}_mask"):
                prune.remove(layer, name)  # type: ignore[no-untyped-call]


def sparsity_of(model: nn.Module) -> float:
    """The share of the weights that is zero."""
    weights = [getattr(layer, name) for _, layer, name in weighted_layers(model)]
    zeros, total = sum(int((weight == 0).sum()) for weight in weights), sum(int(weight.numel()) for weight in weights)
    return zeros / total


def _pruned(layer: nn.Module, name: str) -> int:
    mask = getattr(layer, f"{name}_mask", None)
    return 0 if mask is None else int((mask == 0).sum())


def _channel_norms(weight: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = weight.detach().flatten(1).norm(dim=1)
    return norms
