"""A service on a history whose names are hostile, for the pages about the past."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from dashboards.app import create_app
from hpo.service.state import Service
from storage import launches, machines, tokens
from storage.families import list_families
from storage.importers.flags import find_flags
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.studies import create_study
from storage.tokens import Role
from tests.filled import fill

EVIL = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>"""
RATE = f"lr {EVIL}"
CHOICE = f"adam {EVIL}"
SPACE = {
    RATE: {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", CHOICE]},
}
DRAWN = {RATE: FloatDistribution(1e-4, 1.0, log=True), "optimizer": CategoricalDistribution(["sgd", CHOICE])}
TASKS, TRIALS = 6, 40


def task(place: int) -> str:
    return f"task/{place} {EVIL} ünïcödé"


def study(place: int) -> str:
    return f"study/{place} {EVIL}"


@contextmanager
def service_on_past(folder: Path) -> Iterator[Service]:
    """A service on a family of tasks of which the last is turned round, and on a store with something of everything."""
    store = open_store(f"sqlite:///{folder / 'past.db'}")
    fill(store)
    for place in range(TASKS + 1):
        _add_study(HistoryStorage(store), place, is_reversed=place == TASKS)
    find_flags(store, [study(TASKS)])
    machines.join(store, worker=f"gpu {EVIL}", owner=EVIL[:50], host=EVIL, devices=[EVIL], jobs=2, version=EVIL)
    queued = create_study(store, name=f"queued {EVIL}", task="queued", metric=f"loss {EVIL}", space=SPACE)
    launches.request_launch(store, queued, owner=f"bob {EVIL}", place="server", priority=1)
    service = Service(store=store, mlflow_uri=None, runs=folder / "runs", projects=folder)
    yield service
    service.calculations.close()
    service.desk.close()
    store.dispose()


def _add_study(storage: HistoryStorage, place: int, *, is_reversed: bool) -> None:
    name = study(place)
    study_id = create_study(storage.store, name=name, task=task(place), metric=f"loss {EVIL}", space=SPACE)
    rng = random.Random(place)
    for _ in range(TRIALS):
        params = {RATE: 10 ** rng.uniform(-4, 0), "optimizer": rng.choice(["sgd", CHOICE])}
        value = abs(params[RATE] ** 0.25 - 0.05**0.25) + rng.gauss(0, 0.005) + place
        trial = create_trial(
            state=TrialState.COMPLETE,
            params=params,
            distributions=DRAWN,
            value=2 * place - value if is_reversed else value,
        )
        storage.create_new_trial(study_id, template_trial=trial)


def family_of_tasks(service: Service) -> str:
    return next(family.name for family in list_families(service.store) if RATE in family.space)


def client(service: Service, role: Role | None) -> TestClient:
    """A browser's client: it asks for pages, and has a token of the role, or none."""
    headers = {"Accept": "text/html"}
    if role is not None:
        secret, _ = tokens.create_token(service.store, owner=role, role=role, created_by="a test")
        headers["Authorization"] = f"Bearer {secret}"
    return TestClient(create_app(service), headers=headers, follow_redirects=False, raise_server_exceptions=False)
