"""What follows from the space of an imported study, and how it grows where new runs lie outside of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from storage.distributions import ParameterSet, distribution_of
from storage.families import Space, family_of

SPACES_KEPT = 1_000


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownSpace:
    """A space with what follows from it. Thousands of tasks may share one: it is worked out once for all of them."""

    space: Space
    set_ids: dict[tuple[str, ...], int | None] = field(default_factory=dict)  # what the database calls its subsets
    distribution_ids: dict[str, int] = field(default_factory=dict)  # by parameter
    _subsets: dict[tuple[str, ...], ParameterSet] = field(default_factory=dict)
    _families: dict[tuple[str, str], str | None] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """The space as JSON, as the database keeps it."""
        return json.dumps(self.space)

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """What each parameter is drawn from."""
        return {name: distribution_of(name, fields) for name, fields in self.space.items()}

    def subset(self, names: tuple[str, ...]) -> ParameterSet:
        """Some of the parameters as a set; the same object each time."""
        if names not in self._subsets:
            drawn_from = tuple(self.distributions[name] for name in names)
            self._subsets[names] = ParameterSet(names=names, distributions=drawn_from)
        return self._subsets[names]

    def family(self, metric: str, direction: str) -> str | None:
        """The name of the family of a task with that metric and direction; None where there is no parameter."""
        if (metric, direction) not in self._families:
            name = family_of(self.space, metric, [direction]) if self.space else None
            self._families[metric, direction] = name
        return self._families[metric, direction]


class KnownSpaces:
    """The spaces of which something was asked lately, recognised as the objects that they are."""

    def __init__(self) -> None:
        self._known: dict[int, KnownSpace] = {}  # by identity, which is sure while the space is kept in the value

    def of(self, space: Space) -> KnownSpace:
        """What follows from a space."""
        known = self._known.get(id(space))
        if known is None:
            if len(self._known) >= SPACES_KEPT:
                self._known.clear()
            known = self._known[id(space)] = KnownSpace(space=space)
        return known


def merged(known: Space, new: Space) -> dict[str, dict[str, Any]]:
    """The least space that holds both; choices keep their places. Raises ValueError where a type has changed."""
    names = [*known, *(name for name in new if name not in known)]
    return {name: _merged(name, known.get(name), new.get(name)) for name in names}


def _merged(name: str, known: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    if known is None or new is None:
        return dict(known or new or {})
    kinds = {known["type"], new["type"]}
    if kinds == {"categorical"}:
        choices = list(known["choices"])
        choices += [choice for choice in new["choices"] if not _has(choices, choice)]
        fields: dict[str, Any] = {"type": "categorical", "choices": choices}
    elif "categorical" in kinds:
        raise ValueError(f"another type: {name} was {known['type']} in earlier imports and is {new['type']} now")
    else:
        fields = _merged_range(known, new)
    when = _merged_condition(known.get("when"), new.get("when"))
    return fields | ({"when": when} if when else {})


def _merged_range(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    kind = "int" if known["type"] == new["type"] == "int" else "float"
    low, high = min(known["low"], new["low"]), max(known["high"], new["high"])
    fields: dict[str, Any] = {"type": kind, "low": low, "high": high}
    if (known.get("log") or new.get("log")) and low > 0:  # a narrow range could not tell
        return fields | {"log": True}
    if known.get("step") == new.get("step") and known.get("step") is not None and known["low"] == low:
        fields["step"] = known["step"]
    return fields


def _merged_condition(known: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Active where either is; always active where only one depends on anything, or on another parent."""
    if not known or not new or set(known) != set(new):
        return None
    return {
        parent: [*known[parent], *(value for value in new[parent] if value not in known[parent])] for parent in known
    }


def _has(choices: list[Any], wanted: Any) -> bool:
    return any(choice == wanted and type(choice) is type(wanted) for choice in choices)
