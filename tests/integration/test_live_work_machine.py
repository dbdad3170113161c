"""Do studies and trials live as a few lines of plain Python say, whatever is done in whatever order?"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import make_url, update

from storage.errors import StaleAttemptError, StudyExistsError, TrialNotFoundError
from storage.models import trials
from storage.optuna_storage import HistoryStorage
from storage.schema import Store, open_store
from storage.studies import (
    LATE_RESULTS_ATTRIBUTE,
    Claim,
    claim_trial,
    create_study,
    delete_study_without_results,
    extend_leases,
    finish_trial,
    reclaim_dead_workers,
    release_trial,
    report,
    set_mlflow_uri,
    start_trial,
)

WAITING, RUNNING, COMPLETE, PRUNED, FAIL = (
    TrialState[name].value for name in ("WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL")
)
OPEN, ENDED = 3600.0, -1.0  # seconds that a lease is given: it outlives the test, or is over at once
WORKERS = ("ann", "bob", "cy")

# The model: what the store promises


@dataclass
class Trial:
    """A trial as everybody must see it."""

    state: int = WAITING
    attempt: int = 0
    deaths: int = 0
    worker: str | None = None
    is_leased: bool = False
    value: float | None = None
    error: str | None = None
    seed: int | None = None
    curve: dict[int, float | None] = field(default_factory=dict)
    late: list[tuple[int, str, float | None]] = field(default_factory=list)
    is_lease_over: bool = False  # which only the database's clock knows

    @property
    def row(self) -> tuple[Any, ...]:
        """What is seen of it."""
        is_finished = self.state in (COMPLETE, PRUNED, FAIL)
        outcome = (self.state, self.attempt, self.deaths, self.worker, self.value, self.error, self.seed)
        return (*outcome, self.is_leased, is_finished)


class Study:
    """A study in plain Python: a list of trials, each with its number for an index."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.messages: list[tuple[Any, ...]] = []  # to MLflow: kind, trial, attempt, and what they say
        self.is_followed = True
        self.tell("study_started")

    def tell(self, kind: str, number: int | None = None, says: Any = None) -> None:
        if self.is_followed:
            attempt = None if number is None else self.trials[number].attempt
            self.messages.append((kind, number, attempt, says))

    def add(self, trial: Trial) -> int:
        self.trials.append(trial)
        return len(self.trials) - 1

    def holds(self, number: int, attempt: int) -> bool:
        trial = self.trials[number]
        return trial.state == RUNNING and trial.attempt == attempt

    def claim(self, worker: str, lease: float, max_trials: int | None, max_attempts: int) -> int | None:
        for number, trial in enumerate(self.trials):
            if trial.is_leased and trial.is_lease_over and trial.worker != worker:
                self.end_attempt(number, "its lease ended", max_attempts)
        waiting = [number for number, trial in enumerate(self.trials) if trial.state == WAITING]
        if max_trials is not None and len(self.trials) - len(waiting) >= max_trials:
            return None
        number = waiting[0] if waiting else self.add(Trial())
        trial = self.trials[number]
        trial.state, trial.worker, trial.error = RUNNING, worker, None
        trial.is_leased, trial.is_lease_over = True, lease < 0
        trial.attempt += 1
        trial.curve.clear()
        return number

    def end_attempt(self, number: int, reason: str, max_deaths: int | None) -> bool:
        """Whether it will be tried again; an end is a death where there is a `max_deaths`."""
        trial = self.trials[number]
        trial.deaths += max_deaths is not None
        is_given_up = max_deaths is not None and trial.deaths >= max_deaths
        trial.state, trial.worker, trial.is_leased = FAIL if is_given_up else WAITING, None, False
        trial.error = f"gave up after {trial.deaths} attempts: {reason}" if is_given_up else reason
        self.tell("run_finished", number, ("KILLED", TrialState(trial.state).name, trial.error))
        return not is_given_up

    def finish(self, number: int, attempt: int, state: TrialState, value: float | None, error: str | None) -> bool:
        """Whether it is accepted."""
        trial = self.trials[number]
        if self.holds(number, attempt):
            trial.state, trial.value, trial.error, trial.is_leased = state.value, value, error, False
            self.tell("run_finished", number, ("FAILED" if state.value == FAIL else "FINISHED", state.name, error))
            return True
        if (trial.state, trial.attempt, trial.value) == (state.value, attempt, value):
            return True  # said before
        late = (attempt, state.name, value)
        trial.late += [] if late in trial.late else [late]
        return False

    @property
    def is_worth_keeping(self) -> bool:
        is_held = any(trial.is_leased and not trial.is_lease_over for trial in self.trials)
        return is_held or any(trial.state in (COMPLETE, PRUNED) for trial in self.trials)


# The machine: what may be done, to both

VALUES = st.sampled_from([0.0, -0.5, 1e300, math.inf])
STATES = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
MAX_ATTEMPTS = st.sampled_from([3, 1, 2])
NAMES = count()  # of studies


class LiveWork(RuleBasedStateMachine):
    """Whatever users of `storage.studies` may do to one study, and plain Optuna beside them."""

    store: Store
    seen: sqlite3.Connection  # or psycopg's: reads what is there, beside the program

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.name = f"study {next(NAMES)}"
        self.storage = HistoryStorage(self.store)
        self.ids: list[int] = []
        self.last_said: Any = None

    @initialize()
    def begin(self) -> None:
        self.study_id = create_study(self.store, name=self.name, task="task", metric="loss", mlflow_uri="sqlite:///no")
        self.study = Study()
        self.ids = []  # of the trials, by number
        self.last_said = None

    # Trials come into being

    @rule(x=st.sampled_from([0.25, 0.5]))
    def enqueue(self, x: float) -> None:
        template = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": x}})
        self.ids.append(self.storage.create_new_trial(self.study_id, template))
        self.study.add(Trial())

    @rule()
    def ask_as_plain_optuna(self) -> None:
        self.ids.append(self.storage.create_new_trial(self.study_id))
        self.study.add(Trial(state=RUNNING))

    @rule(
        target=claims,
        worker=st.sampled_from(WORKERS),
        lease=st.sampled_from([OPEN, ENDED]),
        max_trials=st.sampled_from([None, 100, 5, 3, 1]),
        max_attempts=MAX_ATTEMPTS,
    )
    def claim(self, worker: str, lease: float, max_trials: int | None, max_attempts: int) -> Any:
        claimed = claim_trial(
            self.store,
            self.study_id,
            worker=worker,
            lease_seconds=lease,
            max_trials=max_trials,
            max_attempts=max_attempts,
        )
        number = self.study.claim(worker, lease, max_trials, max_attempts)
        assert (claimed and claimed.number) == number
        if claimed is None:
            return multiple()
        if claimed.number == len(self.ids):
            self.ids.append(claimed.trial_id)
        assert claimed == Claim(
            trial_id=self.ids[claimed.number], number=claimed.number, attempt=self.study.trials[claimed.number].attempt
        )
        return claimed

    # Leases

    @rule(claimed=claims)
    def time_passes(self, claimed: Claim) -> None:
        """The lease of whoever holds the trial now ends."""
        with self.store.write() as connection:
            connection.execute(
                update(trials)
                .where(trials.c.id == claimed.trial_id, trials.c.lease_until.is_not(None))
                .values(lease_until=0.0)
            )
        if not self.is_gone(claimed):
            self.study.trials[claimed.number].is_lease_over = True

    @rule(held=st.lists(claims, max_size=3), worker=st.sampled_from(WORKERS), lease=st.sampled_from([OPEN, ENDED]))
    def extend(self, held: list[Claim], worker: str, lease: float) -> None:
        still_ours = set()
        for claimed in held:
            if self.is_held(claimed) and self.study.trials[claimed.number].worker == worker:
                still_ours.add(claimed.trial_id)
                self.study.trials[claimed.number].is_lease_over = lease < 0
        assert extend_leases(self.store, held, worker=worker, lease_seconds=lease) == still_ours

    @rule(worker=st.sampled_from(WORKERS), lease=st.sampled_from([OPEN, ENDED]))
    def beat(self, worker: str, lease: float) -> None:
        """What a worker's heartbeat does: it extends all that it holds."""
        own = {
            Claim(trial_id=self.ids[number], number=number, attempt=trial.attempt): trial
            for number, trial in enumerate(self.study.trials)
            if trial.is_leased and trial.worker == worker
        }
        for trial in own.values():
            trial.is_lease_over = lease < 0
        extended = extend_leases(self.store, own, worker=worker, lease_seconds=lease)
        assert extended == {claimed.trial_id for claimed in own}

    @rule(alive=st.sets(st.sampled_from(WORKERS)), max_attempts=MAX_ATTEMPTS)
    def reclaim(self, alive: set[str], max_attempts: int) -> None:
        orphans = [n for n, t in enumerate(self.study.trials) if t.is_leased and t.worker not in alive]
        for number in orphans:
            self.study.end_attempt(number, "its worker died", max_attempts)
        found = reclaim_dead_workers(self.store, self.study_id, alive.__contains__, max_attempts=max_attempts)
        assert found == len(orphans)

    # What attempts say

    @rule(claimed=claims, seed=st.sampled_from([0, 2**40]))
    def start(self, claimed: Claim, seed: int) -> None:
        with self.refused_unless_held(claimed) as is_held:
            start_trial(self.store, claimed, params={"x": 0.5}, seed=seed)
        if is_held:
            self.study.trials[claimed.number].seed = seed
            self.study.tell("run_started", claimed.number, seed)

    @rule(claimed=claims, step=st.integers(0, 2), value=st.one_of(VALUES, st.just(math.nan)))
    def report(self, claimed: Claim, step: int, value: float) -> None:
        with self.refused_unless_held(claimed) as is_held:
            report(self.store, claimed, step=step, value=value, metrics={"loss": 0.5})
        if is_held:
            self.study.trials[claimed.number].curve[step] = None if math.isnan(value) else value
            self.study.tell("metrics", claimed.number, step)

    @rule(claimed=claims, state=STATES, value=VALUES, error=st.sampled_from([None, "<b>'\0;"]))
    def finish(self, claimed: Claim, state: TrialState, value: float, error: str | None) -> None:
        self.last_said = (claimed, state, None if state == TrialState.FAIL else value, error)
        self.say_the_last_again()

    @precondition(lambda self: self.last_said is not None)
    @rule()
    def say_the_last_again(self) -> None:
        claimed, state, value, error = self.last_said
        if self.is_gone(claimed):
            expected = pytest.raises(TrialNotFoundError)
        elif self.study.finish(claimed.number, claimed.attempt, state, value, error and error.replace("\0", "")):
            expected = nullcontext()
        else:
            expected = pytest.raises(StaleAttemptError)
        with expected:
            finish_trial(self.store, claimed, state=state, value=value, error=error)

    @precondition(lambda self: any(trial.is_leased for trial in self.study.trials))
    @rule(which=st.integers(0, 3), state=STATES, value=VALUES)
    def finish_what_is_held(self, which: int, state: TrialState, value: float) -> None:
        held = [(number, trial) for number, trial in enumerate(self.study.trials) if trial.is_leased]
        number, trial = held[which % len(held)]
        claimed = Claim(trial_id=self.ids[number], number=number, attempt=trial.attempt)
        self.finish(claimed=claimed, state=state, value=value, error=None)

    @rule(claimed=claims, state=STATES)
    def finish_without_a_number(self, claimed: Claim, state: TrialState) -> None:
        with pytest.raises(ValueError, match="NaN"):
            finish_trial(self.store, claimed, state=state, value=math.nan)
        with pytest.raises(ValueError, match="needs a value"):
            finish_trial(self.store, claimed, state=TrialState.COMPLETE, value=None)

    @rule(claimed=claims, counts=st.booleans(), max_attempts=MAX_ATTEMPTS)
    def release(self, claimed: Claim, counts: bool, max_attempts: int) -> None:
        again = None
        with self.refused_unless_held(claimed) as is_held:
            again = release_trial(self.store, claimed, reason="given up", counts=counts, max_attempts=max_attempts)
        if is_held:
            assert again == self.study.end_attempt(claimed.number, "given up", max_attempts if counts else None)

    # Plain Optuna beside them

    @rule(number=st.integers(0, 5))
    def start_as_plain_optuna(self, number: int) -> None:
        """It takes a trial that waits, without a lease."""
        if number >= len(self.ids):
            return
        trial = self.study.trials[number]
        if trial.state in (COMPLETE, PRUNED, FAIL):
            with pytest.raises(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(self.ids[number], TrialState.RUNNING)
            return
        assert self.storage.set_trial_state_values(self.ids[number], TrialState.RUNNING) == (trial.state == WAITING)
        if trial.state == WAITING:
            trial.state = RUNNING
            trial.attempt += 1
            trial.error = None
            trial.curve.clear()

    # Studies

    @rule(is_followed=st.booleans())
    def follow(self, is_followed: bool) -> None:
        set_mlflow_uri(self.store, self.study_id, "sqlite:///no" if is_followed else None)
        self.study.is_followed = is_followed

    @precondition(lambda self: len(self.ids) >= 3)
    @rule()
    def delete_and_begin_anew(self) -> None:
        is_deleted = delete_study_without_results(self.store, self.name)
        assert is_deleted == (not self.study.is_worth_keeping)
        if is_deleted:
            self.begin()

    @rule()
    def a_name_is_given_once(self) -> None:
        with pytest.raises(StudyExistsError):
            create_study(self.store, name=self.name)

    # Both must be the same, after each step

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        where = f"study_id = {self.study_id} ORDER BY"
        found = self.seen.execute(
            "SELECT id, number, state, attempt, deaths, worker, value, error, seed, "
            f"lease_until IS NOT NULL, finished_at IS NOT NULL FROM trials WHERE {where} number"
        ).fetchall()
        assert [row[:2] for row in found] == [(trial_id, number) for number, trial_id in enumerate(self.ids)]
        assert [tuple(row[2:]) for row in found] == [trial.row for trial in self.study.trials]

    @invariant()
    def no_outcome_and_no_report_is_lost(self) -> None:
        beside = f"JOIN trials ON trials.id = trial_id WHERE study_id = {self.study_id}"
        curves = self.seen.execute(f"SELECT number, step, v.value FROM intermediate_values v {beside}").fetchall()
        expected = {(n, s, v) for n, trial in enumerate(self.study.trials) for s, v in trial.curve.items()}
        assert len(curves) == len(expected) and set(map(tuple, curves)) == expected
        late = self.seen.execute(
            f"SELECT number, a.value FROM trial_attributes a {beside} AND key = '{LATE_RESULTS_ATTRIBUTE}'"
        ).fetchall()
        kept = {number: [(r["attempt"], r["state"], r["value"]) for r in json.loads(text)] for number, text in late}
        assert kept == {number: trial.late for number, trial in enumerate(self.study.trials) if trial.late}

    @invariant()
    def mlflow_is_told_all_of_it_in_order(self) -> None:
        numbers = {trial_id: number for number, trial_id in enumerate(self.ids)}
        found = self.seen.execute(
            f"SELECT kind, trial_id, attempt, payload FROM outbox WHERE study_id = {self.study_id} ORDER BY id"
        ).fetchall()
        messages = [(k, None if t is None else numbers[t], a, _says(k, json.loads(p))) for k, t, a, p in found]
        assert messages == self.study.messages

    # How it is done

    def is_gone(self, claimed: Claim) -> bool:
        """The claim is of a study that was deleted."""
        return claimed.trial_id not in self.ids

    def is_held(self, claimed: Claim) -> bool:
        return not self.is_gone(claimed) and self.study.holds(claimed.number, claimed.attempt)

    @contextmanager
    def refused_unless_held(self, claimed: Claim) -> Iterator[bool]:
        if self.is_gone(claimed):
            with pytest.raises(TrialNotFoundError):
                yield False
        elif not self.is_held(claimed):
            with pytest.raises(StaleAttemptError):
                yield False
        else:
            yield True


def _says(kind: str, payload: dict[str, Any]) -> Any:
    """What of a message the model knows."""
    match kind:
        case "run_started":
            return payload["seed"]
        case "metrics":
            return payload["step"]
        case "run_finished":
            return payload["status"], payload["state"], payload["error"]
    return None


def run_machine(on: Store, beside: Any, examples: int) -> None:
    class Machine(LiveWork):
        store, seen = on, beside

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.timeout(900)  # a failing example is made short first
def test_on_sqlite() -> None:
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        store = open_store(f"sqlite:///{folder}/history.db")
        seen = sqlite3.connect(f"{folder}/history.db")
        run_machine(store, seen, examples=500)
        seen.close()
        store.dispose()


@pytest.mark.timeout(900)
def test_on_postgresql(postgresql_store: Store) -> None:
    psycopg = pytest.importorskip("psycopg")
    url = make_url(postgresql_store.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as seen:
        run_machine(postgresql_store, seen, examples=30)
