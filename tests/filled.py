"""A small history with something of everything in it, and everything that a history holds."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import insert, select

from storage import background_jobs, launches, machines, replies, tokens
from storage.audit import Doer
from storage.database import Store
from storage.errors import StaleAttemptError
from storage.models import learned, metadata, mlflow_runs, sources
from storage.optuna_storage import HistoryStorage
from storage.studies import Claim, claim_trial, create_study, finish_trial, release_trial, report, start_trial

SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 5},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam", None, True]},
}
DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-5, 0.1, log=True),
    "layers": IntDistribution(1, 5),
    "optimizer": CategoricalDistribution(("sgd", "adam", None, True)),
}


def fill(store: Store) -> None:
    """Two studies of our own and two of a plain Optuna program; trials in every state; names of every kind."""
    own = _fill_own(store)
    _fill_optuna(store)
    _fill_service(store, own)
    HistoryStorage(store).delete_study(create_study(store, name="gone"))  # its id must not be given again
    storage = HistoryStorage(store)
    for family in storage.past_families():
        storage.past_studies(family)  # which keeps what it sums up
    with store.write() as connection:
        connection.execute(insert(sources).values(_SOURCE))
        connection.execute(insert(learned).values(subject="past", watermark="0f", payload=bytes(range(256))))
        connection.execute(insert(mlflow_runs).values(mlflow_uri="http://127.0.0.1:9", run_key="a/b", run_id="f00"))


_SOURCE = {
    "name": "team server",
    "kind": "mlflow",
    "location": "http://mlflow:5000",
    "settings": json.dumps({"experiment": ["a"]}),
    "created_at": 1_760_000_000.125,
    "imported_at": 1_760_000_000.5,
}


def _fill_own(store: Store) -> int:
    study = create_study(
        store,
        name="digits <b>'first'</b>; DROP TABLE trials",
        task="digits",
        metric="val_loss",
        space=SPACE,
        spec={"study": "first", "budget": {"trials": 4}},
        mlflow_uri="http://127.0.0.1:9",
        provenance={"code_version": "abc", "hardware": "2 cores"},
    )
    storage = HistoryStorage(store)
    for number in range(4):
        claim = claimed(store, study)
        for name, value in {
            "lr": 0.01 / (number + 1),
            "layers": 1 + number,
            "optimizer": [None, "adam"][number % 2],
        }.items():
            distribution = DISTRIBUTIONS[name]
            storage.set_trial_param(claim.trial_id, name, distribution.to_internal_repr(value), distribution)
        storage.set_trial_system_attr(
            claim.trial_id, "hindsight:receipt", {"why": "the largest improvement \u2264 5 %"}
        )
        start_trial(store, claim, params={"lr": 0.01}, seed=2**40 + number, data_fingerprint="f00", hardware="2 cores")
        for epoch in range(3):
            report(
                store, claim, step=epoch, value=math.nan if number == 2 else 1.0 / (epoch + 1), metrics={"loss": 0.5}
            )
        if number < 2:
            finish_trial(
                store,
                claim,
                state=TrialState.COMPLETE,
                value=0.1 + number / 3,
                cost_seconds=2.5,
                epochs=3,
                peak_memory_bytes=2**40,
                checkpoint="/runs/best.ckpt",
            )
        elif number == 2:
            finish_trial(store, claim, state=TrialState.FAIL, value=None, error="diverged:\n\tnan\u2028 <script>")
    late(store, study)
    return study


def late(store: Store, study: int) -> None:
    """A trial that was given away and finished by another, whose first worker came back."""
    first = claimed(store, study)
    release_trial(store, first, reason="interrupted")
    second = claimed(store, study)
    finish_trial(store, second, state=TrialState.PRUNED, value=0.7, epochs=1)
    with suppress(StaleAttemptError):
        finish_trial(store, first, state=TrialState.COMPLETE, value=0.6)
        raise AssertionError("a stale attempt was taken")


def claimed(store: Store, study: int) -> Claim:
    """A trial of the study, claimed for an hour."""
    claim = claim_trial(store, study, worker="host:1:2", lease_seconds=3600, max_trials=None)
    assert claim is not None
    return claim


def _fill_optuna(store: Store) -> None:
    storage = HistoryStorage(store)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        one = optuna.create_study(study_name="einfach \u2713", storage=storage, direction="maximize")
        one.enqueue_trial({"x": 0.25})
        one.set_user_attr("team", ["a", {"b": None}])
        for value in (0.5, math.inf, -1e300):
            trial = one.ask(DISTRIBUTIONS)
            trial.set_user_attr("note", "newline\n and \u00fcmlauts")
            one.tell(trial, value)
        one.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
        both = optuna.create_study(study_name="both", storage=storage, directions=["minimize", "maximize"])
        both.tell(both.ask({"x": FloatDistribution(0, 1)}), [0.1, 1e-310])
    finally:
        optuna.logging.set_verbosity(verbosity)


def _fill_service(store: Store, study: int) -> None:
    """What the service keeps: somebody's token, and one of everything that it was asked to do."""
    _, token = tokens.create_token(store, owner="ann", role="operator", created_by="root")
    replies.keep(store, token.token_id, "key", replies.Reply(request="0f" * 32, status=200, body="{}"))
    doer = Doer(who="ann", action="study.start", details={"place": "server"})
    launches.request_launch(store, study, owner="ann", place="server", settings={}, doer=doer)
    machines.join(store, worker="gpu:1:2", owner="ann", host="gpu", devices=["cuda:0"], jobs=1, version="1")
    background_jobs.add_job(store, kind="import", owner="ann", settings={"table": "runs.csv"})


def content(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, by table, in the order of their keys."""
    with store.read() as connection:
        return {
            table.name: [
                tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
                for row in connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }
