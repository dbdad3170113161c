"""How the space of an imported study grows where new runs lie outside of it."""

from collections.abc import Mapping
from typing import Any

from storage.families import Space


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
