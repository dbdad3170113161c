"""MNIST, or what has its form (Fashion-MNIST, KMNIST): a folder of idx files that the user has.

The form: http://yann.lecun.com/exdb/mnist/. A file begins with its magic number (two zero bytes, 8 for unsigned bytes,
the number of axes) and the length of each axis, as big-endian 32-bit numbers; the numbers themselves follow. Only the
training files are read: who tunes on the test set has none.
"""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.errors import DataFileError
from trainers.recipes.arrays import Split, mislabel, shorten, split
from trainers.recipes.images import Batch, ImageData
from trainers.recipes.mnist_files import find_files

VALIDATION_SHARE = 1 / 6  # 10,000 of 60,000
SMALL = 3000  # images
UNSIGNED_BYTE = 8
BRIGHTEST = 255


class MNIST(ImageData):
    """One of the variants listed in `trainers.recipes.MNIST`, from the files in `folder`."""

    def __init__(
        self,
        *,
        folder: str,
        variant: str = "all",
        batch_size: int = 128,
        shift: int = 0,
        fold: int = 0,
        folds: int = 1,
    ) -> None:
        data = mnist(Path(folder).expanduser(), variant, fold=fold, folds=folds)
        super().__init__(data, batch_size=batch_size, shift=shift)

    @classmethod
    def check_files(cls, *, folder: str, **_others: Any) -> None:
        """Whether the files are there, before a study starts. Raises DataFileError."""
        find_files(Path(folder).expanduser())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Images are kept as bytes, a quarter of their size as numbers in [0, 1]."""
        images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
        return images.float() / BRIGHTEST, labels


def mnist(folder: Path, variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Images of shape (n, 1, height, width) as bytes. Raises DataFileError."""
    images, labels = _load(folder)
    divide = partial(split, share=VALIDATION_SHARE, fold=fold, folds=folds)
    match variant:
        case "all":
            return divide(images, labels)
        case "odd-even":
            return divide(images, labels % 2)
        case "low-high":
            return divide(images, (labels >= 5).astype(np.int64))
        case "small":
            return shorten(divide(images, labels), SMALL)
        case "noisy-20":
            return mislabel(divide(images, labels), 0.2)
    raise ValueError(f"there is no variant {variant!r} of MNIST")


def _load(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images_file, labels_file = find_files(folder)
    images, labels = read_idx(images_file, axes=3), read_idx(labels_file, axes=1)
    if len(images) != len(labels):
        raise DataFileError(
            f"{images_file} has {len(images):,} images and {labels_file} {len(labels):,} labels: not of one set"
        )
    if len(images) < 2:
        raise DataFileError(f"{images_file} has {len(images)} images: too few to train and to validate")
    return images[:, None], labels.astype(np.int64)


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes that an idx file holds, compressed or not. Raises DataFileError."""
    content = _content(path)
    expected = bytes((0, 0, UNSIGNED_BYTE, axes))
    if content[:4] != expected:
        raise DataFileError(
            f"{path} begins with the magic number 0x{content[:4].hex()}, and not with 0x{expected.hex()}: "
            f"it is no idx file of unsigned bytes with {axes} axes"
        )
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    n_bytes = len(content) - start
    if math.prod(shape) != n_bytes:
        sizes = " x ".join(map(str, shape))
        raise DataFileError(f"{path} should hold {sizes} bytes and holds {max(0, n_bytes):,}: it is cut, or damaged")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataFileError(f"{path} is no whole gzip file: {error}") from error
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}") from error
