"""How trials end comes to a real service, or is on the disk: whatever is refused, and whoever delivers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from optuna.trial import TrialState

from hpo.client.sendable import LONGEST_TEXT, sendable, text
from hpo.client.transport import Transport
from hpo.running.outage import Outage
from hpo.service.state import Service
from hpo.worker.kept import REFUSED, Kept
from hpo.worker.results import Results
from storage import history, launches, tokens
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.models import replies
from tests.integration.service.test_desk import create
from tests.servers import served


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


class Machine:
    """What a worker tells by."""

    def __init__(self, url: str, service: Service, folder: Path) -> None:
        self.secret, self.token = tokens.create_token(service.store, owner="box", role="worker", created_by="a test")
        self.told: list[str] = []
        self.transport = Transport(url, self.secret, patience_seconds=2.0, timeout_seconds=30.0)
        self.kept = Kept(folder / "spool")
        self.results = Results(self.transport, self.kept, Outage(self.told.append), self.told.append)

    def ask(self, study_id: int) -> str:
        given = self.transport.post(f"/studies/{study_id}/ask", {"worker": "w"})
        return f"/studies/{study_id}/trials/{given['trial']}"

    def end(self, trial: str, **body: Any) -> Any:
        return self.results.end(trial, "tell", sendable({"attempt": 1, **body}), about="trial 0")

    def report(self, trial: str, **body: Any) -> bool:
        return self.results.report(trial, {"attempt": 1, "step": 0, **body}, about="trial 0")

    def waiting(self) -> list[str]:
        return [message.path.rpartition("/")[2] for _, message in self.kept.waiting(self.transport.url)]


@pytest.fixture
def machine(url: str, service: Service, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(url, service, tmp_path)
    yield made
    made.transport.close()


def test_what_a_token_that_was_revoked_may_not_tell_is_told_by_the_next_one(
    machine: Machine, url: str, service: Service, tmp_path: Path
) -> None:
    study_id = create(service.store)
    trial = machine.ask(study_id)
    tokens.revoke_token(service.store, machine.token.token_id)
    assert not machine.report(trial, value=0.7)
    assert machine.results.barred is not None
    assert machine.end(trial, state="complete", values=[0.5]) is None
    assert machine.waiting() == ["report", "tell"]
    machine.results.deliver()
    assert machine.waiting() == ["report", "tell"]
    later = Machine(url, service, tmp_path)
    later.results.deliver()
    later.transport.close()
    assert later.waiting() == []
    (told,) = history.list_trials(service.store, study_id)
    assert (told.state, told.value, told.intermediate_values) == (TrialState.COMPLETE, 0.5, {0: 0.7})


def test_what_is_refused_for_good_is_set_aside_and_the_rest_is_told(machine: Machine, service: Service) -> None:
    study_id = create(service.store)
    first, second = machine.ask(study_id), machine.ask(study_id)
    assert machine.end(first, state="complete", values=[0.5, 0.6]) is None  # of one objective
    assert "wants a value of" in machine.told[-1]
    ((path, message),) = machine.kept.waiting(machine.transport.url)
    assert message.path == f"{first}/tell"
    assert not machine.report(second, value="no number")
    assert "a report was refused, and is left out" in machine.told[-1]
    assert machine.end(second, state="complete", values=[0.5]) is not None
    machine.results.deliver()
    assert machine.waiting() == []
    assert str(path.with_suffix(REFUSED)) in machine.told[-1]


def test_a_trial_that_was_deleted_is_lost_alone(machine: Machine, service: Service) -> None:
    study_id = create(service.store)
    trial = machine.ask(study_id)
    machine.transport.post(f"{trial}/release", {"attempt": 1})
    launches.remove_study(service.store, study_id)
    with pytest.raises((StudyNotFoundError, TrialNotFoundError)):
        machine.report(trial, value=0.5)
    assert machine.end(trial, state="complete", values=[0.5]) is None


def test_long_texts_and_numbers_that_are_none_are_taken(machine: Machine, service: Service) -> None:
    study_id = create(service.store)
    words = text("missing key " * 5_000)
    assert len(words) == LONGEST_TEXT
    assert machine.end(machine.ask(study_id), state="fail", error=words)
    assert machine.end(
        machine.ask(study_id), state="complete", values=[0.5], measured={"x": float("nan")}, notes=[words]
    )
    assert machine.end(machine.ask(study_id), state="complete", values=[float("nan")])
    states = [trial.state for trial in history.list_trials(service.store, study_id)]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL]


def test_reports_and_leases_leave_no_answer_behind(machine: Machine, service: Service) -> None:
    study_id = create(service.store)
    trial = machine.ask(study_id)
    for step in range(5):
        machine.report(trial, step=step, value=0.5)
    claims = [{"study": study_id, "trial": 0, "attempt": 1}]
    machine.transport.post_again("/leases", {"worker": "w", "claims": claims})
    with service.store.read() as connection:
        assert len(connection.execute(replies.select()).all()) == 1  # of the question for the trial
