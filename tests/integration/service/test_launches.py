"""The queue of studies: who wants what, who has which in hand, and that nobody else has it too."""

import threading
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, text

from hpo.service.limits import Limits
from hpo.service.turns import Round, places_of
from storage import audit, launches, models, studies
from storage.audit import Doer
from storage.database import Store
from storage.errors import LaunchError, StorageError, StudyNotFoundError
from storage.launches import OVER, Launch
from storage.load import current_load

LEASE_SECONDS = 60.0


def make_study(store: Store, name: str) -> int:
    return studies.create_study(store, name=name, task="digits", metric="val_loss")


def launch(store: Store, study_id: int, **options: Any) -> Launch:
    return launches.request_launch(store, study_id, **{"owner": "ann", "place": "server", **options})


def take(store: Store, study_id: int, worker: str = "server-a", lease_seconds: float = LEASE_SECONDS) -> bool:
    return launches.take_up(store, study_id, worker=worker, lease_seconds=lease_seconds)


def test_one_of_many_servers_takes_a_study_up(store: Store, in_processes: Any) -> None:
    made = [make_study(store, f"study/{number}") for number in range(20)]
    for study_id in made:
        launch(store, study_id)
    url = store.url

    def serve(index: int) -> list[int]:
        own = Store(url)
        return [study_id for study_id in made if take(own, study_id, f"server-{index}")]

    taken = [study_id for found in in_processes(serve, 4) for study_id in found]
    assert sorted(taken) == made


def test_a_study_is_paused_resumed_and_stopped_for_good(store: Store) -> None:
    study_id = make_study(store, "digits")
    assert launch(store, study_id, jobs=2, priority=3, settings={"executor": "ray"}).state == "queued"
    assert launches.want(store, study_id, "pause").state == "paused"
    assert launches.want(store, study_id, "run").state == "queued"
    assert take(store, study_id)
    asked = launches.want(store, study_id, "pause")
    assert (asked.state, asked.wanted) == ("running", "pause")  # until its process has given its trials back
    assert launches.give_back(store, study_id, worker="server-a", message="interrupted") == "paused"
    launches.want(store, study_id, "run")
    assert take(store, study_id)
    launches.want(store, study_id, "stop")
    with pytest.raises(LaunchError, match="'digits' is being stopped; it cannot go on"):
        launches.want(store, study_id, "run")
    assert launches.give_back(store, study_id, worker="server-a", message="interrupted") == "stopped"
    for attempt in ("run", "pause"):
        with pytest.raises(LaunchError, match="stopped for good"):
            launches.want(store, study_id, attempt)
    with pytest.raises(LaunchError, match="it cannot be started"):
        launch(store, study_id)
    assert launches.want(store, study_id, "stop").ended_at is not None


def test_trials_of_workers_need_no_server(store: Store) -> None:
    study_id = make_study(store, "elsewhere")
    assert launch(store, study_id, place="workers").state == "running"
    studies.claim_trial(store, study_id, worker="w", lease_seconds=60, max_trials=None)
    studies.claim_trial(store, study_id, worker="w", lease_seconds=-1, max_trials=None)  # it is silent
    (found,) = launches.list_launches(store)
    assert found.trials == 1
    assert launches.want(store, study_id, "pause").state == "paused"
    assert launches.want(store, study_id, "run").state == "running"
    assert launches.reclaim(store, lambda worker: False) == []
    assert launches.finish(store, study_id, state="done", message="its budget is spent", worker=None)
    assert not launches.finish(store, study_id, state="done", message="its budget is spent", worker=None)


def test_what_a_dead_or_silent_server_had_in_hand_is_queued_again(store: Store) -> None:
    dead, silent, alive = (make_study(store, name) for name in ("dead", "silent", "alive"))
    for study_id, worker, seconds in ((dead, "gone", 60.0), (silent, "slow", -1.0), (alive, "well", 60.0)):
        launch(store, study_id)
        take(store, study_id, worker, seconds)
    launches.want(store, silent, "pause")
    assert launches.reclaim(store, lambda worker: worker != "gone") == [dead, silent]
    assert [each.state for each in launches.list_launches(store)] == ["queued", "paused", "running"]
    assert launches.extend(store, [dead, silent], worker="slow", lease_seconds=60) == set()
    assert launches.give_back(store, silent, worker="slow", message="too late") is None
    assert not launches.finish(store, dead, state="done", message="too late", worker="gone")
    assert launches.extend(store, [alive], worker="well", lease_seconds=60) == {alive}


def test_a_process_that_dies_again_and_again_fails_its_study(store: Store) -> None:
    study_id = make_study(store, "fragile")
    launch(store, study_id)
    for deaths, expected in ((1, "queued"), (2, "queued"), (3, "failed")):
        take(store, study_id)
        left = launches.give_back(
            store, study_id, worker="server-a", message="was killed", deaths=deaths, most_deaths=3
        )
        assert left == expected
    found = launches.find_launch(store, study_id)
    assert found is not None
    assert (found.deaths, found.message) == (3, "was killed")
    again = launch(store, study_id)  # whoever has mended it may start it again
    assert (again.state, again.deaths, again.ended_at) == ("queued", 0, None)


def test_what_runs_is_not_deleted(store: Store) -> None:
    study_id = make_study(store, "precious")
    launch(store, study_id)
    with pytest.raises(LaunchError, match="'precious' is in the queue: stop it first"):
        launches.remove_study(store, study_id)
    launches.want(store, study_id, "stop")
    claim = studies.claim_trial(store, study_id, worker="w", lease_seconds=60, max_trials=None)
    assert claim is not None
    with pytest.raises(LaunchError, match="a trial of study"):
        launches.remove_study(store, study_id)
    studies.release_trial(store, claim, reason="done with it")
    launches.remove_study(store, study_id)
    with pytest.raises(StudyNotFoundError):
        launches.remove_study(store, study_id)
    assert launches.list_launches(store) == []


def test_a_change_that_cannot_be_logged_is_not_made_and_one_that_changes_nothing_is_not_logged(
    sqlite_store: Store,
) -> None:
    store, study_id = sqlite_store, make_study(sqlite_store, "digits")

    def by(action: str) -> Doer:
        return Doer(who="ann", action=f"study.{action}")

    launch(store, study_id, doer=by("start"))
    for _ in range(2):
        launches.set_priority(store, study_id, 7, doer=by("priority"))
        launches.want(store, study_id, "stop", doer=by("stop"))
    logged = [(entry.action, entry.subject) for entry in audit.list_entries(store)]
    assert logged == [(f"study.{verb}", f"study {study_id}") for verb in ("stop", "priority", "start")]
    with store.write() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
    for change in (
        lambda: launches.remove_study(store, study_id, doer=by("delete")),
        lambda: launches.set_priority(store, study_id, 8, doer=by("priority")),
        lambda: studies.create_study(store, name="other", doer=by("create")),
    ):
        with pytest.raises(StorageError):
            change()
    (found,) = launches.list_launches(store)
    assert (found.state, found.priority) == ("stopped", 7)
    assert studies.create_study(store, name="other") > study_id


def test_a_trial_is_not_claimed_while_its_study_is_deleted(
    postgresql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, study_id = postgresql_store, make_study(postgresql_store, "digits")
    claimed: list[Any] = []

    def claim() -> None:
        try:
            claimed.append(studies.claim_trial(store, study_id, worker="w", lease_seconds=60, max_trials=None))
        except StudyNotFoundError:
            claimed.append("there is no such study")

    claiming, delete_studies = threading.Thread(target=claim), launches.delete_studies

    def delete_late(connection: Any, study_ids: list[int]) -> list[int]:
        claiming.start()
        claiming.join(0.5)
        assert claimed == []  # it waits
        return delete_studies(connection, study_ids)

    monkeypatch.setattr(launches, "delete_studies", delete_late)
    launches.remove_study(store, study_id)
    claiming.join()
    assert claimed == ["there is no such study"]


def test_a_study_that_nobody_launched_says_so(store: Store) -> None:
    study_id = make_study(store, "by hand")
    assert launches.find_launch(store, study_id) is None
    with pytest.raises(LaunchError, match="'by hand' is not run by this service"):
        launches.want(store, study_id, "pause")
    with pytest.raises(StudyNotFoundError):
        launches.want(store, study_id + 1, "pause")


SERVERS = ("server-a", "server-b")
LIMITS = Limits(trials=4, trials_per_owner=3, devices=6, trials_on_server=3)
STUDIES = (  # owner, place, trials side by side, devices of each, priority
    *(("ann", "server", 2, 1, 0), ("ann", "server", 1, 2, 1), ("ann", "workers", 1, 1, 0)),
    *(("bob", "server", 3, 1, 0), ("bob", "workers", 1, 2, 2)),
)


class Queue(RuleBasedStateMachine):
    """People who want things, two servers, one of which may be dead, workers that pull; against a plain model."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        with store.write() as connection:
            connection.execute(delete(models.launches))
            connection.execute(delete(models.trials))
        self.ids = [study.study_id for study in _all_studies(store)]
        self.state: dict[int, str] = {}
        self.wanted: dict[int, str] = {}
        self.holder: dict[int, str] = {}

    study = st.sampled_from(range(len(STUDIES)))
    server = st.sampled_from(SERVERS)

    @rule(which=study)
    def start(self, which: int) -> None:
        owner, place, jobs, devices, priority = STUDIES[which]
        options = {"owner": owner, "place": place, "jobs": jobs, "devices": devices, "priority": priority}
        study_id, before = self.ids[which], self.state.get(self.ids[which])
        if before not in (None, "paused", "failed"):
            with pytest.raises(LaunchError):
                launches.request_launch(self.store, study_id, **options)
            return
        launches.request_launch(self.store, study_id, **options)
        self.state[study_id], self.wanted[study_id] = "queued" if place == "server" else "running", "run"

    @rule(which=study, wanted=st.sampled_from(["run", "pause", "stop"]))
    def want(self, which: int, wanted: str) -> None:
        study_id = self.ids[which]
        state, before = self.state.get(study_id), self.wanted.get(study_id)
        is_refused = (
            state is None
            or state == "done"
            or (state == "stopped" and wanted != "stop")
            or (state == "failed" and wanted != "run")
            or (before == "stop" and wanted != "stop")
        )
        if is_refused:
            with pytest.raises(LaunchError):
                launches.want(self.store, study_id, wanted)
            return
        launches.want(self.store, study_id, wanted)
        self.wanted[study_id] = wanted
        if study_id in self.holder:
            return
        runs = "running" if STUDIES[which][1] == "workers" else "queued"
        self.state[study_id] = {"run": runs, "pause": "paused", "stop": "stopped"}[wanted]

    @rule(server=server)
    def take_the_next(self, server: str) -> None:
        turns = Round(current_load(self.store), LIMITS)
        for each in turns.launches:
            if each.state == "queued" and turns.why_waiting(each.study_id) is None:
                assert launches.take_up(self.store, each.study_id, worker=server, lease_seconds=60)
                self.state[each.study_id], self.holder[each.study_id] = "running", server
                return

    @rule(which=study)
    def pull(self, which: int) -> None:
        turns = Round(current_load(self.store), LIMITS)
        if STUDIES[which][1] == "workers" and turns.why_waiting(self.ids[which]) is None:
            studies.claim_trial(self.store, self.ids[which], worker="w", lease_seconds=60, max_trials=None)

    @rule(which=study, server=server, way=st.sampled_from(["done", "failed", "back", "died"]))
    def end(self, which: int, server: str, way: str) -> None:
        study_id = self.ids[which]
        is_its = self.holder.get(study_id) == server
        if way in ("done", "failed"):
            ended = launches.finish(self.store, study_id, state=way, message="so", worker=server)  # type: ignore[arg-type]
            assert ended == is_its
            if is_its:
                self.state[study_id] = way
        else:
            settled = {"run": "queued", "pause": "paused", "stop": "stopped"}.get(self.wanted.get(study_id, ""))
            if way == "died" and settled == "queued":
                settled = "failed"
            deaths = {"deaths": 1, "most_deaths": 1} if way == "died" else {}
            left = launches.give_back(self.store, study_id, worker=server, message="so", **deaths)
            assert left == (settled if is_its else None)
            if is_its:
                self.state[study_id] = str(settled)
        if is_its:
            del self.holder[study_id]

    @precondition(lambda self: self.holder)
    @rule(server=server)
    def die(self, server: str) -> None:
        lost = [study_id for study_id, holder in sorted(self.holder.items()) if holder == server]
        assert launches.reclaim(self.store, lambda worker: worker != server) == lost
        for study_id in lost:
            del self.holder[study_id]
            self.state[study_id] = {"run": "queued", "pause": "paused", "stop": "stopped"}[self.wanted[study_id]]

    @invariant()
    def is_as_the_model_says(self) -> None:
        found = {each.study_id: each for each in launches.list_launches(self.store)}
        assert {study_id: each.state for study_id, each in found.items()} == self.state
        held = {study_id: each.worker for study_id, each in found.items() if each.worker is not None}
        assert held == self.holder
        assert all((each.ended_at is not None) == (each.state in OVER) for each in found.values())

    @invariant()
    def no_limit_is_overrun(self) -> None:
        found = launches.list_launches(self.store, ["running"])
        assert sum(map(places_of, found)) <= 4
        assert sum(places_of(each) * each.devices for each in found) <= 6
        assert sum(places_of(each) for each in found if each.place == "server") <= 3
        for owner in ("ann", "bob"):
            assert sum(places_of(each) for each in found if each.owner == owner) <= 3


def _all_studies(store: Store) -> list[Any]:
    from storage import history

    return history.list_studies(store)


def test_whatever_is_wanted_in_whatever_order_the_queue_and_its_limits_hold(sqlite_store: Store) -> None:
    for number in range(len(STUDIES)):
        make_study(sqlite_store, f"study/{number}")
    started = time.monotonic()
    examples = settings(max_examples=25, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(lambda: Queue(sqlite_store), settings=examples)
    assert time.monotonic() - started < 60.0
