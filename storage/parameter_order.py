"""How are the values of one parameter ordered? Numbers before texts, before all else, before nothing."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from storage.distributions import ParameterSet, unpack

Keys: TypeAlias = NDArray[np.float64]
"""(n, 2): which kind of value, and which value; infinity for the kind of those without."""


_TEXT = 1.0
_KINDS = (0.0, _TEXT, 2.0, 3.0)


class Ranks:
    """The order of a parameter's values, whichever of these sets a trial has."""

    def __init__(self, name: str, sets: Mapping[int, ParameterSet]) -> None:
        self._name = name
        self._sets = sets
        texts = {
            choice
            for parameter_set in sets.values()
            if isinstance(found := parameter_set.by_name.get(name), CategoricalDistribution)
            for choice in found.choices
            if isinstance(choice, str)
        }
        self._texts = sorted(texts)
        self._text_ranks = {text: float(rank) for rank, text in enumerate(self._texts)}

    def keys_of_stored(self, set_id: int, configurations: Sequence[bytes | None]) -> Keys:
        """As `keys_of`, for configurations as they are stored."""
        joined = unpack(b"".join(configuration or b"" for configuration in configurations))
        return self.keys_of(set_id, joined.reshape(len(configurations), len(self._sets[set_id])))

    def keys_of(self, set_id: int, internal: NDArray[np.float64]) -> Keys:
        """What configurations of one set are ordered by. internal: shape (n, d)."""
        parameter_set = self._sets[set_id]
        keys = np.empty((len(internal), 2))
        if self._name not in parameter_set.names:
            keys[:] = np.inf
            return keys
        column = parameter_set.names.index(self._name)
        values = internal[:, column]
        distribution = parameter_set.distributions[column]
        if isinstance(distribution, CategoricalDistribution):
            table = np.array([self._key_of(choice) for choice in distribution.choices])
            return table[values.astype(np.intp)]
        keys[:, 0], keys[:, 1] = 0, values
        return keys

    def _key_of(self, choice: Any) -> tuple[float, float]:
        if choice is None:
            return math.inf, math.inf
        if isinstance(choice, str):
            return _TEXT, self._text_ranks[choice]
        if isinstance(choice, bool):
            return 2.0, float(choice)
        return (0.0, float(choice)) if isinstance(choice, int | float) else (3.0, 0.0)

    def position_of(self, key: Sequence[float] | NDArray[np.float64]) -> str | None:
        """A key in words that mean the same when more texts have come."""
        kind, value = map(float, key)
        if math.isinf(kind):
            return None
        return f"{kind:.0f}:{self._texts[int(value)] if kind == _TEXT else repr(value)}"

    def key_of_position(self, position: str | None) -> tuple[float, float]:
        """The inverse of `position_of`; a text that is gone stands before the next one. Raises ValueError."""
        if position is None:
            return math.inf, math.inf
        kind, colon, text = position.partition(":")
        if not colon or float(kind) != _TEXT:
            return float(kind), float(text)
        known = self._text_ranks.get(text)
        return _TEXT, bisect_left(self._texts, text) - 0.5 if known is None else known


def is_position(text: str) -> bool:
    """Whether a text may come from `Ranks.position_of`."""
    kind, colon, value = text.partition(":")
    try:
        return bool(colon) and float(kind) in _KINDS and (float(kind) == _TEXT or not math.isnan(float(value)))
    except ValueError:
        return False


def after_key(keys: Keys, numbers: NDArray[np.int64], key: tuple[float, float], number: int) -> NDArray[np.bool_]:
    """Which come after a key and, where that is equal, after a number: shape (n,)."""
    same = (keys[:, 0] == key[0]) & (keys[:, 1] == key[1])
    beyond = (keys[:, 0] > key[0]) | ((keys[:, 0] == key[0]) & (keys[:, 1] > key[1]))
    found: NDArray[np.bool_] = beyond | (same & (numbers > number))
    return found
