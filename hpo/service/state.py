"""What a running service has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from hpo.running.executors import HERE, Placement
from hpo.service.calculations import Calculations
from hpo.service.desk import Desk
from hpo.service.events import StudyEvents
from hpo.service.limits import Limits
from storage.database import Store
from storage.distributions import ParameterSets


@dataclass(frozen=True, kw_only=True)
class Service:
    """The places that a service works with; every route gets this."""

    store: Store
    mlflow_uri: str | None  # where studies are followed; None: nowhere
    runs: Path  # checkpoints and outputs of the trials that run here
    projects: Path  # the folder whose modules studies may train, and from which their files are read
    mlflow_upstream: str | None = None  # where the MLflow UI listens, that is shown under /mlflow; None: there is none
    is_secure: bool = False  # whether browsers reach it by https
    hosts: frozenset[str] | None = None  # the names that requests may be addressed to; None: any
    has_open_metrics: bool = False  # whether /metrics is told to whoever asks
    parts: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)  # why each is not well; None: it is
    calculations: Calculations = field(default_factory=Calculations)  # answers to slow questions about the past
    known_sets: ParameterSets = field(default_factory=ParameterSets)  # what trials are made of, once read
    desk: Desk = field(init=False)  # hands out trials to whoever trains them elsewhere

    def __post_init__(self) -> None:
        object.__setattr__(self, "desk", Desk(self.store, limits=self.limits))

    packages: frozenset[str] = frozenset()  # installed ones whose code studies may train, beside that of the projects
    import_hosts: frozenset[str] = frozenset()  # NAME or NAME:PORT from which past runs may be imported
    placement: Placement = HERE  # of the trials of studies on the server, where a study does not say
    limits: Limits = field(default_factory=Limits)
    called: Event = field(default_factory=Event)  # there is something to do for the supervisor at once
    ending: Event = field(default_factory=Event)  # the service is to end: streams of events end, too
    events: StudyEvents = field(default_factory=StudyEvents)  # what happens in studies, for who follows them
