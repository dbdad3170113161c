"""Which layers of a model have the weights that are worth compressing?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from trainers.compression.hashing import HashedLinear


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, layer and the name of its weights: linear, convolutional and hashed layers, in the model's order.

    Layers whose weights are computed from others (weight norm and the like) are left alone; a layer that the model
    uses twice comes once.
    """
    for name, layer in model.named_modules():
        if is_parametrized(layer):
            continue
        if isinstance(layer, HashedLinear):
            yield name, layer, "shared"
        elif isinstance(layer, nn.Linear | _ConvNd):
            yield name, layer, "weight"


def hidden_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose output channels may go: all with a weight per channel but the last, which gives the answer."""
    layers = [
        layer
        for _, layer, weight in weighted_layers(model)
        if weight == "weight" and not isinstance(layer, _ConvTransposeNd)  # its channels are another axis
    ]
    return layers[:-1]
