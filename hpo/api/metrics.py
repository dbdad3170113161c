"""What does a monitoring system see? Latencies as they are observed, and the store counted whenever it is asked.

The registry belongs to one application. Counting trials reads their whole table, so it is done again only when that
took less than a twentieth of the time since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hpo.api.wire import RECEIPT_ATTRIBUTE
from hpo.service.state import Service
from storage import counts
from storage.errors import StorageError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARE_OF_TIME = 0.05  # that counting trials may take
LOOK_BACK = 1_000  # trials whose receipts may come later than those of younger ones


class Metrics:
    """The figures of one application. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "hindsight_request_seconds",
            "Time until a request was answered.",
            ["method", "route", "status"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.in_flight = Gauge("hindsight_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.registry.register(_Store(service))


class _Store(Collector):
    """What the store holds, counted when it is asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._trials: Mapping[str, int] = {}
        self._count_again_at = 0.0
        self._suggestions = Histogram(
            "hindsight_suggestion_seconds",
            "Time that a proposal took, in the server or a study's process.",
            registry=None,  # it is told by `collect`, once the store was asked
            buckets=SECONDS,
        )
        self._newest: int | None = None
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not ask the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures; without those of the store where it cannot be reached."""
        with self._lock:
            try:
                found = list(self._count())
            except StorageError:
                found = []
        yield GaugeMetricFamily("hindsight_store_up", "Whether the store can be reached.", value=bool(found))
        yield from found
        yield from self._suggestions.collect()
        parts = GaugeMetricFamily("hindsight_part_up", "Whether a part of the service is well.", labels=["part"])
        for name, why_not in self._service.parts.items():
            parts.add_metric([name], why_not() is None)
        yield parts

    def _count(self) -> Iterator[Metric]:
        self._observe_suggestions()
        waiting = counts.count_waiting(self._service.store)
        yield _by_state("hindsight_trials", "Trials of the history, imported ones included.", self._count_trials())
        yield _by_state("hindsight_launches", "Studies that the service runs.", waiting.launches)
        yield _by_state("hindsight_background_jobs", "Imports, replays and exports.", waiting.jobs)
        yield GaugeMetricFamily("hindsight_workers", "Machines that pull trials.", value=waiting.machines)
        yield GaugeMetricFamily(
            "hindsight_outbox_messages", "Messages that MLflow has yet to take.", value=waiting.messages
        )

    def _count_trials(self) -> Mapping[str, int]:
        started = time.monotonic()
        if started >= self._count_again_at:
            self._trials = counts.count_trials(self._service.store)
            now = time.monotonic()
            self._count_again_at = now + (now - started) / SHARE_OF_TIME
        return self._trials

    def _observe_suggestions(self) -> None:
        """Those of the trials that were made since the first time somebody asked."""
        store, is_first = self._service.store, self._newest is None
        after = counts.newest_trial(store) if self._newest is None else self._newest
        found = counts.proposal_seconds(store, receipt=RECEIPT_ATTRIBUTE, after=max(0, after - LOOK_BACK))
        for trial in found.keys() - self._seen if not is_first else ():
            self._suggestions.observe(found[trial])
        self._newest = max([after, *found])
        self._seen = {trial for trial in self._seen | found.keys() if trial > self._newest - LOOK_BACK}


def _by_state(name: str, what: str, counted: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=["state"])
    for state, count in sorted(counted.items()):
        family.add_metric([state], count)
    return family
