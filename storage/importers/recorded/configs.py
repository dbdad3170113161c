"""Which configurations a recorded table has: `configs.parquet` as Optuna's internal values, column by column."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from storage.errors import ImportFailedError
from storage.importers.mapping import scaled
from storage.importers.recorded.space import CONFIG_COLUMN, Parameter, RecordedSpace, choice_index
from storage.importers.tables.parquet import read_whole, whole_numbers

CONFIGS_FILE = "configs.parquet"
ROUNDING = 1e-12  # relative: a bound that was computed twice, as exp(log(x)), is still the bound
SINGLE_ROUNDING = 1e-6  # the same for numbers that were kept in single precision
GRID_ROUNDING = 1e-8  # relative to the step; as Optuna's


@dataclass(frozen=True, kw_only=True, eq=False)
class Configurations:
    """The configurations of a table, by their number."""

    numbers: NDArray[np.int64]  # (n,) ascending
    internal: NDArray[np.float64]  # (n, d) Optuna's internal values; NaN where a parameter is inactive
    problems: Mapping[int, str]  # by position: why no run can have it

    def positions(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where configurations of these numbers are; -1 where there are none. Shape (m,) to (m,)."""
        if not len(self.numbers):
            return np.full(len(numbers), -1)
        found = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.where(self.numbers[found] == numbers, found, -1)


def read_configurations(folder: Path, space: RecordedSpace) -> Configurations:
    """The configurations in a folder. Raises ImportFailedError."""
    path = folder / CONFIGS_FILE
    table = read_whole(path)
    wanted = [CONFIG_COLUMN, *(parameter.column for parameter in space.parameters)]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise ImportFailedError(
            f"{path} lacks the column {', '.join(map(repr, missing))}; it has {', '.join(table.column_names)}."
        )
    numbers, is_number = whole_numbers(table[CONFIG_COLUMN], f"{path}: {CONFIG_COLUMN}")
    table = table.filter(pa.array(is_number))
    numbers = numbers[is_number]
    encoded = [_scaled(_encoded(path, table[parameter.column], parameter), parameter) for parameter in space.parameters]
    internal = np.column_stack(encoded) if encoded else np.empty((len(numbers), 0))
    problems: dict[int, str] = {}
    _check(space, table, internal, problems)
    order = np.argsort(numbers, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    problems = {int(ranks[position]): reason for position, reason in problems.items()}
    return _without_repeats(numbers[order], internal[order], problems)


# How it is done


def _encoded(path: Path, column: pa.ChunkedArray, parameter: Parameter) -> NDArray[np.float64]:
    """A column as internal values; NaN where it is empty, infinite where the value cannot be understood."""
    where = f"{path}: {parameter.column}"
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if isinstance(parameter.distribution, CategoricalDistribution):
        return _by_distinct(column, where, lambda value: _choice(parameter, value))
    if pa.types.is_null(column.type):
        return np.full(len(column), math.nan)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return _doubles(column)
    return _by_distinct(column, where, _number)


def _scaled(values: NDArray[np.float64], parameter: Parameter) -> NDArray[np.float64]:
    return values if parameter.factor == 1.0 else rescaled(values, parameter.factor)


def rescaled(values: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The values times a factor, each as a mapping scales it."""
    return np.array([scaled(value, factor) if math.isfinite(value) else value for value in values.tolist()])


def _doubles(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (
        pc.fill_null(column.cast(pa.float64(), safe=False), math.nan).to_numpy().astype(np.float64)
    )
    return values


def _by_distinct(column: pa.ChunkedArray, where: str, encode: Any) -> NDArray[np.float64]:
    """A column of which each distinct value is encoded once."""
    try:
        encoded = column.combine_chunks().dictionary_encode()
    except pa.ArrowNotImplementedError as error:
        raise ImportFailedError(f"{where} holds {column.type}, which is no parameter's value.") from error
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = np.array([*(encode(value) for value in encoded.dictionary.to_pylist()), math.nan])
    result: NDArray[np.float64] = codes[pc.fill_null(encoded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)]
    return result


def _choice(parameter: Parameter, value: Any) -> float:
    assert isinstance(parameter.distribution, CategoricalDistribution)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if parameter.as_json:
        try:
            value = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            return math.inf
    index = choice_index(parameter.distribution.choices, value)
    return math.inf if index is None else float(index)


def _number(value: Any) -> float:
    if value is None or value == "":
        return math.nan
    if isinstance(value, bool):
        return math.inf
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf


def _check(space: RecordedSpace, table: pa.Table, internal: NDArray[np.float64], problems: dict[int, str]) -> None:
    """Look at every value: whether it is there, whether it may be, whether it is in range; bounds are made exact."""
    active: dict[str, NDArray[np.bool_]] = {}
    values_of = {parameter.name: internal[:, axis] for axis, parameter in enumerate(space.parameters)}

    def complain(rows: NDArray[np.bool_], what: str, parameter: Parameter, of: str = "") -> None:
        for position in np.flatnonzero(rows).tolist():
            shown = f" = {_shown(table[parameter.column][position].as_py())}" if of else ""
            problems.setdefault(position, f"{what}: {parameter.name}{shown}{of}")

    for parameter in space.parameters:
        values, distribution = values_of[parameter.name], parameter.distribution
        matters = np.full(len(values), True)
        if (condition := parameter.condition) is not None:
            parent = next(other for other in space.parameters if other.name == condition.parent)
            allowed = [float(parent.distribution.to_internal_repr(value)) for value in condition.values]
            matters = active[parent.name] & np.isin(values_of[parent.name], allowed)
            complain(~np.isnan(values) & ~matters, "inactive parameter with a value", parameter, _where(condition))
        if isinstance(distribution, CategoricalDistribution):
            if not parameter.as_json and not parameter.optional and None in distribution.choices:
                values[np.isnan(values) & matters] = distribution.choices.index(None)
            complain(np.isinf(values), "no such choice", parameter, f" is none of {_listed(distribution.choices)}")
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            _snap(values, distribution, table[parameter.column].type)
            low, high = distribution.low, distribution.high
            is_odd = ~np.isnan(values) & ~((values >= low) & (values <= high))
            complain(is_odd, "outside its range", parameter, f" is not in [{low:g}, {high:g}]")
            if distribution.step is not None:
                off = _off_grid(values, distribution.low, distribution.step)
                complain(off, "off its grid", parameter, _grid(distribution))
        complain(np.isnan(values) & matters & (not parameter.optional), "active parameter without a value", parameter)
        active[parameter.name] = matters & ~np.isnan(values)


def _snap(values: NDArray[np.float64], distribution: FloatDistribution | IntDistribution, kept_as: pa.DataType) -> None:
    """Make values that miss a bound by rounding only equal to it."""
    is_single = pa.types.is_float32(kept_as) or pa.types.is_float16(kept_as)
    for bound in (distribution.low, distribution.high):
        near = np.abs(values - bound) <= (SINGLE_ROUNDING if is_single else ROUNDING) * abs(bound)
        values[near & ((values < distribution.low) | (values > distribution.high))] = bound


def _off_grid(values: NDArray[np.float64], low: float, step: float) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        steps = (values - low) / step
        off: NDArray[np.bool_] = np.isfinite(steps) & (np.abs(steps - np.round(steps)) > GRID_ROUNDING)
    return off


def _grid(distribution: FloatDistribution | IntDistribution) -> str:
    if isinstance(distribution, IntDistribution) and distribution.step == 1:
        return " is no whole number"
    return f" is not {distribution.low:g} plus a multiple of {distribution.step:g}"


def _without_repeats(
    numbers: NDArray[np.int64], internal: NDArray[np.float64], problems: Mapping[int, str]
) -> Configurations:
    """Configurations that are there twice are one, if they are the same."""
    distinct, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    kept = {}
    for position, start, count in zip(range(len(distinct)), first.tolist(), counts.tolist(), strict=True):
        if count == 1:
            if start in problems:
                kept[position] = problems[start]
            continue
        rows = internal[start : start + count]
        same = np.all((rows == rows[0]) | (np.isnan(rows) & np.isnan(rows[0])))
        found = [problems[row] for row in range(start, start + count) if row in problems]
        if found or not same:
            kept[position] = (
                found[0] if found else f"described {count} times, differently: configuration {distinct[position]}"
            )
    return Configurations(numbers=distinct, internal=internal[first], problems=kept)


def _where(condition: Any) -> str:
    return f" where {condition.parent} is not {_listed(condition.values)}"


def _listed(values: Any) -> str:
    shown = [_shown(value) for value in values]
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
