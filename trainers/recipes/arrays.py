"""How the data of a recipe is split, altered and served."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]

SPLIT_SEED = 0  # of the data: the same split whatever the seed of the training
VALIDATION_SHARE = 0.3
LARGEST_VAL_BATCH = 2000  # examples that are validated on at once


@dataclass(frozen=True, kw_only=True)
class Split:
    """A task. The first axis is that of the examples; classes count from 0."""

    train_inputs: NDArray[Any]
    train_targets: NDArray[Any]
    val_inputs: NDArray[Any]
    val_targets: NDArray[Any]
    n_outputs: int  # of a network: the classes, or 1 where a number is predicted


def split(
    inputs: NDArray[Any],
    targets: NDArray[Any],
    *,
    n_outputs: int | None = None,
    share: float = VALIDATION_SHARE,
    fold: int = 0,
    folds: int = 1,
) -> Split:
    """Set a random share of the examples aside for validation; with several folds, the `fold`-th of as many parts.

    n_outputs: by default the targets are classes, and all of them are there. fold: counted from 0.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(targets))
    val = _held_out(order, share=share, fold=fold, folds=folds)
    train = order[~np.isin(order, val)]
    return Split(
        train_inputs=inputs[train],
        train_targets=targets[train],
        val_inputs=inputs[val],
        val_targets=targets[val],
        n_outputs=int(targets.max()) + 1 if n_outputs is None else n_outputs,
    )


def _held_out(order: NDArray[np.int64], *, share: float, fold: int, folds: int) -> NDArray[np.int64]:
    if not 1 <= folds <= len(order):
        raise ValueError(f"folds = {folds} is not between 1 and {len(order)}, the number of examples")
    if not 0 <= fold < folds:
        raise ValueError(f"fold = {fold} is not between 0 and {folds - 1}")
    return order[: round(share * len(order))] if folds == 1 else np.array_split(order, folds)[fold]


def shorten(data: Split, n: int) -> Split:
    """Keep only the first `n` training examples."""
    return replace(data, train_inputs=data.train_inputs[:n], train_targets=data.train_targets[:n])


def mislabel(data: Split, share: float) -> Split:
    """Give a share of the training examples a wrong class."""
    rng = np.random.default_rng(SPLIT_SEED)
    is_wrong = rng.random(len(data.train_targets)) < share
    shift = rng.integers(1, data.n_outputs, size=len(data.train_targets))
    wrong = (data.train_targets + shift) % data.n_outputs
    return replace(data, train_targets=np.where(is_wrong, wrong, data.train_targets))


def standardise(data: Split) -> Split:
    """Centre and scale each feature by the training examples alone."""
    mean, std = data.train_inputs.mean(axis=0), data.train_inputs.std(axis=0)
    return replace(data, train_inputs=(data.train_inputs - mean) / std, val_inputs=(data.val_inputs - mean) / std)


class ArrayData(lightning.LightningDataModule):
    """Serves a split from memory, batches picked by index. Networks read `input_shape` and `n_outputs`."""

    def __init__(self, data: Split, *, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.input_shape: tuple[int, ...] = data.train_inputs.shape[1:]
        self.n_outputs = data.n_outputs
        self._train = _dataset(data.train_inputs, data.train_targets)
        self._val = _dataset(data.val_inputs, data.val_targets)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Batches in a new random order each epoch."""
        return _loader(self._train, BatchSampler(RandomSampler(self._train), self.batch_size, drop_last=False))

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """As few batches as there may be, as many for each rank, so that no example counts twice."""
        ranks = self.trainer.world_size if self.trainer else 1
        n_batches = ranks * math.ceil(len(self._val) / (ranks * LARGEST_VAL_BATCH))
        return _loader(self._val, np.array_split(np.arange(len(self._val)), n_batches))


def _dataset(inputs: NDArray[Any], targets: NDArray[Any]) -> TensorDataset:
    return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))


def _loader(dataset: TensorDataset, batches: Iterable[Any]) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(dataset, sampler=batches, batch_size=None)  # the sampler's items are whole batches
