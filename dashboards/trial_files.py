"""How do the trials of a study go into a file: as CSV for a spreadsheet, as JSON for a program?"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpo.answers.plain import jsonable
from hpo.api.wire import trial_of
from storage.history import TrialRecord

COLUMNS = (
    "number",
    "state",
    "value",
    "epochs",
    "cost_seconds",
    "attempt",
    "seed",
    "started_at",
    "finished_at",
    "error",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that begins so is worked out by spreadsheets


def as_csv(trials: Iterable[TrialRecord], *, parameters: Sequence[str], objectives: Sequence[str]) -> Iterator[str]:
    """Line by line; `params.NAME` for each hyperparameter, and each objective by its name where there are several."""
    further = list(objectives) if len(objectives) > 1 else []
    yield _line([*COLUMNS, *further, *(f"params.{name}" for name in parameters)])
    for trial in trials:
        fields = jsonable(vars(trial) | {"state": trial.state.name.lower()})
        values = [*trial.values, *[None] * (len(further) - len(trial.values))] if further else []
        yield _line([*(fields[name] for name in COLUMNS), *values, *(trial.params.get(name) for name in parameters)])


def as_json_list(trials: Iterable[TrialRecord]) -> Iterator[str]:
    """One document, a trial a line; each as the API tells it."""
    before = "[\n"
    for trial in trials:
        yield before + json.dumps(jsonable(_fields(trial)), ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _fields(trial: TrialRecord) -> Mapping[str, Any]:
    return trial_of(trial).model_dump(mode="json")


def _line(cells: Sequence[Any]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow([_harmless(cell) for cell in cells])
    return file.getvalue()


def _harmless(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and cell.startswith(FORMULA)
    return f"'{cell}" if is_formula else cell
