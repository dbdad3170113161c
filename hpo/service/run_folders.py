"""Where is what a study and its trials have said, and what are its last lines?

Paths are made of what the history says of a study, never of what a client names.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpo.running.attempts import folder_of, study_folder
from storage.database import Store
from storage.history import StudySummary, TrialRecord
from trainers.job import OUTPUT_LOG

STUDY_LOG = "study.log"
MOST_BYTES = 256_000  # of the end of a file that are looked at


def study_log(runs: Path, store: Store, study: StudySummary) -> Path:
    """What the runner said of a study on the server."""
    return study_folder(runs, study.name, store_url=store.url, created_at=study.created_at) / STUDY_LOG


def trial_log(runs: Path, store: Store, study: StudySummary, trial: TrialRecord) -> Path:
    """What a trial printed at its last attempt, where it was trained on the server."""
    folder = study_folder(runs, study.name, store_url=store.url, created_at=study.created_at)
    return folder_of(folder, number=trial.number, attempt=max(trial.attempt, 1)) / OUTPUT_LOG


def last_lines(file: Path, *, within: Path, most: int) -> list[str] | None:
    """The end of a file; None where there is none in that folder, to which links must not lead out either."""
    path = file.resolve()
    if not path.is_relative_to(within.resolve()) or not path.is_file():
        return None
    with path.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - MOST_BYTES))
        lines = opened.read(MOST_BYTES).decode(errors="replace").splitlines()
    return lines[-most:] if size <= MOST_BYTES else lines[1:][-most:]
