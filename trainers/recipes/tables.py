"""Tables from the UCI repository, by way of scikit-learn: breast cancer (569 rows) and wine (178 rows)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine

from trainers.recipes.arrays import ArrayData, Floats, Labels, Split, mislabel, shorten, split

FEATURE_GROUPS = {"means": slice(0, 10), "errors": slice(10, 20), "worst": slice(20, 30)}  # of breast cancer
CHEMISTRY = slice(0, 9)  # of wine: without colour, hue, dilution and proline


class BreastCancer(ArrayData):
    """One of the variants listed in `trainers.recipes.BREAST_CANCER`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 32) -> None:
        super().__init__(breast_cancer(variant), batch_size=batch_size)


class Wine(ArrayData):
    """One of the variants listed in `trainers.recipes.WINE`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 16) -> None:
        super().__init__(wine(variant), batch_size=batch_size)


def breast_cancer(variant: str) -> Split:
    """Features of shape (n, 30), or (n, 10) for one group of them, standardised."""
    features, labels = load_breast_cancer(return_X_y=True)
    match variant:
        case "all":
            return _task(features, labels)
        case "means" | "errors" | "worst":
            return _task(features[:, FEATURE_GROUPS[variant]], labels)
        case "small":
            return shorten(_task(features, labels), 100)
        case "noisy-20":
            return mislabel(_task(features, labels), 0.2)
    raise ValueError(f"there is no variant {variant!r} of the breast cancer data")


def wine(variant: str) -> Split:
    """Features of shape (n, 13), or (n, 9) for the chemistry alone, standardised."""
    features, labels = load_wine(return_X_y=True)
    match variant:
        case "all":
            return _task(features, labels)
        case "first-or-not":
            return _task(features, (labels > 0).astype(np.int64))
        case "chemistry":
            return _task(features[:, CHEMISTRY], labels)
        case "noisy-20":
            return mislabel(_task(features, labels), 0.2)
    raise ValueError(f"there is no variant {variant!r} of the wine data")


def _task(features: Floats, labels: Labels) -> Split:
    return _standardise(split(features.astype(np.float32), labels.astype(np.int64)))


def _standardise(data: Split) -> Split:
    """Centre and scale by the training examples alone."""
    mean, std = data.train_inputs.mean(axis=0), data.train_inputs.std(axis=0)
    return replace(data, train_inputs=(data.train_inputs - mean) / std, val_inputs=(data.val_inputs - mean) / std)
