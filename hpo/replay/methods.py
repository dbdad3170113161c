"""Which tuning methods can be replayed?

`hpo replay --methods` takes these names, and `module:Attribute` for a class of the user's own that is a
`hpo.replay.problem.Method`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np

from hpo.arrays import Array
from hpo.errors import SettingsError
from hpo.replay.optuna_methods import OptunaMethod, cma, gp_sampler, tpe
from hpo.replay.ours import Tuner
from hpo.replay.portfolio import Portfolio, PortfolioFirst
from hpo.replay.problem import Choice, Chooser, Method, Problem
from hpo.tuning.past import FIRST_POINTS
from storage.errors import did_you_mean


class Random:
    """The rows in random order."""

    name = "random"

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """An order for this seed."""
        rng = np.random.default_rng([seed, crc32(problem.name.encode())])
        return InOrder(rng.permutation(len(problem.points)).tolist())


class InOrder:
    """The rows as they are listed."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The first that was not tried."""
        tried = set(rows)
        return Choice(row=next(row for row in self._order if row not in tried))


@cache
def _portfolio() -> Portfolio:
    """One for all methods that use it: what it has learned of past tasks is kept with it."""
    return Portfolio()


def _tpe() -> Method:
    return OptunaMethod("tpe", tpe)


METHODS: dict[str, Callable[[], Method]] = {
    "history": lambda: Tuner("history", starts_from_history=True, remembers=True),
    "gp": lambda: Tuner("gp", starts_from_history=False, remembers=False),
    "gp+portfolio": lambda: Tuner("gp+portfolio", starts_from_history=True, remembers=False),
    "random": Random,
    "portfolio": _portfolio,
    "tpe": _tpe,
    "tpe+portfolio": lambda: PortfolioFirst("tpe+portfolio", _portfolio(), _tpe(), FIRST_POINTS),
    "gpsampler": lambda: OptunaMethod("gpsampler", gp_sampler),
    "cma": lambda: OptunaMethod("cma", cma),
}


def load_method(name: str) -> Method:
    """A method by its name, or a class or object of the user's by `module:Attribute`. Raises SettingsError."""
    if ":" in name:
        return _of_the_user(name)
    known = METHODS
    if name not in known:
        raise SettingsError(
            f"there is no method {name!r}; there are {', '.join(known)}, and module:Attribute for one of yours."
            f"{did_you_mean(name, known)}"
        )
    return known[name]()


def _of_the_user(name: str) -> Method:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise SettingsError(f"method {name!r}: {module_name} cannot be imported: {error}") from error
    except AttributeError:
        raise SettingsError(f"method {name!r}: {module_name} has no {attribute}") from None
    method = found() if isinstance(found, type) else found
    if not callable(getattr(method, "begin", None)):
        raise SettingsError(
            f"method {name!r} has no begin(problem, seed); hpo.replay.problem.Method says what it takes"
        )
    return method  # type: ignore[no-any-return]
