"""Where in a folder of the user's are the files of MNIST? Asked before a study starts, and without torch."""

from __future__ import annotations

from pathlib import Path

from trainers.errors import DataFileError

IMAGES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")  # each may end in .gz
LABELS = ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte")
FOLDERS = (".", "raw")  # torchvision's is `raw`


def find_files(folder: Path) -> tuple[Path, Path]:
    """The files of the training images and of their labels. Raises DataFileError."""
    return _find(folder, IMAGES), _find(folder, LABELS)


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    if not folder.is_dir():
        raise DataFileError(f"there is no folder {folder.absolute()}; `folder` is where your MNIST files are")
    places = [folder / place / f"{name}{ending}" for place in FOLDERS for name in names for ending in ("", ".gz")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataFileError(f"{folder.absolute()} has no file {names[0]} or {names[0]}.gz, nor has its folder `raw`")
    return found
