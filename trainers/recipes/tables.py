"""Tables that come with scikit-learn: breast cancer (569 rows) and wine (178 rows), from the UCI repository, and
diabetes (442 rows; Efron et al., Least Angle Regression, Annals of Statistics 2004)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from trainers.recipes.arrays import SPLIT_SEED, ArrayData, Split, mislabel, shorten, split, standardise

FEATURE_GROUPS = {"means": slice(0, 10), "errors": slice(10, 20), "worst": slice(20, 30)}  # of breast cancer
CHEMISTRY = slice(0, 9)  # of wine: without colour, hue, dilution and proline
PATIENT, BLOOD = slice(0, 4), slice(4, 10)  # of diabetes: age, sex, body mass and blood pressure; six measured in blood
GROSS_ERRORS = 0.2  # share of the targets of diabetes that are another patient's


class BreastCancer(ArrayData):
    """One of the variants listed in `trainers.recipes.BREAST_CANCER`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 32, fold: int = 0, folds: int = 1) -> None:
        super().__init__(breast_cancer(variant, fold=fold, folds=folds), batch_size=batch_size)


class Wine(ArrayData):
    """One of the variants listed in `trainers.recipes.WINE`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 16, fold: int = 0, folds: int = 1) -> None:
        super().__init__(wine(variant, fold=fold, folds=folds), batch_size=batch_size)


class Diabetes(ArrayData):
    """One of the variants listed in `trainers.recipes.DIABETES`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 32, fold: int = 0, folds: int = 1) -> None:
        super().__init__(diabetes(variant, fold=fold, folds=folds), batch_size=batch_size)


def breast_cancer(variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Features of shape (n, 30), or (n, 10) for one group of them, standardised."""
    features, labels = load_breast_cancer(return_X_y=True)
    task = partial(_classes, fold=fold, folds=folds)
    match variant:
        case "all":
            return task(features, labels)
        case "means" | "errors" | "worst":
            return task(features[:, FEATURE_GROUPS[variant]], labels)
        case "small":
            return shorten(task(features, labels), 100)
        case "noisy-20":
            return mislabel(task(features, labels), 0.2)
    raise ValueError(f"there is no variant {variant!r} of the breast cancer data")


def wine(variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Features of shape (n, 13), or (n, 9) for the chemistry alone, standardised."""
    features, labels = load_wine(return_X_y=True)
    task = partial(_classes, fold=fold, folds=folds)
    match variant:
        case "all":
            return task(features, labels)
        case "first-or-not":
            return task(features, (labels > 0).astype(np.int64))
        case "chemistry":
            return task(features[:, CHEMISTRY], labels)
        case "noisy-20":
            return mislabel(task(features, labels), 0.2)
    raise ValueError(f"there is no variant {variant!r} of the wine data")


def diabetes(variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Features of shape (n, 10), or fewer for a group of them, and the disease's progression; all standardised."""
    features, progression = load_diabetes(return_X_y=True, scaled=False)  # scaled, the validation set takes part in it
    task = partial(_numbers, fold=fold, folds=folds)
    match variant:
        case "all":
            return task(features, progression)
        case "patient":
            return task(features[:, PATIENT], progression)
        case "blood":
            return task(features[:, BLOOD], progression)
        case "small":
            return shorten(task(features, progression), 100)
        case "mixed-up-20":
            return _mix_up(task(features, progression), GROSS_ERRORS)
    raise ValueError(f"there is no variant {variant!r} of the diabetes data")


def _classes(features: NDArray[Any], labels: NDArray[Any], *, fold: int, folds: int) -> Split:
    return standardise(split(features.astype(np.float32), labels.astype(np.int64), fold=fold, folds=folds))


def _numbers(features: NDArray[Any], numbers: NDArray[Any], *, fold: int, folds: int) -> Split:
    data = split(features.astype(np.float32), numbers.astype(np.float32), n_outputs=1, fold=fold, folds=folds)
    mean, std = data.train_targets.mean(), data.train_targets.std()
    scaled = replace(data, train_targets=(data.train_targets - mean) / std, val_targets=(data.val_targets - mean) / std)
    return standardise(scaled)


def _mix_up(data: Split, share: float) -> Split:
    """Give a share of the training examples each other's targets."""
    rng = np.random.default_rng(SPLIT_SEED)
    mixed = np.flatnonzero(rng.random(len(data.train_targets)) < share)
    targets = data.train_targets.copy()
    targets[mixed] = targets[rng.permutation(mixed)]
    return replace(data, train_targets=targets)
