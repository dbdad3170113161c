"""How does a study stand, in one word, and what may be done with it?"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from hpo.tuning.receipts import OWN_SOURCES
from storage.history import StudySummary
from storage.launches import ACTIVE, OVER, Launch

STATES = ("running", "queued", "paused", "done", "stopped", "failed", "idle", "imported")
SHOWN_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A study with its launch, if the service runs it."""

    study: StudySummary
    launch: Launch | None

    @property
    def state(self) -> str:
        """One of STATES: that of the launch, else what its trials say."""
        if self.launch is not None:
            return self.launch.state
        if self.study.counts[TrialState.RUNNING]:
            return "running"
        return "idle" if self.study.source in OWN_SOURCES else "imported"

    @property
    def owner(self) -> str | None:
        """Who launched it."""
        return None if self.launch is None else self.launch.owner

    @property
    def finished(self) -> int:
        """Trials that have ended."""
        return sum(self.study.counts[state] for state in SHOWN_FINISHED)

    @property
    def budget(self) -> int | None:
        """The trials that its file allows; None where it says nothing."""
        spec = self.study.spec or {}
        trials = spec.get("budget", {}).get("trials")
        return trials if isinstance(trials, int) else None

    @property
    def is_live(self) -> bool:
        """Whether anything is going to change by itself."""
        return self.state in ACTIVE or self.study.counts[TrialState.RUNNING] > 0

    @property
    def may_pause(self) -> bool:
        """It is on its way, and nobody has asked it to halt."""
        return self.launch is not None and self.launch.state in ACTIVE and self.launch.wanted == "run"

    @property
    def may_resume(self) -> bool:
        """It is paused, or about to be."""
        return self.launch is not None and (self.launch.state == "paused" or self.launch.wanted == "pause")

    @property
    def may_stop(self) -> bool:
        """It is not over yet."""
        return self.launch is not None and self.launch.state not in OVER and self.launch.wanted != "stop"

    @property
    def may_start(self) -> bool:
        """The service has not run it, or it has failed; and there is a study file to run it by."""
        is_free = self.launch is None or self.launch.state == "failed"
        return is_free and self.study.spec is not None and self.study.source in OWN_SOURCES

    @property
    def may_delete(self) -> bool:
        """Nothing of it runs."""
        return not self.is_live

    @property
    def counts_text(self) -> str:
        """`3 running, 2 failed`: what is worth saying of the trials beside how many have finished."""
        names = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting", TrialState.PRUNED: "pruned"}
        names[TrialState.FAIL] = "failed"
        counts = [f"{self.study.counts[state]:,} {name}" for state, name in names.items() if self.study.counts[state]]
        return ", ".join(counts)
