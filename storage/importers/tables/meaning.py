"""What the rows of a table say: which metric the runs were judged by, in which space they lie, and each of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState

from storage.errors import ImportFailedError
from storage.importers.inference import ABSENT, choose_metric, guess_direction, infer_space, params_in, repair
from storage.importers.mapping import RunMapping, scaled
from storage.importers.recorded.space import MOST_PARAMETERS, is_name
from storage.importers.runs import PastRun
from storage.importers.tables.columns import Columns, sort_columns
from storage.importers.tables.evidence import Evidence
from storage.importers.tables.values import UNFINISHED, content, integer, moment, number, seconds, state, text

NAMES_SHOWN = 12

Space = Mapping[str, Mapping[str, Any]]


class SkippedError(Exception):
    """A row that is left out though nothing is wrong with it."""


@dataclass(kw_only=True)
class Times:
    """What was odd about the times in a table."""

    naive: int = 0  # had no zone
    odd: int = 0  # could not be understood


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """How the rows of a table are to be read."""

    mapping: RunMapping
    columns: Columns
    metric: str
    direction: str  # minimize or maximize
    space: Space
    times: Times = field(default_factory=Times)

    def run(self, cells: Sequence[Any], key: str) -> PastRun:
        """The run in a row. Raises ValueError where it cannot be used, SkippedError where it is not finished."""
        outcome, value, error = self._outcome(cells)
        raw = _params(cells, self.columns, self.mapping)
        roles = {role: cells[place] for role, place in self.columns.roles.items()}
        return PastRun(
            key=key,
            params=params_in(self.space, raw),
            value=value,
            state=outcome,
            started_at=self._moment(roles.get("started_at")),
            finished_at=self._moment(roles.get("finished_at")),
            cost_seconds=seconds(roles.get("cost_seconds"), self.columns.cost_factor),
            epochs=integer(roles.get("epochs")),
            seed=integer(roles.get("seed")),
            code_version=text(roles.get("code_version")),
            data_fingerprint=text(roles.get("data_fingerprint")),
            hardware=text(roles.get("hardware")),
            error=text(roles.get("error")) or error,
            user_attrs=self._attributes(cells, raw),
        )

    def _outcome(self, cells: Sequence[Any]) -> tuple[TrialState, float | None, str | None]:
        """How a run ended, with its value, or why it has none."""
        try:
            said = state(cells[self.columns.roles["state"]]) if "state" in self.columns.roles else None
        except ValueError as error:
            raise ValueError(f"an unknown state: {error}") from error
        if said == UNFINISHED:
            raise SkippedError("not finished yet")
        place = next(place for name, place in self.columns.results.items() if self._is_metric(name))
        try:
            value = number(cells[place])
        except ValueError as error:
            raise ValueError(f"no usable value of the metric: {self.metric} = {error}") from error
        if said == TrialState.FAIL:
            return TrialState.FAIL, None, None
        if value is None:
            return TrialState.FAIL, None, f"no value of {self.metric}"
        outcome = TrialState.PRUNED if said == TrialState.PRUNED else TrialState.COMPLETE
        return outcome, scaled(value, self.mapping.factor(self.metric)), None

    def _is_metric(self, name: str) -> bool:
        return self.mapping.metric_name(name) == self.metric

    def _moment(self, cell: Any) -> float | None:
        found, is_naive = moment(cell)
        self.times.naive += is_naive
        self.times.odd += found is None and content(cell) is not ABSENT
        return found

    def _attributes(self, cells: Sequence[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
        """What else is known of a run."""
        rest = {name: repair(value) for name, value in raw.items() if name not in self.space and value is not ABSENT}
        others = _present(cells, {name: at for name, at in self.columns.results.items() if not self._is_metric(name)})
        known = _present(cells, {name: at for name, at in self.columns.attributes.items() if "\0" not in name})
        return known | {name: part for name, part in (("metrics", others), ("params", rest)) if part}


def meaning_of(
    header: Sequence[str],
    evidence: Evidence,
    mapping: RunMapping,
    *,
    task: int | None,
    known: Space | None,
    note: Callable[[str], None],
) -> Meaning:
    """How rows like these are to be read. task: the column that has it; known: the space that such runs had so far.

    Raises ImportFailedError, which says what the user has to say.
    """
    columns = sort_columns(
        header,
        mapping,
        task=task,
        metric=mapping.metric,
        is_numeric=evidence.is_numeric,
        is_duration=evidence.is_duration,
    )
    _check(columns, header, mapping)
    metric, direction = _judged_by(columns, header, evidence, mapping)
    note(f"the metric is {metric}, {direction}")
    others = [name for name in columns.results if mapping.metric_name(name) != metric]
    if others:
        note(f"results beside it, not parameters: {listed(others)}")
    for role, place in columns.roles.items():
        unit = f", each {columns.cost_factor:g} s" if role == "cost_seconds" else ""
        note(f"{role} is the column {header[place]!r}{unit}")
    if columns.attributes:
        note(f"kept as attributes: {listed(list(columns.attributes))}")
    if columns.left_out:
        note(f"left out: {listed(columns.left_out)}")
    rows = _columns_of_params(columns, evidence, mapping)
    space, notes = infer_space(rows, known, declared=mapping.space)
    for text_of_note in notes:
        note(text_of_note)
    return Meaning(mapping=mapping, columns=columns, metric=metric, direction=direction, space=space)


def listed(names: Sequence[str]) -> str:
    """Names in one line."""
    shown = [name if len(name) <= 60 else f"{name[:59]}…" for name in names[:NAMES_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


# How it is done


def _check(columns: Columns, header: Sequence[str], mapping: RunMapping) -> None:
    names = [mapping.rename.get(name, name) for name in (*columns.params, *columns.results)]
    for name, times in Counter(names).items():
        if times > 1:
            raise ImportFailedError(f"{times} columns are called {name!r}.")
        if not is_name(name):
            raise ImportFailedError(f"{name!r:.80} is no name that a database keeps.")
    if len(columns.params) > MOST_PARAMETERS:
        raise ImportFailedError(
            f"{len(columns.params):,} columns would be parameters, at most {MOST_PARAMETERS:,} are one configuration."
            " Drop what is none in a mapping: `drop: [...]`."
        )
    if not columns.params:
        raise ImportFailedError(f"There is no column that could be a parameter: {listed(header)}.")


def _judged_by(columns: Columns, header: Sequence[str], evidence: Evidence, mapping: RunMapping) -> tuple[str, str]:
    """The metric and the direction."""
    counts = {mapping.metric_name(name): evidence.present(place) for name, place in columns.results.items()}
    metric = mapping.metric or choose_metric(counts)
    if metric is None:
        numeric = [name for place, name in enumerate(header) if name and evidence.is_numeric(place)]
        raise ImportFailedError(
            "Which column are the runs judged by? Give --metric NAME (and --direction), or `metric:` in a mapping file."
            f" Numbers are in: {listed(list(counts) or numeric)}."
        )
    if metric not in counts:
        raise ImportFailedError(f"There is no column {metric!r}; there are {listed(header)}.")
    direction = mapping.direction or guess_direction(metric)
    if direction not in ("minimize", "maximize"):
        raise ImportFailedError(
            f"Is more or less of {metric!r} better? Give --direction minimize or --direction maximize, or `direction:`"
            " in a mapping file."
        )
    return metric, direction


def _columns_of_params(columns: Columns, evidence: Evidence, mapping: RunMapping) -> dict[str, list[Any]]:
    """The parameters' values in the rows that can be used to tell the space."""
    rows = []
    with_slips = [place for place in columns.params.values() if evidence.holds_slips(place)]
    for cells in evidence.rows:
        if any(isinstance(content(cells[place]), str | bool) for place in with_slips):
            continue  # it will be rejected
        try:
            rows.append(_params(cells, columns, mapping))
        except ValueError:
            continue  # so will this
    names = dict.fromkeys(name for row in rows[:1] for name in row)
    return {name: [row[name] for row in rows] for name in names}


def _params(cells: Sequence[Any], columns: Columns, mapping: RunMapping) -> dict[str, Any]:
    """The parameters of a row before they are fitted into the space; ABSENT where it has none of a name."""
    return mapping.params({name: content(cells[place]) for name, place in columns.params.items()})


def _present(cells: Sequence[Any], places: Mapping[str, int]) -> dict[str, Any]:
    return {name: found for name, place in places.items() if (found := content(cells[place])) is not ABSENT}
