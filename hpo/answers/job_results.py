"""What comes of each kind of background job, as plain data?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import TypedDict

from hpo.replay.report import Report
from storage.importers.report import Flag, RowReport, TaskReport
from storage.sources import Source


class ImportDone(TypedDict):
    """The report of an import."""

    source: Source
    dry_run: bool
    taken: int
    skipped: Mapping[str, int]  # by reason
    rejected: Mapping[str, int]  # by reason
    rows: list[RowReport]  # the first of those that were not taken
    tasks: list[TaskReport]
    notes: list[str]  # what was guessed
    flags: list[Flag]
    number_skipped: int
    number_rejected: int


@dataclass(frozen=True, kw_only=True)
class ReplayDone(Report):
    """The report of a replay, as `hpo replay --json` prints it."""

    close: float  # the regret that counts as found


class ExportDone(TypedDict):
    """What an export has written."""

    target: str
    file: str
    bytes: int
    notes: list[str]  # what was left out


class SummarizeDone(TypedDict):
    """What was made ready."""

    families: int
