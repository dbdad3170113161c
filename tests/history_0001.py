"""A history as schema 0001 held it: written by SQL, for the code that wrote it is gone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from sqlalchemy import Connection, MetaData, Table

from storage import schema
from storage.database import Store
from storage.optuna_storage import HistoryStorage

CREATED_AT = 1_760_000_000.25
LATE = {"attempt": 1, "state": "COMPLETE", "value": 0.5, "received_at": CREATED_AT}
MANY = 10_050  # more trials than a migration takes at a time
DECLARED = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
}
DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(1e-5, 0.1, log=True),
    FloatDistribution(0.0, 0.99),
    CategoricalDistribution(("sgd", "adam")),
    IntDistribution(1, 9, step=2),
    FloatDistribution(0.0, 1.0, step=0.25),
    CategoricalDistribution((None, True, "a 'quoted' \u2713", 1.5)),
    IntDistribution(8, 1024, log=True),
]
LR, MOMENTUM, OPTIMIZER, ODD, STEPS, ANYTHING, BATCH = range(1, 8)  # their ids

Trial = dict[str, Any]  # what Optuna shows of a trial


def fill(url: str, *, many: int = 10) -> dict[str, list[Trial]]:
    """Make a database with schema 0001 and fill it, one study with `many` trials; returns its trials by study."""
    schema.upgrade(url, "0001")
    store = Store(url)
    try:
        with store.write() as connection:
            return _Writer(connection).write(many)
    finally:
        store.dispose()


def trials(url: str) -> dict[str, list[Trial]]:
    """The trials by study, as this program's Optuna storage reads them."""
    storage = HistoryStorage(url)
    try:
        return {
            study.study_name: [
                {
                    "number": trial.number,
                    "state": trial.state.value,
                    "values": trial.values,
                    "params": trial.params,
                    "distributions": trial.distributions,
                    "curve": {step: None if math.isnan(v) else v for step, v in trial.intermediate_values.items()},
                    "user": trial.user_attrs,
                    "system": trial.system_attrs,
                }
                for trial in storage.get_all_trials(study._study_id)
            ]
            for study in storage.get_all_studies()
        }
    finally:
        storage.store.dispose()


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, whatever the schema; parameters parsed, as their spelling may vary."""
    store, tables = Store(url), MetaData()
    with store.read() as connection:
        tables.reflect(connection)
        found = {
            table.name: [
                {name: _plain(name, value) for name, value in row._mapping.items()}
                for row in connection.execute(table.select().order_by(*table.primary_key.columns))
            ]
            for table in tables.sorted_tables
        }
    store.dispose()
    return found


def _plain(name: str, value: Any) -> Any:
    if name == "params":
        return json.loads(value)
    return bytes(value) if isinstance(value, memoryview) else value


class _Writer:
    """Writes rows as the code of 0001 did."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._tables = connection, MetaData()
        self._tables.reflect(connection)
        self._trials: dict[str, list[Trial]] = {}
        self._studies: dict[str, int] = {}

    def write(self, many: int) -> dict[str, list[Trial]]:
        self._insert("distributions", [_distribution(each) for each in DISTRIBUTIONS])
        tasks = [("digits", "val_loss", "minimize"), ("words", "val_acc", "maximize"), ("unused", "x", "minimize")]
        self._insert(
            "tasks",
            [{"name": n, "metric": m, "direction": d, "created_at": CREATED_AT} for n, m, d in tasks],
        )
        for name in ("first", "second"):
            self._declared(name)
        self._undeclared()
        self._several_objectives()
        self._study("empty", directions=["minimize"])
        self._study("declared, no trial", directions=["maximize"], task_id=2, space=json.dumps(DECLARED))
        self._many(many)
        self._outbox()
        return self._trials

    def _declared(self, name: str) -> None:
        """As `hpo tune` made it; another of the same family."""
        study = self._study(
            name,
            directions=["minimize"],
            task_id=1,
            space=json.dumps(DECLARED),
            spec=json.dumps({"study": name}),
            mlflow_uri="http://127.0.0.1:9",
            provenance=json.dumps({"code_version": "abc"}),
        )
        self._insert("study_attributes", [self._attribute("study_id", study, "system", "hindsight:space", DECLARED)])
        self._parameters(study, {"lr": LR, "momentum": MOMENTUM, "optimizer": OPTIMIZER})
        for number in range(6):
            sgd = number % 2 == 0
            params = {"lr": (LR, 10.0 ** -(2 + number / 3)), "optimizer": (OPTIMIZER, 0.0 if sgd else 1.0)}
            params |= {"momentum": (MOMENTUM, 0.1 + number / 10)} if sgd else {}
            state = [1, 2, 3, 1, 0, 4][number]
            self._trial(
                name,
                number,
                state=state,
                value=[0.5, 0.25, None, -1e300, None, None][number],
                params=params,
                curve={0: 0.75, 1: None} if number < 2 else {},
                user={"note": "tab\tnewline\n\u2713"} if number == 0 else {},
                system={"hindsight:late_results": [LATE]} if number == 1 else {},
                attempt=1 + number % 2,
                deaths=number % 2,
                worker="host:1:2" if state == 0 else None,
                lease_until=CREATED_AT + 60 if state == 0 else None,
                finished_at=CREATED_AT + number if state in (1, 2, 3) else None,
                error="diverged" if state == 3 else None,
                seed=2**40,
                peak_memory_bytes=2**41,
                checkpoint="/runs/best.ckpt",
            )

    def _undeclared(self) -> None:
        """As a plain Optuna program made it: the order of its parameters differs from trial to trial."""
        study = self._study("plain optuna", directions=["maximize"], source="optuna")
        self._parameters(study, {"odd": ODD, "steps": STEPS, "anything": ANYTHING})
        for number in range(8):
            params = {
                "odd": (ODD, float(1 + 2 * (number % 5))),
                "steps": (STEPS, 0.25 * (number % 5)),
                "anything": (ANYTHING, float(number % 4)),
            }
            names = [list(params), list(reversed(params)), ["steps"], []][number % 4]
            self._trial(
                "plain optuna",
                number,
                state=1,
                value=float(number),
                params={key: params[key] for key in names},
                finished_at=CREATED_AT,
            )

    def _several_objectives(self) -> None:
        study = self._study("both", directions=["minimize", "maximize", "minimize"], source="optuna")
        self._parameters(study, {"lr": LR})
        self._trial(
            "both", 0, state=1, value=0.5, more=[1e-310, 3.0], params={"lr": (LR, 1e-5)}, finished_at=CREATED_AT
        )

    def _many(self, count: int) -> None:
        """As an import would have made it, with names from elsewhere."""
        study = self._study("many", directions=["minimize"], task_id=1)
        self._parameters(study, {"batch_size": BATCH, "lr": LR})
        trials, found = [], []
        for number in range(count):
            batch, lr = 8 + number % 1000, 1e-5 + number * 1e-9
            stored = {"batch_size": [BATCH, float(batch)], "lr": [LR, lr]}
            key = f"run {number}" if number % 2 else None
            row = {"study_id": study, "number": number, "state": 1, "value": number / 7, "source_key": key}
            trials.append({**row, "params": json.dumps(stored, separators=(",", ":")), "finished_at": CREATED_AT})
            drawn_from = {"batch_size": DISTRIBUTIONS[BATCH - 1], "lr": DISTRIBUTIONS[LR - 1]}
            found.append(_seen(number, 1, [number / 7], {"batch_size": batch, "lr": lr}, drawn_from))
        self._insert("trials", trials)
        self._trials["many"] = found

    def _outbox(self) -> None:
        message = {"study_id": 1, "trial_id": 1, "attempt": 1, "payload": "{}", "created_at": CREATED_AT}
        self._insert("outbox", [{**message, "kind": kind} for kind in ("run_started", "metrics", "run_finished")])
        self._insert("mlflow_runs", [{"mlflow_uri": "http://127.0.0.1:9", "run_key": "first@0", "run_id": "f00"}])

    # One row at a time

    def _study(self, name: str, *, directions: list[str], **columns: Any) -> int:
        row = {"name": name, "directions": json.dumps(directions), "created_at": CREATED_AT, **columns}
        table = self._tables.tables["studies"]
        self._studies[name] = int(
            self._connection.execute(table.insert().values(row).returning(table.c.id)).scalar_one()
        )
        self._trials[name] = []
        return self._studies[name]

    def _parameters(self, study: int, numbers: Mapping[str, int]) -> None:
        rows = [{"study_id": study, "name": name, "distribution_id": number} for name, number in numbers.items()]
        self._insert("study_parameters", rows)

    def _trial(
        self,
        study: str,
        number: int,
        *,
        state: int,
        value: float | None,
        params: Mapping[str, tuple[int, float]],
        more: list[float] | None = None,
        curve: Mapping[int, float | None] | None = None,
        user: Mapping[str, Any] | None = None,
        system: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        stored = json.dumps(params, separators=(",", ":"))
        row = {"study_id": self._studies[study], "number": number, "state": state, "value": value, "params": stored}
        row |= {"more_values": None if more is None else json.dumps(more), **columns}
        table = self._tables.tables["trials"]
        trial = int(self._connection.execute(table.insert().values(row).returning(table.c.id)).scalar_one())
        attributes = {"user": dict(user or {}), "system": dict(system or {})}
        for kind, values in attributes.items():
            self._insert(
                "trial_attributes", [self._attribute("trial_id", trial, kind, key, v) for key, v in values.items()]
            )
        curve = dict(curve or {})
        self._insert("intermediate_values", [{"trial_id": trial, "step": s, "value": v} for s, v in curve.items()])
        drawn_from = {name: DISTRIBUTIONS[distribution - 1] for name, (distribution, _) in params.items()}
        external = {name: drawn_from[name].to_external_repr(internal) for name, (_, internal) in params.items()}
        values = None if value is None else [value, *(more or [])]
        self._trials[study].append(_seen(number, state, values, external, drawn_from, curve=curve, **attributes))

    def _attribute(self, owner: str, number: int, kind: str, key: str, value: Any) -> dict[str, Any]:
        return {owner: number, "kind": kind, "key": key, "value": json.dumps(value)}

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._connection.execute(self._table(table).insert(), rows)

    def _table(self, name: str) -> Table:
        return self._tables.tables[name]


def _distribution(distribution: BaseDistribution) -> dict[str, str]:
    definition = distribution_to_json(distribution)
    return {"digest": sha256(definition.encode()).hexdigest(), "definition": definition}


def _seen(
    number: int,
    state: int,
    values: list[float] | None,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    *,
    curve: Mapping[int, float | None] | None = None,
    user: Mapping[str, Any] | None = None,
    system: Mapping[str, Any] | None = None,
) -> Trial:
    return {
        "number": number,
        "state": state,
        "values": values,
        "params": dict(params),
        "distributions": dict(distributions),
        "curve": dict(curve or {}),
        "user": dict(user or {}),
        "system": dict(system or {}),
    }
