"""What a real server refuses costs a worker one trial at most, and never what was trained."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import select, update

from hpo.api.app import create_api
from hpo.client.transport import Transport
from hpo.errors import NotAllowedError
from hpo.service.state import Service
from hpo.worker.worker import Worker, WorkerOptions
from storage import history, tokens
from storage.database import Store
from storage.models import studies
from tests.e2e.test_worker import launched
from tests.servers import served

CODE = """
import time
from pathlib import Path

def wordy(config, report):
    raise RuntimeError("Missing key(s) in state_dict: " + "layer.weight, " * 2_000)

def patient(config, report):
    Path(__file__).with_name("began").touch()
    while not Path(__file__).with_name("go on").exists():
        time.sleep(0.05)
    report(val_loss=config["lr"], strange=float("nan"))

def quick(config, report):
    report(val_loss=2.0)
"""


class Shop:
    """A service, and workers of it one after the other."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder, self.told = store, folder, list[str]()
        self.projects = folder / "projects"
        self.projects.mkdir()
        (self.projects / "my_code.py").write_text(CODE)
        self.service = Service(store=store, mlflow_uri=None, runs=folder / "runs", projects=self.projects)
        self.url = ""

    def token(self) -> tuple[str, int]:
        secret, token = tokens.create_token(self.store, owner="box", role="worker", created_by="a test")
        return secret, token.token_id

    def work(self, secret: str, *, jobs: int = 1, once_it_began: Callable[[], Any] | None = None) -> None:
        """Work until there is nothing to do. once_it_began: done while a patient trial waits, which then goes on."""

        def act() -> None:
            deadline = time.monotonic() + 60.0
            while not (self.projects / "began").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            try:
                if once_it_began is not None:
                    once_it_began()
            finally:
                (self.projects / "go on").touch()

        transport = Transport(self.url, secret, patience_seconds=3.0, timeout_seconds=30.0)
        options = WorkerOptions(projects=self.projects, runs=self.folder / "here", once=True, jobs=jobs)
        aside = threading.Thread(target=act)
        if once_it_began is not None:
            aside.start()
        try:
            Worker(transport, options, notice=self.told.append).run()
        finally:
            transport.close()
            if once_it_began is not None:
                aside.join()

    def states(self, study_id: int) -> list[TrialState]:
        return [trial.state for trial in history.list_trials(self.store, study_id)]


@pytest.fixture
def shop(sqlite_store: Store, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(sqlite_store, tmp_path)
    with served(create_api(made.service)) as made.url:
        yield made
    made.service.desk.close()


def test_an_error_of_any_length_fails_its_trial_alone(shop: Shop) -> None:
    study_id = launched(shop.store, "wordy", shop.projects, "my_code.wordy", trials=2)
    shop.work(shop.token()[0])
    failed = history.list_trials(shop.store, study_id)
    assert [trial.state for trial in failed] == [TrialState.FAIL, TrialState.FAIL]
    assert all(str(trial.error).endswith(" …") for trial in failed)


def test_what_runs_as_the_token_ends_is_told_by_the_next_worker(shop: Shop) -> None:
    study_id = launched(shop.store, "patient", shop.projects, "my_code.patient", trials=1)
    secret, token_id = shop.token()
    with pytest.raises(NotAllowedError, match="this token was revoked"):
        shop.work(secret, once_it_began=lambda: tokens.revoke_token(shop.store, token_id))
    assert shop.states(study_id) == [TrialState.RUNNING]
    shop.work(shop.token()[0])
    (trial,) = history.list_trials(shop.store, study_id)
    assert (trial.state, trial.attempt, trial.value) == (TrialState.COMPLETE, 1, trial.params["lr"])
    assert any("what had been kept of it is told now" in told for told in shop.told)


def test_a_study_that_was_changed_is_trained_once_its_earlier_trials_have_ended(shop: Shop) -> None:
    study_id = launched(shop.store, "changing", shop.projects, "my_code.patient", trials=1)

    def change() -> None:
        with shop.store.write() as connection:
            text = connection.scalar(select(studies.c.spec).where(studies.c.id == study_id))
            changed = {**json.loads(text or ""), "trainer": {"function": "my_code.quick"}, "budget": {"trials": 2}}
            connection.execute(update(studies).where(studies.c.id == study_id).values(spec=json.dumps(changed)))
        deadline = time.monotonic() + 60.0
        while shop.states(study_id)[1:] != [TrialState.WAITING] and time.monotonic() < deadline:  # it was given back
            time.sleep(0.05)

    shop.work(shop.token()[0], jobs=2, once_it_began=change)
    first, second = history.list_trials(shop.store, study_id)
    assert (first.state, second.state, second.value) == (TrialState.COMPLETE, TrialState.COMPLETE, 2.0)
    assert second.attempt > 1
    assert not any("cannot be trained here" in told for told in shop.told)
