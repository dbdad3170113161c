"""What does a model's `forward` take, and what does it get of a batch?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
from torch import Tensor


def has_forward(model: lightning.LightningModule) -> bool:
    """Whether the model has a `forward` of its own; many train without one."""
    return type(model).forward is not lightning.LightningModule.forward


def inputs_of(batch: Any) -> Any:
    """The inputs in a batch: the first of a pair of inputs and labels, or all of it."""
    return batch[0] if isinstance(batch, tuple | list) else batch


def one_example(inputs: Any, *, n: int = 1) -> Any:
    """The first `n` examples of a batch's inputs, in the same form."""
    if isinstance(inputs, Tensor):
        return inputs[:n]
    if isinstance(inputs, Mapping):
        return {name: one_example(value, n=n) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(one_example(value, n=n) for value in inputs)
    return inputs
