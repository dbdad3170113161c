"""Has this been worked out before? Answers by the content of arrays, so that they serve every problem and seed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def content(*arrays: NDArray[np.generic]) -> bytes:
    """A key that arrays of equal shape and content share."""
    digest = blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


class Remembered(Generic[T]):
    """The latest answers, at most `most`; a method that forgets them is slower and otherwise the same."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[bytes, T] = OrderedDict()

    def get(self, key: bytes, work_out: Callable[[], T]) -> T:
        """The answer kept under `key`, or a new one."""
        if key not in self._answers:
            self._answers[key] = work_out()
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)
        self._answers.move_to_end(key)
        return self._answers[key]
