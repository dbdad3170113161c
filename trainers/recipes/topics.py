"""English prose about Python: the topics that its own `help()` shows, 370,000 characters, read character by character.

They come with every Python, in a text of its version's: figures compare between runs on one version.
"""

from __future__ import annotations

from collections.abc import Collection
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from trainers.recipes.arrays import SPLIT_SEED, ArrayData, Split, shorten, split

LENGTH = 48  # characters that the model sees at once
MOST_WINDOWS = 800  # of a variant, drawn from all of its text: about a second of training
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
UNKNOWN = CHARACTERS.index("?")
GROUPS: dict[str, tuple[str, ...]] = {
    "statements": ("compound", "assignment", "import", "raise", "global", "nonlocal", "assert", "return", "del"),
    "expressions": ("comparisons", "execmodel", "operator-summary", "calls", "identifiers", "binary", "subscriptions"),
    "classes": ("specialnames",),
    "types": ("types",),
    "strings": ("formatstrings", "string-methods", "strings"),
    "containers": ("typesseq", "typesmapping", "dict", "slicings", "lists"),
    "debugger": ("debugger",),
}


class Topics(ArrayData):
    """One of the variants listed in `trainers.recipes.TOPICS`."""

    def __init__(self, *, variant: str = "all", batch_size: int = 32, fold: int = 0, folds: int = 1) -> None:
        super().__init__(next_characters(variant, fold=fold, folds=folds), batch_size=batch_size)


def next_characters(variant: str, *, fold: int = 0, folds: int = 1) -> Split:
    """Windows of text as numbers of `CHARACTERS`, and the same a character further on; both of shape (n, LENGTH)."""
    match variant:
        case "all" | "small":
            windows = _windows(_prose(tuple(topics)))
        case group if group in GROUPS:
            windows = _windows(_prose(GROUPS[group]))
        case _:
            raise ValueError(f"there is no variant {variant!r} of the topics")
    data = split(windows[:, :-1], windows[:, 1:], n_outputs=len(CHARACTERS), fold=fold, folds=folds)
    return shorten(data, 200) if variant == "small" else data


def _prose(names: Collection[str]) -> str:
    """The topics' text, each paragraph once: some topics quote others, and none may be validated on after training."""
    paragraphs = (paragraph for name in names if name in topics for paragraph in topics[name].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def _windows(prose: str) -> NDArray[np.int64]:
    """Pieces that do not overlap, a random `MOST_WINDOWS` of them at most; shape (n, LENGTH + 1)."""
    number = {character: at for at, character in enumerate(CHARACTERS)}
    numbers = np.array([number.get(character, UNKNOWN) for character in prose], dtype=np.int64)
    n = len(numbers) // (LENGTH + 1)
    windows = numbers[: n * (LENGTH + 1)].reshape(n, LENGTH + 1)
    kept = np.random.default_rng(SPLIT_SEED).permutation(n)[:MOST_WINDOWS]
    return windows[np.sort(kept)]
