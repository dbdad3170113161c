"""What an import may keep: its runs and tasks by the rules of privacy, before anything else is done with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.distributions import distribution_of
from storage.families import Space
from storage.importers.runs import PastRun, PastTask, RunColumns
from storage.privacy import Privacy
from storage.sources import Source

Hide = Callable[[Any], Any]


def hidden_source(privacy: Privacy, source: Source) -> Source:
    """The source without what its location and settings would tell."""
    location = privacy.path(str(privacy.text(source.location))) or "hidden"
    return replace(source, location=location, settings=privacy.document(source.settings))


def hidden_runs(privacy: Privacy, task: PastTask, runs: Sequence[PastRun]) -> tuple[PastTask, list[PastRun]]:
    """Runs of a task, and the task with the space that they lie in."""
    hidden = _actions(privacy, task.space)
    kept = [
        replace(
            run,
            params={
                name: value if (hide := hidden.get(name)) is None else hide(value)
                for name, value in run.params.items()
                if privacy.action("parameters", name) != "drop"
            },
            **_details(privacy, run),
        )
        for run in runs
    ]
    seen = {name: dict.fromkeys(run.params[name] for run in kept if name in run.params) for name in hidden}
    return _hidden_task(privacy, task, hidden, seen), kept


def hidden_columns(privacy: Privacy, task: PastTask, columns: RunColumns) -> tuple[PastTask, RunColumns]:
    """As `hidden_runs`, for columns."""
    hidden = _actions(privacy, task.space)
    internal, seen = columns.internal.copy(), {}
    for name, hide in hidden.items():
        if name in columns.names:
            column = columns.names.index(name)
            internal[:, column], choices = _as_choices(name, task.space[name], internal[:, column], hide)
            seen[name] = dict.fromkeys(choices)
    is_kept = [privacy.action("parameters", name) != "drop" for name in columns.names]
    return _hidden_task(privacy, task, hidden, seen), replace(
        columns,
        keys=[privacy.key_of_run(key) for key in columns.keys],
        names=tuple(name for name, kept in zip(columns.names, is_kept, strict=True) if kept),
        internal=internal[:, is_kept],
        user_attrs=_each(columns.user_attrs, privacy.attributes),
        errors=_each(columns.errors, privacy.text),
        code_versions=_each(columns.code_versions, privacy.text),
        hardware=_each(columns.hardware, privacy.text),
        checkpoints=_each(columns.checkpoints, privacy.path),
        labels=columns.labels or columns.keys,
    )


def _actions(privacy: Privacy, space: Space) -> dict[str, Hide]:
    """What becomes of the values of each parameter that is hidden but not dropped."""
    found = {name: privacy.hidden_choice(name) for name in space if privacy.action("parameters", name) != "drop"}
    return {name: hide for name, hide in found.items() if hide is not None}


def _details(privacy: Privacy, run: PastRun) -> dict[str, Any]:
    return {
        "key": privacy.key_of_run(run.key),
        "code_version": privacy.text(run.code_version),
        "hardware": privacy.text(run.hardware),
        "checkpoint": privacy.path(run.checkpoint),
        "error": privacy.text(run.error),
        "user_attrs": privacy.attributes(run.user_attrs),
        "label": run.label or run.key,  # for the report, which is not kept
    }


def _hidden_task(
    privacy: Privacy, task: PastTask, hidden: Mapping[str, Hide], seen: Mapping[str, Mapping[Any, Any]]
) -> PastTask:
    space = {
        name: _hidden_fields(privacy, fields, hidden, hidden.get(name), seen.get(name, ()))
        for name, fields in task.space.items()
        if privacy.action("parameters", name) != "drop"
    }
    empty = [name for name in hidden if not space[name]["choices"]]
    return replace(
        task,
        space={name: fields for name, fields in space.items() if name not in empty},
        provenance=privacy.document(task.provenance),
        user_attrs=privacy.attributes(task.user_attrs),
    )


def _hidden_fields(
    privacy: Privacy, fields: Mapping[str, Any], hidden: Mapping[str, Hide], hide: Hide | None, seen: Any
) -> dict[str, Any]:
    """A distribution whose values are hidden, which makes choices of a range, and whose conditions say the same."""
    kept = dict(fields)
    if hide is not None:
        values = map(hide, fields["choices"]) if fields["type"] == "categorical" else seen
        kept = {"type": "categorical", "choices": list(dict.fromkeys(values))}
    when = {
        parent: [hidden[parent](value) for value in values] if parent in hidden else list(values)
        for parent, values in (fields.get("when") or {}).items()
        if privacy.action("parameters", parent) != "drop"
    }
    return {name: value for name, value in kept.items() if name != "when"} | ({"when": when} if when else {})


def _as_choices(
    name: str, fields: Mapping[str, Any], column: NDArray[np.float64], hide: Hide
) -> tuple[NDArray[np.float64], list[Any]]:
    """A column of internal values as places among hidden choices, and those; NaN stays."""
    drawn_from = distribution_of(name, fields)
    active = ~np.isnan(column)
    values, places = np.unique(column[active], return_inverse=True)
    given = fields["choices"] if fields["type"] == "categorical" else map(drawn_from.to_external_repr, values.tolist())
    choices = list(dict.fromkeys(map(hide, given)))
    of_value = [choices.index(hide(drawn_from.to_external_repr(value))) for value in values.tolist()]
    found = column.copy()
    found[active] = np.asarray(of_value, dtype=float)[places.reshape(-1)]
    return found, choices


def _each(known: Mapping[int, Any] | None, hide: Hide) -> dict[int, Any] | None:
    return None if known is None else {row: hide(value) for row, value in known.items()}
