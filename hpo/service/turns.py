"""Which study's turn is it, and may another trial start? By priority, fairly among owners, within the limits.

Studies on the server count with all their places (`jobs`), for they fill them by themselves; studies whose trials
workers pull count with the trials that run. Of two studies of one priority that one goes first whose owner has fewer
places taken, then the one that has fewer itself, then the one that was requested first. Who is at his own limit is
passed over; who waits for the limit of all is not overtaken by those behind him, or large studies would wait for ever.

Programs that ask for trials of a study that was not launched for workers stand in line as one study of their owner's,
with one device a trial, and come last among equals. What workers still have of a study that is not launched any more
counts for their owner, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo.service.limits import Limits
from storage.database import Store
from storage.launches import Launch, MayStart
from storage.load import Load, current_load, room_within
from storage.privacy import current


def order_of(launches: Sequence[Launch]) -> list[Launch]:
    """Studies in the order of their turns, by what all of these have running now."""
    return [each.launch for each in _in_order(map(_of_launch, launches)) if each.launch is not None]


def places_of(launch: Launch) -> int:
    """How many trials of a study count as running."""
    if launch.state != "running":
        return 0
    return launch.jobs if launch.place == "server" else launch.trials


def is_trained_here(launch: Launch) -> bool:
    """Whether its trials take the processors of the server itself."""
    return launch.place == "server" and launch.settings.get("executor", "local") == "local"


@dataclass(frozen=True, kw_only=True)
class Share:
    """What an owner has of all places, whether his studies were launched or programs ask for their trials."""

    owner: str
    trials: int
    devices: int
    studies: int  # of his that are queued or running


class Round:
    """Who has, or waits for, places at one moment, by whose turn it is.

    What is taken, and kept for others, is added up once, so that asking about all of a long queue is quick.
    """

    def __init__(self, load: Load, limits: Limits, *, asker: str | None = None) -> None:
        """asker: whose programs ask for a trial of a study that was not launched; None: nobody's."""
        line = [*map(_of_launch, load.launches), *_of_asked(load, asker)]
        self._line = _in_order(line)
        self._bounds = _bounds(limits)
        self._used: Counter[tuple[_Bound, str]] = Counter()
        for bound in self._bounds:
            for each in line:
                if bound.counts(each):
                    self._used[bound, bound.whose(each)] += bound.taken(each)
        self._kept: dict[tuple[_Bound, bool], list[_Kept]] = {}
        self._position = {
            each.launch.study_id: position for position, each in enumerate(self._line) if each.launch is not None
        }

    @property
    def launches(self) -> list[Launch]:
        """The studies that are queued or running, in the order of their turns."""
        return [each.launch for each in self._line if each.launch is not None]

    @property
    def shares(self) -> list[Share]:
        """What each owner has, who has most first."""
        owners = dict.fromkeys(each.owner for each in self._line)
        found = [_share(owner, [each for each in self._line if each.owner == owner]) for owner in owners]
        return sorted(found, key=lambda share: (-share.trials, share.owner))

    def why_waiting(self, study_id: int) -> str | None:
        """Why a launched study may take no more places now, in words; None: it may."""
        position = self._position.get(study_id)
        if position is None:
            return "it is neither queued nor running"
        launch = self._line[position].launch
        if launch is not None and launch.state == "running" and launch.place == "server":
            return None  # it has all its places
        return self._why_not_at(position)

    def why_not_asked(self, owner: str) -> str | None:
        """Why the programs of this owner, who asks, may be given no other trial now; None: they may."""
        return self._why_not_at(
            next(at for at, each in enumerate(self._line) if each.launch is None and each.owner == owner)
        )

    def _why_not_at(self, position: int) -> str | None:
        one = self._line[position]
        own = next((reason for each in self._bounds if each.is_of_owner and (reason := self._why_not(each, one))), None)
        if own is not None:
            return own
        for bound in self._bounds:
            if not bound.is_of_owner and bound.counts(one):
                if (reason := self._why_not(bound, one)) is not None:
                    return reason
                kept = self._kept_ahead(bound, one.is_here)[position]
                if (reason := self._why_not(bound, one, kept.places)) is not None:
                    return f"{reason}, and study {kept.first!r} is first"
        return None

    def _why_not(self, bound: _Bound, one: _InLine, kept: int = 0) -> str | None:
        return bound.why_not(one, self._used[bound, bound.whose(one)] + kept)

    def _kept_ahead(self, bound: _Bound, is_here: bool) -> list[_Kept]:
        """For each place in the line: what is kept for those ahead of it. is_here: of one who is trained here."""
        if (bound, is_here) not in self._kept:
            kept, found = _Kept(places=0, first=None), []
            for each in self._line:
                found.append(kept)
                launch = each.launch
                waits = launch is not None and launch.state == "queued" and launch.wanted == "run"
                if launch is not None and waits and bound.counts(each) and self._waits_like(is_here, each):
                    kept = _Kept(places=kept.places + bound.needs(each), first=kept.first or launch.study)
            self._kept[bound, is_here] = found
        return self._kept[bound, is_here]

    def _waits_like(self, is_here: bool, other: _InLine) -> bool:
        """Whether one waits for limits that another who is trained here, or not, is under too: not for its owner's, nor
        for one it never meets.
        """
        if any(bound.why_not(other, 0) for bound in self._bounds if bound.counts(other)):
            return False
        others = [bound for bound in self._bounds if bound.is_of_owner or (bound.is_of_server and not is_here)]
        return not any(self._why_not(bound, other) for bound in others if bound.counts(other))


class Gate:
    """Whether one more trial of a study may be given to a worker, as often as that is asked; safe for one thread."""

    def __init__(self, limits: Limits, study_id: int, asker: str) -> None:
        """asker: whose the worker is that is to have the trial."""
        self._limits, self._study_id, self._asker = limits, study_id, asker
        self.is_refused = False  # the last time that it was asked

    def is_open(self, store: Store) -> bool:
        """Whether it may be by all that runs at this moment; nothing is kept for us."""
        return self._limits.are_of_server_only or self._is_open(current_load(store))

    def within(self, store: Store) -> MayStart | None:
        """The same, exact whichever servers share the history, for the transaction that claims it; None: it may be."""
        return None if self._limits.are_of_server_only else room_within(store, self._is_open)

    def _is_open(self, load: Load) -> bool:
        turns = Round(load, self._limits, asker=self._asker)
        if any(launch.study_id == self._study_id and launch.place == "workers" for launch in load.launches):
            reason = turns.why_waiting(self._study_id)
        else:
            reason = turns.why_not_asked(self._asker)
        self.is_refused = reason is not None
        return not self.is_refused


# How it is done


@dataclass(frozen=True, kw_only=True)
class _InLine:
    """Who has places, or waits for some: a launched study, or the programs of an owner that ask without one."""

    launch: Launch | None
    owner: str
    trials: int  # that it has
    devices: int  # that these have
    more: int = 1  # trials that it takes at once
    devices_each: int = 1

    @property
    def is_here(self) -> bool:
        """Whether the server itself trains it."""
        return self.launch is not None and is_trained_here(self.launch)

    @property
    def rank(self) -> tuple[float, ...]:
        """The smaller, the sooner, among those whose owners have as much."""
        if self.launch is None:
            return self.trials, math.inf, math.inf
        return self.trials, self.launch.requested_at.timestamp(), self.launch.study_id


def _share(owner: str, line: Sequence[_InLine]) -> Share:
    return Share(
        owner=owner,
        trials=sum(each.trials for each in line),
        devices=sum(each.devices for each in line),
        studies=sum(each.launch is not None for each in line),
    )


def _of_launch(launch: Launch) -> _InLine:
    places = places_of(launch)
    return _InLine(
        launch=launch,
        owner=launch.owner,
        trials=places,
        devices=places * launch.devices,
        more=launch.jobs if launch.place == "server" else 1,
        devices_each=launch.devices,
    )


def _of_asked(load: Load, asker: str | None) -> list[_InLine]:
    """The owners whose programs have trials that no launch counts, and who asks."""
    askers = [] if asker is None else [asker]
    known = {current().user(owner): owner for owner in (*askers, *(launch.owner for launch in load.launches))}
    trials, devices = Counter(dict.fromkeys(askers, 0)), Counter[str]()
    for asked in load.asked:
        owner = known.get(asked.owner, asked.owner)
        trials[owner] += asked.trials
        devices[owner] += asked.devices
    return [_InLine(launch=None, owner=owner, trials=trials[owner], devices=devices[owner]) for owner in trials]


def _in_order(line: Iterable[_InLine]) -> list[_InLine]:
    line = list(line)
    owners: Counter[str] = Counter()
    for each in line:
        owners[each.owner] += each.trials

    def turn(one: _InLine) -> tuple[float, ...]:
        return -one.launch.priority if one.launch is not None else 0, owners[one.owner], *one.rank

    return sorted(line, key=turn)


@dataclass(frozen=True, kw_only=True)
class _Bound:
    limit: int
    unit: str  # trials or devices
    is_of_owner: bool = False
    is_of_server: bool = False

    def counts(self, one: _InLine) -> bool:
        return not self.is_of_server or one.is_here

    def whose(self, one: _InLine) -> str:
        """Whose places are counted: those of its owner, or everybody's."""
        return one.owner if self.is_of_owner else ""

    def why_not(self, one: _InLine, taken: int) -> str | None:
        """Why it does not fit beside what is taken, or kept for others; None: it does."""
        needs = self.needs(one)
        if taken + needs <= self.limit:
            return None
        whose = f"{one.owner}'s limit" if self.is_of_owner else "the limit"
        where = " on the server itself" if self.is_of_server else ""
        if needs > self.limit:
            return f"{whose} is {self.limit} {self.unit} at once{where}, and it needs {needs}"
        return f"{whose} of {self.limit} {self.unit} at once{where} is reached"

    def taken(self, one: _InLine) -> int:
        """What it has."""
        return one.devices if self.unit == "devices" else one.trials

    def needs(self, one: _InLine) -> int:
        """What it takes at once."""
        return one.more * one.devices_each if self.unit == "devices" else one.more


@dataclass(frozen=True, kw_only=True)
class _Kept:
    places: int  # or devices
    first: str | None  # the study that they are kept for first


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
