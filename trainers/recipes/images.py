"""How are images augmented while a network trains on them?"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainers.recipes.arrays import ArrayData, Split

Batch: TypeAlias = tuple[Tensor, Tensor]  # images and targets


class ImageData(ArrayData):
    """Serves images that are moved at random by up to `shift` pixels, anew in each epoch; in training only."""

    def __init__(self, data: Split, *, batch_size: int, shift: int) -> None:
        super().__init__(data, batch_size=batch_size)
        self.shift = shift

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Lightning calls this where the network is, a GPU maybe."""
        images, targets = batch
        if self.shift and self.trainer and self.trainer.training:
            images = shift_at_random(images, self.shift)
        return images, targets


def shift_at_random(images: Tensor, most: int) -> Tensor:
    """Each image moved by up to `most` pixels to any side; what comes in is 0.

    images: shape (n, channels, height, width). Returns the same shape.
    """
    n, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * most + 1, (2, n, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    which = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return pad(images, (most, most, most, most))[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
