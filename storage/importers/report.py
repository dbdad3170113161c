"""What became of each run that was to be imported, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.sources import Source

ROWS_KEPT = 10_000  # of those that were not taken

Verdict = Literal["skipped", "rejected"]


@dataclass(frozen=True, kw_only=True)
class NotTaken:
    """A run that was not imported."""

    row: str  # what it is called where it comes from
    verdict: Verdict  # skipped: nothing is wrong with it; rejected: something is
    reason: str


@dataclass(kw_only=True)
class TaskReport:
    """What was imported of one task."""

    task: str
    study: str
    family: str | None
    metric: str
    direction: str
    space: Mapping[str, Mapping[str, Any]]
    taken: int = 0
    skipped: int = 0
    rejected: int = 0


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something about a task that a person should look at."""

    study: str
    kind: str  # scale break, reversed direction
    evidence: str
    quarantined: bool  # whether the tuner ignores the study until somebody says that it is right


@dataclass(kw_only=True)
class ImportReport:
    """The outcome of an import."""

    source: Source
    dry_run: bool
    taken: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    rows: list[NotTaken] = field(default_factory=list)  # the first of those that were not taken
    tasks: dict[str, TaskReport] = field(default_factory=dict)  # by study
    notes: list[str] = field(default_factory=list)  # what was guessed
    flags: list[Flag] = field(default_factory=list)

    @property
    def number_skipped(self) -> int:
        """How many runs were left out though nothing is wrong with them."""
        return self.skipped.total()

    @property
    def number_rejected(self) -> int:
        """How many runs could not be used."""
        return self.rejected.total()

    def to_json(self) -> dict[str, Any]:
        """The report for scripts."""
        content = asdict(self)
        content["tasks"] = [asdict(task) for task in self.tasks.values()]
        content |= {"skipped": dict(self.skipped), "rejected": dict(self.rejected)}  # asdict miscounts counters
        return content | {"number_skipped": self.number_skipped, "number_rejected": self.number_rejected}


def general(reason: str) -> str:
    """The reason without what is particular to one run: what reports count by.

    Readers put particulars behind a colon: `outside the space: lr = 3`.
    """
    return reason.split(":", 1)[0]


def not_taken(rows: Sequence[NotTaken]) -> list[dict[str, str]]:
    """Rows as they are written to a report file."""
    return [asdict(row) for row in rows]
