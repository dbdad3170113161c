"""Which rows of `trials.parquet` are runs, and what each of them says."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from optuna.trial import TrialState

from storage.importers.recorded.configs import Configurations, rescaled
from storage.importers.recorded.space import LONGEST_NAME
from storage.importers.recorded.tasks import CODE, ROW, UNKNOWN, stretches
from storage.importers.runs import Curve, RunColumns
from storage.importers.tables.parquet import doubles, seconds, texts, whole_numbers

REQUIRED = ("task", "config", "value")
TEXTS = ("error", "code_version", "data_fingerprint", "hardware", "checkpoint")
NUMBERS = ("started_at", "finished_at", "cost_seconds", "epochs")
OPTIONAL = ("study", "seed", "key", "state", "attributes", *NUMBERS, *TEXTS)
STATES = {state.name: state.value for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}

Reject = Callable[[str, str], None]
"""Is told which row cannot be used, and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows that are runs, each study's together, otherwise in the order of the file. All arrays have the shape (n,)."""

    file: str
    lines: NDArray[np.int64]  # which row of the file it is, from 1
    codes: NDArray[np.int64]  # of the study
    configs: NDArray[np.int64]  # the number of the configuration
    positions: NDArray[np.int64]  # where it is among the configurations
    seeds: NDArray[np.int64]
    has_seed: NDArray[np.bool_]
    keys: list[str]
    values: NDArray[np.float64]  # NaN where it failed
    states: NDArray[np.int64]  # of optuna.trial.TrialState
    numbers: Mapping[str, NDArray[np.float64]]  # of NUMBERS
    texts: Mapping[str, Mapping[int, str]]  # of TEXTS, by row
    attributes: Mapping[int, Mapping[str, Any]]  # by row

    def groups(self) -> Iterator[tuple[int, slice]]:
        """Each study's number and rows."""
        return stretches(self.codes)

    def runs(
        self, rows: slice, names: tuple[str, ...], internal: NDArray[np.float64], curves: Mapping[int, Curve]
    ) -> RunColumns:
        """The runs in these rows; internal: the configurations of all of them, shape (n, d)."""
        has_seed = self.has_seed[rows]
        seeds = zip(self.seeds[rows].tolist(), has_seed.tolist(), strict=True)
        some = {name: column[rows] for name, column in self.numbers.items()}
        notes = {name: _part(found, rows) for name, found in self.texts.items()}
        return RunColumns(
            keys=self.keys[rows],
            names=names,
            internal=internal[rows],
            values=self.values[rows],
            states=self.states[rows],
            started_at=some.get("started_at"),
            finished_at=some.get("finished_at"),
            cost_seconds=some.get("cost_seconds"),
            epochs=some.get("epochs"),
            seeds=[seed if is_known else None for seed, is_known in seeds] if has_seed.any() else None,
            curves=_part(curves, rows),
            user_attrs=_part(self.attributes, rows),
            errors=notes.get("error"),
            code_versions=notes.get("code_version"),
            data_fingerprints=notes.get("data_fingerprint"),
            hardware=notes.get("hardware"),
            checkpoints=notes.get("checkpoint"),
            labels=[f"{self.file} row {line}" for line in self.lines[rows].tolist()],
        )


def read_rows(path: Path, table: pa.Table, configurations: Configurations, factor: float, reject: Reject) -> Rows:
    """The rows of a table from `grouped_batches` that are runs; `reject` is told of the others.

    factor: what the values are multiplied with. Raises ImportFailedError where a column has the wrong type.
    """
    columns = _Columns(path, table)
    codes, lines = table[CODE].to_numpy(), table[ROW].to_numpy()
    configs, has_config = columns.whole("config")
    positions = configurations.positions(configs)
    values = columns.doubles("value")
    seeds, has_seed = columns.whole("seed")
    state_names = columns.texts("state")
    given_keys = columns.texts("key")
    attributes, odd_attributes = _attributes(columns.texts("attributes"))
    is_failed = np.isnan(values)
    states = np.where(is_failed, TrialState.FAIL.value, TrialState.COMPLETE.value)
    for row, name in state_names.items():
        states[row] = STATES.get(name, UNKNOWN)
    keys = [
        f"{config}/{seed}" if is_known else str(config)
        for config, seed, is_known in zip(configs.tolist(), seeds.tolist(), has_seed.tolist(), strict=True)
    ]
    for row, key in given_keys.items():
        keys[row] = key

    is_bad = np.full(len(codes), False)

    def complain(rows: NDArray[np.bool_] | list[int], reason: Callable[[int], str]) -> None:
        found = np.flatnonzero(rows) if isinstance(rows, np.ndarray) else np.array(rows, np.int64)
        for row in found[~is_bad[found]].tolist():
            reject(f"{path.name} row {lines[row]}", reason(row))
        is_bad[found] = True

    tasks, seed_column = table["task"], columns.shown("seed")
    complain(codes == UNKNOWN, lambda row: f"no name of a task: {tasks[row].as_py()!r:.80}")
    complain(~has_config, lambda row: "no number of a configuration")
    complain(positions == UNKNOWN, lambda row: f"unknown configuration: {configs[row]} is not in configs.parquet")
    odd = np.isin(positions, list(configurations.problems))
    complain(odd, lambda row: f"{configurations.problems[int(positions[row])]} (configuration {configs[row]})")
    unstated = np.full(len(codes), True)
    unstated[list(state_names)] = False
    complain(np.isinf(values) & unstated, lambda row: f"not finite: the value is {values[row]}")
    complain(columns.is_there("seed") & ~has_seed, lambda row: f"no whole number: the seed is {seed_column(row)}")
    complain(states == UNKNOWN, lambda row: f"unknown state: {state_names[row]!r:.80} is none of {', '.join(STATES)}")
    is_complete = states == TrialState.COMPLETE.value
    complain(is_complete & is_failed, lambda row: "no value: the run is complete but has none of the metric")
    complain(odd_attributes, lambda row: "attributes that are no JSON object")
    odd_keys = [row for row, key in given_keys.items() if len(key) > LONGEST_NAME or "\0" in key or not key]
    complain(odd_keys, lambda row: f"no usable key: {keys[row]!r:.80}")
    again = _repeated(codes, keys, (configs, seeds) if not given_keys else None, ~is_bad)
    complain(again, lambda row: f"there twice: {keys[row]!r} of the task is in an earlier row")

    kept = np.flatnonzero(~is_bad)
    kept = kept[np.argsort(codes[kept], kind="stable")]
    kept_list = kept.tolist()
    place = {row: place for place, row in enumerate(kept_list)} if columns.has_notes or attributes else {}
    return Rows(
        file=path.name,
        lines=lines[kept],
        codes=codes[kept],
        configs=configs[kept],
        positions=positions[kept],
        seeds=seeds[kept],
        has_seed=has_seed[kept],
        keys=[keys[row] for row in kept_list],
        values=values[kept] if factor == 1.0 else rescaled(values[kept], factor),
        states=states[kept],
        numbers={name: column[kept] for name, column in columns.numbers().items()},
        texts={name: _moved(columns.texts(name), place) for name in TEXTS},
        attributes=_moved(attributes, place),
    )


# How it is done


class _Columns:
    """The columns of a table, where it has them."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path, self._table = path, table

    @property
    def has_notes(self) -> bool:
        return any(name in self._table.column_names for name in TEXTS)

    def whole(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return whole_numbers(self._column(name), f"{self._path}: {name}")

    def doubles(self, name: str) -> NDArray[np.float64]:
        return doubles(self._column(name), f"{self._path}: {name}")

    def texts(self, name: str) -> dict[int, str]:
        return texts(self._column(name), f"{self._path}: {name}")

    def is_there(self, name: str) -> NDArray[np.bool_]:
        column = self._column(name)
        found: NDArray[np.bool_] = np.asarray(pc.is_valid(column))
        return found & ~np.asarray(pc.is_nan(column)) if pa.types.is_floating(column.type) else found

    def shown(self, name: str) -> Callable[[int], str]:
        return lambda row: str(self._column(name)[row].as_py())

    def numbers(self) -> dict[str, NDArray[np.float64]]:
        """Columns of numbers that are not empty; what is not finite counts as unknown."""
        found = {}
        for name in NUMBERS:
            if name not in self._table.column_names:
                continue
            read = seconds if name.endswith("_at") else doubles
            values = read(self._table[name], f"{self._path}: {name}")
            if name == "epochs":
                values = np.where(np.abs(values) < 2**31, np.round(values), math.nan)
            found[name] = np.where(np.isfinite(values), values, math.nan)
        return {name: values for name, values in found.items() if not np.isnan(values).all()}

    def _column(self, name: str) -> pa.ChunkedArray:
        if name in self._table.column_names:
            return self._table[name]
        return pa.chunked_array([pa.nulls(self._table.num_rows)])


def _attributes(found: Mapping[int, str]) -> tuple[dict[int, Mapping[str, Any]], list[int]]:
    """Attributes by row, and the rows where they are no JSON object."""
    attributes: dict[int, Mapping[str, Any]] = {}
    odd = []
    for row, text in found.items():
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and not any("\0" in key for key in content):
            attributes[row] = content
        else:
            odd.append(row)
    return attributes, odd


def _repeated(
    codes: NDArray[np.int64],
    keys: list[str],
    numbers: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    is_good: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which good rows have the study and the key of an earlier one. numbers: what all keys are made of, if so."""
    rows = np.flatnonzero(is_good)
    if numbers is None:
        encoded = pa.array([keys[row] for row in rows.tolist()], pa.large_string()).dictionary_encode()
        parts = [np.asarray(encoded.indices), codes[rows]]
    else:
        parts = [numbers[1][rows], numbers[0][rows], codes[rows]]
    order = np.lexsort(parts)
    is_same = np.full(max(len(rows) - 1, 0), True)
    for part in parts:
        is_same &= np.diff(part[order]) == 0
    repeated = np.full(len(codes), False)
    repeated[rows[order[1:][is_same]]] = True
    return repeated


def _moved(found: Mapping[int, Any], place: Mapping[int, int]) -> dict[int, Any]:
    return {place[row]: content for row, content in found.items() if row in place}


def _part(found: Mapping[int, Any], rows: slice) -> dict[int, Any] | None:
    """What is known of some rows, by their place among these."""
    if not found:
        return None
    some = {row - rows.start: found[row] for row in range(rows.start, rows.stop) if row in found}
    return some or None
