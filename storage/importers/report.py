"""What became of each run that was to be imported, and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.sources import Source

ROWS_KEPT = 10_000  # of those that were not taken

Verdict = Literal["taken", "skipped", "rejected"]


@dataclass(frozen=True, kw_only=True)
class RowReport:
    """What became of one run."""

    row: str  # what it is called where it comes from
    verdict: Verdict  # skipped: nothing is wrong with it; rejected: something is
    reason: str = ""  # why it was not taken
    task: str | None = None  # None: that was not told yet
    study: str | None = None
    trial: int | None = None  # its number in the study; None: it was not taken, or this is a dry run

    def to_json(self) -> dict[str, Any]:
        """The row for a report file: without what is not known."""
        return {name: value for name, value in vars(self).items() if value not in (None, "")}


RowByRow = Callable[[RowReport], None]
"""Is told what became of each run, as soon as that is certain."""


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
    is_mirrored: bool = False  # whether its values look like a mirror image of what its family leads to expect


@dataclass(kw_only=True)
class ImportReport:
    """The outcome of an import."""

    source: Source
    dry_run: bool
    taken: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    rows: list[RowReport] = field(default_factory=list)  # the first of those that were not taken
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


def in_order(rows: Iterable[RowReport]) -> list[RowReport]:
    """Rows that end in their number, such as `runs.csv line 7`, in the order of their file; the others stay."""
    files: dict[str, int] = {}

    def place(row: RowReport) -> tuple[int, int]:
        file, _, number = row.row.rpartition(" ")
        is_number = number.isdecimal() and len(number) < 19
        return files.setdefault(file if is_number else "", len(files)), int(number) if is_number else 0

    return sorted(rows, key=place)
