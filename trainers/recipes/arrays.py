"""How the data of a recipe is split, altered and served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]

SPLIT_SEED = 0  # of the data: the same split whatever the seed of the training
VALIDATION_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Split:
    """A classification task. The first axis is that of the examples; labels count from 0."""

    train_inputs: Floats
    train_labels: Labels
    val_inputs: Floats
    val_labels: Labels

    @property
    def n_classes(self) -> int:
        """How many labels there are."""
        return int(max(self.train_labels.max(), self.val_labels.max())) + 1


def split(inputs: Floats, labels: Labels) -> Split:
    """Set a random share of the examples aside for validation."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    n_val = round(VALIDATION_SHARE * len(labels))
    val, train = order[:n_val], order[n_val:]
    return Split(train_inputs=inputs[train], train_labels=labels[train], val_inputs=inputs[val], val_labels=labels[val])


def shorten(data: Split, n: int) -> Split:
    """Keep only the first `n` training examples."""
    return replace(data, train_inputs=data.train_inputs[:n], train_labels=data.train_labels[:n])


def mislabel(data: Split, share: float) -> Split:
    """Give a share of the training examples a wrong label."""
    rng = np.random.default_rng(SPLIT_SEED)
    is_wrong = rng.random(len(data.train_labels)) < share
    shift = rng.integers(1, data.n_classes, size=len(data.train_labels))
    wrong = (data.train_labels + shift) % data.n_classes
    return replace(data, train_labels=np.where(is_wrong, wrong, data.train_labels))


class ArrayData(lightning.LightningDataModule):
    """Serves a split from memory, batches picked by index. Networks read `input_shape` and `n_classes`."""

    def __init__(self, data: Split, *, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.input_shape: tuple[int, ...] = data.train_inputs.shape[1:]
        self.n_classes = data.n_classes
        self._train = _dataset(data.train_inputs, data.train_labels)
        self._val = _dataset(data.val_inputs, data.val_labels)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Batches in a new random order each epoch."""
        return _loader(self._train, BatchSampler(RandomSampler(self._train), self.batch_size, drop_last=False))

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """All of it in one batch."""
        return _loader(self._val, BatchSampler(SequentialSampler(self._val), len(self._val), drop_last=False))


def _dataset(inputs: Floats, labels: Labels) -> TensorDataset:
    return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))


def _loader(dataset: TensorDataset, batches: BatchSampler) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(dataset, sampler=batches, batch_size=None)  # the sampler's items are whole batches
