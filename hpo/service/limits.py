"""Which study's turn is it, and may another trial start? By priority, fairly among owners, within the limits.

Studies on the server count with all their places (`jobs`), for they fill them by themselves; studies whose trials
workers pull count with the trials that run. Of two studies of one priority that one goes first whose owner has fewer
places taken, then the one that has fewer itself, then the one that was requested first. Who is at his own limit is
passed over; who waits for the limit of all is not overtaken by those behind him, or large studies would wait for ever.

Programs that ask for trials of a study that was not launched for workers are bounded like a study of their owner's with
one device a trial, and come last among equals.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hpo.errors import SettingsError
from storage.database import Store
from storage.launches import Launch
from storage.load import Load, current_load
from storage.privacy import current


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may run at once; None is no limit. Raises SettingsError for one below 1."""

    trials: int | None = None  # of all studies, on the server and on workers
    devices: int | None = None  # that these trials have, each on all its machines
    trials_per_owner: int | None = None
    devices_per_owner: int | None = None
    trials_on_server: int | None = field(default_factory=os.cpu_count)  # that train on this machine itself

    def __post_init__(self) -> None:
        for name in ("trials", "devices", "trials_per_owner", "devices_per_owner", "trials_on_server"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise SettingsError(f"limits.{name} = {limit} is not at least 1; leave it out for no limit")

    @property
    def are_of_server_only(self) -> bool:
        """Whether nothing bounds the trials of workers."""
        return self.trials is self.devices is self.trials_per_owner is self.devices_per_owner is None


def order_of(launches: Sequence[Launch]) -> list[Launch]:
    """Studies in the order of their turns, by what all of these have running now."""
    owners: Counter[str] = Counter()
    for launch in launches:
        owners[launch.owner] += places_of(launch)

    def turn(launch: Launch) -> tuple[float, ...]:
        requested = launch.requested_at.timestamp()
        return -launch.priority, owners[launch.owner], places_of(launch), requested, launch.study_id

    return sorted(launches, key=turn)


class Round:
    """The studies that are queued or running at one moment, by whose turn it is.

    What is taken, and kept for others, is added up once, so that asking about all of a long queue is quick.
    """

    def __init__(self, launches: Sequence[Launch], limits: Limits) -> None:
        self.ordered = order_of(launches)
        self._position = {launch.study_id: position for position, launch in enumerate(self.ordered)}
        self._bounds = _bounds(limits)
        self._used: Counter[tuple[_Bound, str]] = Counter()
        for launch in launches:
            for bound in self._bounds:
                if bound.counts(launch):
                    self._used[bound, bound.whose(launch)] += places_of(launch) * bound.weight(launch)
        self._kept: dict[tuple[_Bound, bool], list[_Kept]] = {}

    @property
    def launched(self) -> list[Launch]:
        """Those that somebody launched, without what stands for asked trials."""
        return [launch for launch in self.ordered if launch.study_id > 0]

    def why_waiting(self, study_id: int) -> str | None:
        """Why a study may take no more places now, in words; None: it may."""
        position = self._position.get(study_id)
        if position is None:
            return "it is neither queued nor running"
        launch = self.ordered[position]
        if launch.state == "running" and launch.place == "server":
            return None  # it has all its places
        own = next(
            (reason for each in self._bounds if each.is_of_owner and (reason := self._why_not(each, launch))), None
        )
        if own is not None:
            return own
        for bound in self._bounds:
            if not bound.is_of_owner and bound.counts(launch):
                if (reason := self._why_not(bound, launch)) is not None:
                    return reason
                kept = self._kept_ahead(bound, is_trained_here(launch))[position]
                if (reason := self._why_not(bound, launch, kept.places)) is not None:
                    return f"{reason}, and study {kept.first!r} is first"
        return None

    def _why_not(self, bound: _Bound, launch: Launch, kept: int = 0) -> str | None:
        return bound.why_not(launch, self._used[bound, bound.whose(launch)] + kept)

    def _kept_ahead(self, bound: _Bound, is_here: bool) -> list[_Kept]:
        """For each place in the order: what is kept for those ahead of it. is_here: of one who is trained here."""
        if (bound, is_here) not in self._kept:
            kept, found = _Kept(places=0, first=None), []
            for launch in self.ordered:
                found.append(kept)
                waits = launch.state == "queued" and launch.wanted == "run" and bound.counts(launch)
                if waits and self._waits_like(is_here, launch):
                    more = _needs(launch) * bound.weight(launch)
                    kept = _Kept(places=kept.places + more, first=kept.first or launch.study)
            self._kept[bound, is_here] = found
        return self._kept[bound, is_here]

    def _waits_like(self, is_here: bool, other: Launch) -> bool:
        """Whether a study waits for limits that one who is trained here, or not, is under too: not for its owner's, nor
        for one it never meets.
        """
        if any(bound.why_not(other, 0) for bound in self._bounds if bound.counts(other)):
            return False
        others = [bound for bound in self._bounds if bound.is_of_owner or (bound.is_of_server and not is_here)]
        return not any(self._why_not(bound, other) for bound in others if bound.counts(other))


def why_waiting(study_id: int, launches: Sequence[Launch], limits: Limits) -> str | None:
    """As `Round.why_waiting`, of one study. launches: all that are queued or running."""
    return Round(launches, limits).why_waiting(study_id)


def places_of(launch: Launch) -> int:
    """How many trials of a study count as running."""
    if launch.state != "running":
        return 0
    return launch.jobs if launch.place == "server" else launch.trials


def has_room(load: Load, study_id: int, limits: Limits) -> bool:
    """Whether a study in the queue may start, beside all that runs, asked trials included."""
    return round_of(load, limits).why_waiting(study_id) is None


def round_of(load: Load, limits: Limits) -> Round:
    """The studies that are queued or running, beside the trials that programs ask for without a launch."""
    return Round([*load.launches, *_asked(load)], limits)


class Place:
    """Whether one more trial of a study may start, as often as that is asked; safe for one thread.

    Asked within the transaction that claims the trial it is exact, whichever servers share the history.
    """

    def __init__(self, limits: Limits, study_id: int, asker: str) -> None:
        """asker: whose the worker is that is to have the trial."""
        self._limits, self._study_id, self._asker = limits, study_id, asker
        self.is_refused = False  # the last time that it was asked

    def may_start(self, load: Load) -> bool:
        """Whether it may, beside all that runs."""
        if self._limits.are_of_server_only:
            return True
        asked = _asked(load, self._asker)  # also where he has none yet
        study_id = self._study_id
        if not any(launch.study_id == study_id and launch.place == "workers" for launch in load.launches):
            study_id = next(launch.study_id for launch in asked if launch.owner == self._asker)
        self.is_refused = why_waiting(study_id, [*load.launches, *asked], self._limits) is not None
        return not self.is_refused

    def is_free(self, store: Store) -> bool:
        """As `may_start`, by all that runs at this moment; nothing is kept for us."""
        return self._limits.are_of_server_only or self.may_start(current_load(store))


def _asked(load: Load, *askers: str) -> list[Launch]:
    """For each owner whose programs have trials that no launch counts, and for who asks, what counts as his study."""
    known = {current().user(owner): owner for owner in (*askers, *(launch.owner for launch in load.launches))}
    trials = Counter(dict.fromkeys(askers, 0))
    for owner, running in load.asked.items():
        trials[known.get(owner, owner)] += running
    return [_as_launch(-place, owner, running) for place, (owner, running) in enumerate(trials.items(), start=1)]


def _as_launch(study_id: int, owner: str, trials: int) -> Launch:
    return Launch(
        study_id=study_id,
        study=f"what {owner} asked for",
        owner=owner,
        state="running",
        wanted="run",
        place="workers",
        priority=0,
        jobs=1,
        devices=1,
        settings={},
        message=None,
        worker=None,
        deaths=0,
        trials=trials,
        requested_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
    )


@dataclass(frozen=True, kw_only=True)
class _Bound:
    limit: int
    unit: str  # trials or devices
    is_of_owner: bool = False
    is_of_server: bool = False

    def counts(self, launch: Launch) -> bool:
        return not self.is_of_server or is_trained_here(launch)

    def whose(self, launch: Launch) -> str:
        """Whose places are counted: those of its owner, or everybody's."""
        return launch.owner if self.is_of_owner else ""

    def why_not(self, launch: Launch, taken: int) -> str | None:
        """Why the study does not fit beside what is taken, or kept for others; None: it does."""
        needs = _needs(launch) * self.weight(launch)
        if taken + needs <= self.limit:
            return None
        whose = f"{launch.owner}'s limit" if self.is_of_owner else "the limit"
        where = " on the server itself" if self.is_of_server else ""
        if needs > self.limit:
            return f"{whose} is {self.limit} {self.unit} at once{where}, and it needs {needs}"
        return f"{whose} of {self.limit} {self.unit} at once{where} is reached"

    def weight(self, launch: Launch) -> int:
        """How much one of its places takes."""
        return launch.devices if self.unit == "devices" else 1


@dataclass(frozen=True, kw_only=True)
class _Kept:
    places: int  # or devices
    first: str | None  # the study that they are kept for first


def is_trained_here(launch: Launch) -> bool:
    """Whether its trials take the processors of the server itself."""
    return launch.place == "server" and launch.settings.get("executor", "local") == "local"


def _needs(launch: Launch) -> int:
    """How many places it takes at once."""
    return launch.jobs if launch.place == "server" else 1


def _bounds(limits: Limits) -> list[_Bound]:
    given = [
        (limits.trials_per_owner, "trials", True, False),
        (limits.devices_per_owner, "devices", True, False),
        (limits.trials, "trials", False, False),
        (limits.devices, "devices", False, False),
        (limits.trials_on_server, "trials", False, True),
    ]
    return [
        _Bound(limit=limit, unit=unit, is_of_owner=of_owner, is_of_server=of_server)
        for limit, unit, of_owner, of_server in given
        if limit is not None
    ]
