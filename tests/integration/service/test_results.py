"""How trials end comes to a real service, or is on the disk: whatever is refused, and whoever delivers it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from optuna.trial import TrialState
from sqlalchemy import select

from hpo.client.sendable import LONGEST_TEXT, sendable, text
from hpo.client.transport import Transport
from hpo.running.outage import Outage
from hpo.service.state import Service
from hpo.worker.checkpoints import PART_BYTES, named_place
from hpo.worker.heartbeat import Heartbeat
from hpo.worker.kept import REFUSED, Kept
from hpo.worker.results import Results
from storage import history, launches, tokens
from storage.database import database_now
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.models import replies, trials
from storage.studies import LATE_RESULTS_ATTRIBUTE
from tests.integration.service.test_desk import create
from tests.servers import Gate, served

PART = b"weights" * (PART_BYTES // 7 + 1)  # a little more than one


@pytest.fixture
def gate(app: FastAPI) -> Gate:
    return Gate(app)


@pytest.fixture
def url(gate: Gate) -> Iterator[str]:
    with served(gate) as url:
        yield url


class Machine:
    """What a worker tells by."""

    def __init__(self, url: str, service: Service, folder: Path, worker: str = "w") -> None:
        self.secret, self.token = tokens.create_token(service.store, owner="box", role="worker", created_by="a test")
        self.told: list[str] = []
        self.transport = Transport(url, self.secret, patience_seconds=0.5, timeout_seconds=30.0)
        self.kept, self.outage = Kept(folder / "spool"), Outage(self.told.append)
        self.heart = Heartbeat(self.transport, worker=worker, lease_seconds=60.0)
        self.results = self.new_results()

    def new_results(self) -> Results:
        return Results(self.transport, self.kept, self.heart, self.outage, self.told.append, at_once=1)

    def ask(self, study_id: int) -> str:
        given = self.transport.post(f"/studies/{study_id}/ask", {"worker": self.heart.worker, "lease_seconds": 5.0})
        return f"/studies/{study_id}/trials/{given['trial']}"

    def end(self, trial: str, **body: Any) -> Any:
        return self.results.end(trial, "tell", sendable({"attempt": 1, **body}), about="trial 0")

    def report(self, trial: str, **body: Any) -> bool:
        return self.results.report(trial, {"attempt": 1, "step": 0, **body}, about="trial 0")

    def complete(self, trial: str, checkpoint: Path) -> None:
        checkpoint.write_bytes(PART)
        body = {"attempt": 1, "state": "complete", "values": [0.5], "checkpoint": named_place(checkpoint)}
        self.results.hand_over(trial, body, about="trial 0")

    def settle(self, until: Callable[[], object] = lambda: False) -> None:
        deadline = time.monotonic() + 20.0
        while self.results.untold and not until():
            began = time.monotonic()
            self.results.settle()
            assert time.monotonic() - began < 1.0, "the trials that run wait for it"
            assert time.monotonic() < deadline, self.told
            time.sleep(0.01)

    def waiting(self) -> list[str]:
        return [message.path.rpartition("/")[2] for _, message in self.kept.waiting(self.transport.url)]

    def end_at_once(self) -> None:
        """As a process that is killed, but that what it was sending arrives."""
        self.kept.close()
        self.results = self.new_results()


@pytest.fixture
def machine(url: str, service: Service, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(url, service, tmp_path)
    yield made
    made.results.close()
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
    machine.settle()
    assert machine.waiting() == ["tell"]
    machine.results.close()
    assert "the next `hpo worker` on this machine tells what is there" in machine.told[-1]
    later = Machine(url, service, tmp_path)
    assert later.results.take_left() == 1
    later.settle()
    assert later.waiting() == []
    assert "what had been kept of it is told now" in later.told[-1]
    later.transport.close()
    (told,) = history.list_trials(service.store, study_id)
    assert (told.state, told.value, told.intermediate_values) == (TrialState.COMPLETE, 0.5, {0: 0.7})


def test_what_is_refused_for_good_is_set_aside_and_the_rest_is_told(
    machine: Machine, service: Service, tmp_path: Path
) -> None:
    study_id = create(service.store)
    first, second = machine.ask(study_id), machine.ask(study_id)
    assert machine.end(first, state="complete", values=[0.5, 0.6]) is None  # of one objective
    assert "wants a value of" in machine.told[-1]
    (aside,) = (tmp_path / "spool").iterdir()
    assert (aside.suffix, str(aside) in machine.told[-1]) == (REFUSED, True)
    assert not machine.report(second, value="no number")
    assert "a report was refused, and is left out" in machine.told[-1]
    assert machine.end(second, state="complete", values=[0.5]) is not None
    assert machine.waiting() == []


def test_a_complete_trial_is_on_disk_while_its_checkpoint_is_sent_beside_and_a_server_that_is_away_costs_it_nothing(
    machine: Machine, gate: Gate, service: Service, tmp_path: Path
) -> None:
    study_id = create(service.store)
    trial, other = machine.ask(study_id), machine.ask(study_id)
    gate.holds, gate.lets_pass = "/checkpoint", 2  # the question, and the first part
    machine.complete(trial, tmp_path / "best.ckpt")
    assert machine.waiting() == ["tell"]
    machine.settle(until=lambda: list(service.runs.rglob("*.part")))
    assert not machine.report(other, value=0.7)
    assert machine.end(other, state="pruned", values=[0.7]) is not None
    gate.is_away, gate.holds = True, None
    machine.settle(until=lambda: machine.outage.is_on)
    assert machine.waiting() == ["tell"]
    gate.is_away = False
    while not machine.outage.is_over(machine.results.catch_up):
        time.sleep(0.05)
    machine.settle()
    assert machine.waiting() == []
    assert "what had been kept of it is told now" in machine.told[-1]
    told, pruned = history.list_trials(service.store, study_id)
    assert (told.state, told.value, pruned.state) == (TrialState.COMPLETE, 0.5, TrialState.PRUNED)
    assert Path(told.checkpoint or "").name == "uploaded.ckpt"
    assert Path(told.checkpoint or "").read_bytes() == PART


def test_what_a_worker_that_was_killed_has_left_stays_its_own_until_the_next_one_has_told_it_once(
    machine: Machine, gate: Gate, url: str, service: Service, tmp_path: Path
) -> None:
    study_id = create(service.store)
    trial = machine.ask(study_id)
    gate.holds = "/checkpoint"
    machine.complete(trial, tmp_path / "best.ckpt")
    machine.results.settle()
    machine.end_at_once()
    later = Machine(url, service, tmp_path, worker="later")
    assert later.results.take_left() == 1
    later.heart.extend()
    assert later.heart.lost() == set()
    with service.store.read() as connection:
        (left,) = connection.execute(select(trials.c.lease_until - database_now())).scalars()
    assert left > 50.0
    later.results.settle()
    gate.holds = None  # both send it: the first one's request was on its way
    later.settle()
    later.transport.close()
    while any(thread.name.startswith("telling of") for thread in threading.enumerate()):
        time.sleep(0.01)
    assert machine.waiting() == []
    assert "what had been kept of it is told now" in later.told[-1]
    (told,) = history.list_trials(service.store, study_id)
    assert (told.state, told.value, told.attempt) == (TrialState.COMPLETE, 0.5, 1)
    assert LATE_RESULTS_ATTRIBUTE not in told.system_attrs
    assert Path(told.checkpoint or "").read_bytes() == PART


def test_a_worker_that_ends_tells_what_is_complete_and_leaves_the_model_where_it_is(
    machine: Machine, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.worker.results.SENDING_SECONDS", 0.0)
    study_id, checkpoint = create(service.store), tmp_path / "best.ckpt"
    machine.complete(machine.ask(study_id), checkpoint)
    machine.results.close()
    assert machine.waiting() == []
    assert f"its checkpoint stays at {named_place(checkpoint)}: the worker ended" in machine.told[-1]
    (told,) = history.list_trials(service.store, study_id)
    assert (told.state, told.value, told.checkpoint) == (TrialState.COMPLETE, 0.5, named_place(checkpoint))


def test_an_end_that_no_disk_takes_is_kept_in_memory_until_it_is_told(
    machine: Machine, gate: Gate, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "spool").touch()  # where a folder would be
    study_id = create(service.store)
    trial, other = machine.ask(study_id), machine.ask(study_id)
    gate.is_away = True
    assert machine.end(other, state="fail", error="x") is None
    machine.complete(trial, tmp_path / "best.ckpt")
    assert sum("fits on no disk" in told for told in machine.told) == 2
    gate.is_away = False
    while not machine.outage.is_over(machine.results.catch_up):
        time.sleep(0.05)
    machine.settle()
    assert [each.state for each in history.list_trials(service.store, study_id)] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
    ]


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
