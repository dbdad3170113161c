"""Handwritten digits: 1,797 images of 8x8 pixels, from the UCI repository by way of scikit-learn."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from trainers.recipes.arrays import Floats, Labels, Split, mislabel, shorten, split
from trainers.recipes.images import ImageData

BRIGHTEST = 16.0
EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
STRAIGHT = (1, 4, 7)  # drawn without a curve
GRAIN = 0.4  # standard deviation of the noise, in units of the brightest pixel
BLUR = 1.0  # standard deviation in pixels
GRAIN_SEED = 1


class Digits(ImageData):
    """One of the variants listed in `trainers.recipes.DIGITS`."""

    def __init__(
        self, *, variant: str = "all", batch_size: int = 64, shift: int = 0, fold: int = 0, folds: int = 1
    ) -> None:
        super().__init__(digits(variant, fold=fold, folds=folds), batch_size=batch_size, shift=shift)


def digits(variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Images of shape (n, 1, 8, 8) in [0, 1], apart from grain."""
    images, labels = _load()
    divide = partial(split, fold=fold, folds=folds)
    match variant:
        case "all":
            return divide(images, labels)
        case "odd-even":
            return divide(images, labels % 2)
        case "low-high":
            return divide(images, (labels >= 5).astype(np.int64))
        case "curved-straight":
            return divide(images, np.isin(labels, STRAIGHT).astype(np.int64))
        case "even":
            return divide(*_only(EVEN, images, labels))
        case "odd":
            return divide(*_only(ODD, images, labels))
        case "small":
            return shorten(divide(images, labels), 300)
        case "noisy-20":
            return mislabel(divide(images, labels), 0.2)
        case "blurred":
            return divide(gaussian_filter(images, sigma=BLUR, axes=(2, 3)), labels)
        case "grainy":
            grain = np.random.default_rng(GRAIN_SEED).normal(scale=GRAIN, size=images.shape)
            return divide((images + grain).astype(np.float32), labels)
    raise ValueError(f"there is no variant {variant!r} of the digits")


def _load() -> tuple[Floats, Labels]:
    flat, labels = load_digits(return_X_y=True)
    return (flat.reshape(-1, 1, 8, 8) / BRIGHTEST).astype(np.float32), labels.astype(np.int64)


def _only(kept: Collection[int], images: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """The images of some digits, labelled by their place among them."""
    is_kept = np.isin(labels, list(kept))
    return images[is_kept], np.searchsorted(sorted(kept), labels[is_kept]).astype(np.int64)
