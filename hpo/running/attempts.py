"""What is an attempt at a trial to train, where does it keep its files, and what is left of them?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hpo.studies.provenance import fingerprint
from hpo.studies.spec import StudySpec
from trainers.fitting.checkpoints import clear, clear_other_folds
from trainers.job import FitJob

HALVED_BATCH = "hindsight:halved_batch"  # trial system attribute: it ran out of memory, and is to have half the batch


def study_folder(runs: Path, name: str, *, store_url: str, created_at: datetime) -> Path:
    """A folder that no other study has, not even one of that name in another store."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return runs / f"{plain[:80]}-{fingerprint([store_url, created_at.isoformat()])}"


def folder_of(study_folder: Path, *, number: int, attempt: int) -> Path:
    """Of an attempt at a trial."""
    return study_folder / f"trial-{number:04d}" / f"attempt-{attempt}"


def fit_job(spec: StudySpec, folder: Path, *, params: Mapping[str, Any], seed: int, halve_batch: bool) -> FitJob:
    """The job of the attempt that has that folder: it goes on from the checkpoints of the earlier ones beside it."""
    task = spec.task
    return FitJob(
        params=dict(params),
        seed=seed,
        metric=task.metric,
        direction=task.direction,
        directory=str(folder),
        earlier=tuple(str(earlier) for earlier in earlier_attempts(folder)),
        files=str(folder.with_name("files")) if spec.training.function else None,
        halve_batch=halve_batch,
        against=tuple(task.metrics[1:]),
    )


def earlier_attempts(folder: Path) -> list[Path]:
    """The folders of those before, oldest first."""
    attempt = int(folder.name.removeprefix("attempt-"))
    return [folder.with_name(f"attempt-{number}") for number in range(1, attempt)]


def drop_checkpoints(folder: Path, *, kept: str | None = None) -> None:
    """Remove what a trial would have gone on from, now that its end is recorded; the best checkpoint stays.

    kept: of the best checkpoints of its folds, the one that stands for the trial and stays; None: all of them stay.
    """
    with suppress(OSError):  # it only takes up room
        if kept is not None:
            clear_other_folds(folder, kept=Path(kept))
        clear(folder, keep_best=True)
        for earlier in earlier_attempts(folder):
            clear(earlier, keep_best=False)
