"""May a checkpoint be read, and is it this model's?"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import lightning
import torch

from trainers.job import UPLOADED_CHECKPOINT


class CheckpointError(Exception):
    """A checkpoint that a model cannot take over; the message says why, as in "because it is of another model"."""


def may_be_read_as_weights(checkpoint: Path, model: lightning.LightningModule) -> bool | None:
    """Whether a checkpoint can be read without unpickling objects; None where its format is the strategy's.

    Raises CheckpointError where it cannot be read, holds another model, or would have to be unpickled although it
    belongs to somebody else or another machine has sent it.
    """
    if checkpoint.is_dir():
        return None
    try:
        content, is_plain = _load(checkpoint, weights_only=True), True
    except pickle.UnpicklingError as error:  # hyperparameters that are objects, for example
        if checkpoint.name == UPLOADED_CHECKPOINT:
            raise CheckpointError(
                "it holds objects and was sent by another machine, whose code they could run; "
                "let `save_hyperparameters` keep plain values only"
            ) from error
        if checkpoint.stat().st_uid != os.geteuid():
            raise CheckpointError("it holds objects and belongs to another user, whose code they could run") from error
        content, is_plain = _load(checkpoint, weights_only=False), False
    if difference := _difference(content.get("state_dict", {}), model):
        raise CheckpointError(f"it is of another model: {difference}")
    return is_plain


def _load(checkpoint: Path, *, weights_only: bool) -> dict[str, Any]:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=weights_only, mmap=True)
    except pickle.UnpicklingError:
        if weights_only:
            raise
        raise CheckpointError("it cannot be read") from None
    except Exception as error:
        raise CheckpointError(f"it cannot be read ({type(error).__name__}: {error})".splitlines()[0]) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"it holds a {type(content).__name__}, no checkpoint of Lightning's")
    return content


def _difference(saved: dict[str, Any], model: lightning.LightningModule) -> str:
    """The first weight that differs by name or shape. A model that makes its weights later is not compared."""
    own = {name: weight.shape for name, weight in model.state_dict().items() if isinstance(weight, torch.Tensor)}
    if not own or not model.strict_loading:
        return ""
    for name in sorted(own.keys() | saved.keys()):
        if name not in saved:
            return f"it has no {name!r}"
        if name in own and isinstance(saved[name], torch.Tensor) and saved[name].shape != own[name]:
            return f"{name!r} has the shape {tuple(saved[name].shape)}, and the model's {tuple(own[name])}"
    return ""
