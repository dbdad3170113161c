"""Whose turn it is: by priority, fairly among owners, within limits that hold whoever asks at the same moment."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import SettingsError
from hpo.service.limits import Limits
from hpo.service.turns import Gate, Round, order_of, places_of
from storage import launches, studies
from storage.database import Store
from storage.launches import Launch
from storage.load import Asked, Load, current_load, room_within

NO_LIMITS = Limits(trials_on_server=None)


def study(number: int, owner: str = "ann", **options: Any) -> Launch:
    known: dict[str, Any] = {
        "study_id": number,
        "study": f"study/{number}",
        "owner": owner,
        "state": "running",
        "wanted": "run",
        "place": "workers",
        "priority": 0,
        "jobs": 1,
        "devices": 1,
        "settings": {},
        "message": None,
        "worker": None,
        "deaths": 0,
        "trials": 0,
        "requested_at": datetime.fromtimestamp(number, UTC),
        "started_at": None,
        "ended_at": None,
    }
    return Launch(**known | options)


def queued(number: int, owner: str = "ann", **options: Any) -> Launch:
    return study(number, owner, **{"state": "queued", "place": "server", **options})


def round_of(found: Sequence[Launch], limits: Limits, *asked: Asked, asker: str | None = None) -> Round:
    return Round(Load(launches=found, asked=asked), limits, asker=asker)


def why_waiting(study_id: int, found: Sequence[Launch], limits: Limits) -> str | None:
    return round_of(found, limits).why_waiting(study_id)


def fill(found: Sequence[Launch], limits: Limits, places: int) -> list[Launch]:
    """The studies after so many places were given, each to the first whose turn it is."""
    found = list(found)
    for _ in range(places):
        for launch in order_of(found):
            if why_waiting(launch.study_id, found, limits) is None and launch.place == "workers":
                position = found.index(launch)
                found[position] = replace(launch, trials=launch.trials + 1)
                break
    return found


def test_owners_share_fairly_however_many_studies_each_has() -> None:
    found = [*(study(number, "ann") for number in range(5)), study(9, "bob"), study(10, "eve")]
    given = Counter[str]()
    for launch in fill(found, NO_LIMITS, 12):
        given[launch.owner] += launch.trials
    assert given == {"ann": 4, "bob": 4, "eve": 4}


def test_the_studies_of_one_owner_share_fairly_too_and_priority_goes_first() -> None:
    equal = fill([study(1), study(2), study(3)], NO_LIMITS, 9)
    assert [launch.trials for launch in equal] == [3, 3, 3]
    urgent = fill([study(1), study(2, priority=1)], replace(NO_LIMITS, trials=5), 9)
    assert [launch.trials for launch in urgent] == [0, 5]


def test_who_is_at_his_own_limit_is_passed_over() -> None:
    limits = replace(NO_LIMITS, trials=6, trials_per_owner=2)
    found = fill([study(1, "ann", priority=9), study(2, "bob")], limits, 9)
    assert [launch.trials for launch in found] == [2, 2]
    assert why_waiting(1, found, limits) == "ann's limit of 2 trials at once is reached"


def test_a_large_study_is_not_starved_by_small_ones_behind_it() -> None:
    limits = replace(NO_LIMITS, trials=4)
    running = study(1, trials=2)
    large, small = queued(2, "bob", jobs=3), study(3, "ann")
    found = [running, large, small]
    assert why_waiting(2, found, limits) == "the limit of 4 trials at once is reached"
    for puller in (1, 3):  # two places are free, and kept for it
        reason = "the limit of 4 trials at once is reached, and study 'study/2' is first"
        assert why_waiting(puller, found, limits) == reason
    assert why_waiting(2, [replace(running, trials=1), large, small], limits) is None


def test_a_study_that_can_never_start_or_waits_for_its_owner_keeps_no_places() -> None:
    limits = replace(NO_LIMITS, trials=4, trials_per_owner=3)
    never = queued(1, "bob", jobs=9, priority=5)
    at_its_limit = [study(2, "eve", trials=2), queued(3, "eve", jobs=2, priority=5)]
    found = [never, *at_its_limit, study(4, "ann")]
    assert why_waiting(1, found, limits) == "bob's limit is 3 trials at once, and it needs 9"
    assert why_waiting(3, found, limits) == "eve's limit of 3 trials at once is reached"
    assert why_waiting(4, found, limits) is None


def test_devices_count_on_all_machines_and_the_servers_places_are_its_own() -> None:
    limits = Limits(devices=8, trials_on_server=2)
    found = [study(1, trials=2, devices=3), study(2, devices=3), study(3, devices=2)]
    assert why_waiting(2, found, limits) == "the limit of 8 devices at once is reached"
    assert why_waiting(3, found, limits) is None
    here = [queued(4, jobs=2, state="running"), queued(5), queued(6, settings={"executor": "ray"}), study(7)]
    assert why_waiting(5, here, limits) == "the limit of 2 trials at once on the server itself is reached"
    assert why_waiting(6, here, limits) is None
    assert why_waiting(7, here, limits) is None


@given(
    st.lists(
        st.builds(
            lambda owner, place, jobs, trials, priority, runs: (owner, place, jobs, trials, priority, runs),
            st.sampled_from(["ann", "bob", "eve"]),
            st.sampled_from(["server", "workers"]),
            st.integers(1, 4),
            st.integers(0, 3),
            st.integers(-1, 1),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(4, 12),
)
def test_where_places_are_free_somebody_may_take_them(drawn: list[Any], limit: int) -> None:
    """No deadlock: where every study fits by itself, and nobody may go on, the places that are left do not suffice."""
    found = [
        study(number, owner, place=place, jobs=jobs, trials=trials if place == "workers" else 0, priority=priority,
              state="running" if runs or place == "workers" else "queued")
        for number, (owner, place, jobs, trials, priority, runs) in enumerate(drawn)
    ]  # fmt: skip
    limits = replace(NO_LIMITS, trials=limit)
    wanting = [each for each in order_of(found) if each.state == "queued" or each.place == "workers"]
    if wanting and all(why_waiting(each.study_id, found, limits) for each in wanting):
        first = wanting[0]
        needs = first.jobs if first.place == "server" else 1
        assert sum(map(places_of, found)) + needs > limit


def test_a_limit_is_never_overrun_by_servers_that_share_a_history(store: Store) -> None:
    """Two of them, with four threads each; a study of ann's and one of bob's, and one that nobody launched."""
    ids = []
    for owner in ("ann", "bob", "nobody"):
        ids.append(studies.create_study(store, name=owner, task="digits", metric="val_loss"))
    for owner, study_id in zip(("ann", "bob"), ids, strict=False):
        launches.request_launch(store, study_id, owner=owner, place="workers")
    limits = Limits(trials=7, trials_per_owner=3)
    servers = [store, Store(store.url)]

    def pull(number: int) -> bool:
        study_id, asker = ids[number % 3], ("x", "x", "bob")[number % 3]
        server, gate = servers[number % 2], Gate(limits, study_id, asker)
        claim = studies.claim_trial(
            server,
            study_id,
            worker=f"{asker}/w{number}",
            lease_seconds=60,
            max_trials=None,
            may_start=gate.within(server),
        )
        assert (claim is None) == gate.is_refused
        return claim is not None

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(pull, range(48))) == 6  # three of ann's, and three of bob's
    load = current_load(store)
    taken = {launch.owner: launch.trials for launch in load.launches}
    asked = {each.owner: each.trials for each in load.asked}
    assert (taken["ann"], taken["bob"] + asked.get("bob", 0)) == (3, 3)
    queued_id = studies.create_study(store, name="queued", task="digits", metric="val_loss")
    launches.request_launch(store, queued_id, owner="eve", place="server", jobs=2)
    turns = Round(current_load(store), Limits(trials=7, trials_on_server=None))  # six trials run
    assert {launch.study for launch in turns.launches} == {"ann", "bob", "queued"}
    assert "limit of 7 trials" in (turns.why_waiting(queued_id) or "")
    assert {share.owner: share.trials for share in turns.shares} == {"ann": 3, "bob": 3, "eve": 0}

    def fits(load: Load) -> bool:
        return Round(load, Limits(trials=limit, trials_on_server=None)).why_waiting(queued_id) is None

    for limit in (7, 8):
        room = room_within(store, fits)
        taken_up = launches.take_up(store, queued_id, worker="a server", lease_seconds=60, may_start=room)
        assert taken_up == (limit == 8)
    launches.give_back(store, queued_id, worker="a server", message="it ends")
    launches.want(store, queued_id, "stop")
    for asker, limit, is_open in (("eve", 6, False), ("eve", 7, True), ("ann", 9, False)):
        assert Gate(Limits(trials=limit, trials_per_owner=3), ids[2], asker).is_open(store) == is_open
    servers[1].dispose()


@pytest.mark.parametrize("wanted", ["pause", "stop", "done"])
def test_what_workers_still_have_of_a_study_that_is_not_launched_any_more_counts(store: Store, wanted: Any) -> None:
    first, second = (studies.create_study(store, name=name, task="digits", metric="val_loss") for name in ("a", "b"))
    launches.request_launch(store, first, owner="ann", place="workers", devices=2)
    launches.request_launch(store, second, owner="bob", place="workers")
    limits = Limits(devices=5, trials_per_owner=9)

    def pull(study_id: int, owner: str) -> bool:
        gate = Gate(limits, study_id, owner)
        claim = studies.claim_trial(
            store, study_id, worker=f"{owner}/w", lease_seconds=60, max_trials=None, may_start=gate.within(store)
        )
        return claim is not None

    assert [pull(first, "ann") for _ in range(3)] == [True, True, False]
    if wanted == "done":
        launches.finish(store, first, state="done", message="its budget is spent", worker=None)
    else:
        launches.want(store, first, wanted)
    assert current_load(store).asked == [Asked(owner="ann", trials=2, devices=4)]
    assert [pull(second, "bob") for _ in range(3)] == [True, False, False]
    if wanted == "pause":
        launches.want(store, first, "run")
        assert current_load(store).asked == []
        assert not pull(first, "ann")


def test_programs_that_ask_stand_in_line_as_a_study_of_their_owners_that_was_requested_last() -> None:
    limits = replace(NO_LIMITS, trials=5, devices_per_owner=4)
    found, asked = [study(1, "ann", trials=1)], Asked(owner="ann", trials=2, devices=2)
    assert round_of(found, limits, asked, asker="ann").why_not_asked("ann") is None
    assert round_of(found, limits, asked, asker="bob").why_not_asked("bob") is None
    behind = [*found, queued(2, "eve", jobs=2)]  # has as few as bob, and was requested before he asks
    reason = round_of(behind, limits, asked, asker="bob").why_not_asked("bob")
    assert reason == "the limit of 5 trials at once is reached, and study 'study/2' is first"
    more = replace(asked, devices=3)
    assert round_of(found, limits, more, asker="ann").why_not_asked("ann") == (
        "ann's limit of 4 devices at once is reached"
    )
    assert round_of([], replace(limits, trials=2), asked, asker="bob").why_not_asked("bob") == (
        "the limit of 2 trials at once is reached"
    )


def test_a_long_queue_is_asked_through_at_once() -> None:
    """1,000 studies, of which none fits: 0.05 s here, where each asked for itself took minutes."""
    many = [study(number, state="running", place="server") for number in range(4)]
    many += [queued(number, f"user {number % 7}", jobs=2) for number in range(4, 1_004)]
    limits = Limits(trials=5_000, trials_per_owner=2_000, devices=5_000, trials_on_server=5)
    began = time.perf_counter()
    turns = round_of(many, limits)
    reasons = Counter(turns.why_waiting(launch.study_id) for launch in turns.launches)
    assert time.perf_counter() - began < 2.0
    assert reasons == {None: 4, "the limit of 5 trials at once on the server itself is reached": 1_000}


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"limits.devices = 0 is not at least 1"):
        Limits(devices=0)
