"""How Lightning's own log folders come into the history: those of CSVLogger and of TensorBoardLogger.

Any tree of folders: each in which something was logged, with its hyperparameters beside it, is a run. A run is known
by a hash of its hyperparameters and of the first metrics it logged, so a folder that was moved or copied is recognised.
No file says that a run is over: one that was written to in the last ten minutes is left for the next import. Of a run
that was cut off in the middle of a line, what is whole is taken.

Which value of a curve counts is told in `storage.importers.logged.runs`; it can be seen that the best epoch was kept
where the names of the checkpoints tell the metric, such as `epoch=3-val_loss=0.21.ckpt`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.database import Store
from storage.errors import ImportFailedError
from storage.importers.intake import Intake
from storage.importers.logged.lightning_folders import Recording, RunFolder, find_run_folders, read_run
from storage.importers.logged.runs import LoggedRun, TaskRuns, Wishes, sort_into_tasks, source_name
from storage.importers.mapping import RunMapping, check_template
from storage.importers.report import ImportReport, RowByRow
from storage.importers.runs import Curve, PastRun
from storage.sources import Source

BATCH = 1_000
QUIET_SECONDS = 600.0  # a run that has logged nothing for so long is taken to be over
POINTS_KEPT = 20_000  # of one run; a longer recording is read again when it is needed


def import_lightning(
    store: Store,
    folder: Path,
    *,
    metric: str | None = None,
    direction: str | None = None,
    task: str | None = None,
    mapping: RunMapping | Mapping[str, Any] | None = None,
    source: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    row_by_row: RowByRow | None = None,
) -> ImportReport:
    """Import every run that was logged below a folder.

    task: a template, such as `{folder}`, the run's parent folder relative to `folder` (the logger's name); all runs are
    of one task, called like the folder, if there is none. source: what to call the place in the history.
    progress: told how many more runs are done. row_by_row: told what became of each.
    Raises ImportFailedError where nothing can be imported; it says what to do.
    """
    root = folder.expanduser().absolute()
    if not root.is_dir():
        raise ImportFailedError(f"{root}: no such folder")
    mapping = RunMapping.of(mapping)
    template = task or mapping.task or root.name.replace("{", "(").replace("}", ")") or "lightning"
    check_template(template)
    wishes = Wishes(
        metric=metric or mapping.metric, direction=direction or mapping.direction, task=template, mapping=mapping
    )
    name = source or source_name(store, "lightning", root.name, str(root))
    intake = Intake(
        store,
        source=Source(name=name, kind="lightning", location=str(root), settings={"task": template}),
        dry_run=dry_run,
        scope="store",
        row_by_row=row_by_row,
    )
    found = list(find_run_folders(root))
    if not found:
        raise ImportFailedError(f"{root}: no runs below it: no metrics.csv and no events.out.tfevents.*")
    recordings = _longest(_recordings(found, root, intake, mapping), intake, root)
    runs = [_logged(root, folder, recording) for folder, recording in recordings.values()]
    done = progress or (lambda number: None)
    done(len(found) - len(runs))
    for group in sort_into_tasks(store, intake, runs, wishes, source=name):
        _import_task(intake, group, recordings, done)
    return intake.finish()


Recordings = dict[str, tuple[RunFolder, Recording]]
"""By key."""


def _recordings(
    found: Sequence[RunFolder], root: Path, intake: Intake, mapping: RunMapping
) -> Iterator[tuple[RunFolder, Recording]]:
    for folder in found:
        row = _row(root, folder)
        try:
            quiet = time.time() - folder.changed_at()
            if quiet < QUIET_SECONDS:
                intake.skip(row, f"may still be running: it logged something {max(quiet, 0):.0f} s ago")
                continue
            recording = read_run(folder, is_dropped=mapping.drops)
        except LookupError as error:
            intake.skip(row, str(error.args[0]))
        except (ValueError, OSError) as error:
            if isinstance(error, ImportFailedError):
                raise
            intake.reject(row, str(error))
        else:
            if not recording.is_whole:
                intake.note(f"{row}: cut off in the middle of its last line; what is whole was taken")
            yield folder, _light(recording)


def _light(recording: Recording) -> Recording:
    """The recording without its curves, where there are many points."""
    return recording if recording.points <= POINTS_KEPT else replace(recording, scalars={}, epochs={})


def _longest(each: Iterable[tuple[RunFolder, Recording]], intake: Intake, root: Path) -> Recordings:
    """The recordings by key; of those that begin alike the longest, for the others are copies or beginnings of it."""
    longest: Recordings = {}
    for folder, recording in each:
        kept = longest.setdefault(recording.key, (folder, recording))
        if kept[0] is folder:
            continue
        left, kept = ((folder, recording), kept) if recording.points <= kept[1].points else (kept, (folder, recording))
        longest[recording.key] = kept
        intake.skip(_row(root, left[0]), f"a copy or the beginning of another run: {_row(root, kept[0])}")
    return longest


def _logged(root: Path, folder: RunFolder, recording: Recording) -> LoggedRun:
    parent = folder.path.parent.relative_to(root) if folder.path != root else Path()
    started, ended = recording.started_at, recording.finished_at
    return LoggedRun(
        key=recording.key,
        row=_row(root, folder),
        words={"folder": root.name if parent == Path() else parent.as_posix(), "run_name": folder.path.name},
        params=recording.params,
        metrics=recording.last,
        monitored=recording.monitored,
        started_at=started,
        finished_at=ended,
        cost_seconds=ended - started if started is not None and ended is not None else None,
        user_attrs={"folder": _row(root, folder), "cut_off": None if recording.is_whole else True},
    )


def _row(root: Path, folder: RunFolder) -> str:
    return folder.path.relative_to(root).as_posix()


# One task


def _import_task(intake: Intake, group: TaskRuns, recordings: Recordings, done: Callable[[int], None]) -> None:
    """Take the runs of a task; those that are known too, to see whether they have changed."""
    task = group.task
    intake.take(task, [])  # opens its account
    known, before = intake.known_keys([run.key for run in group.runs]), intake.known_space(task.study)
    for start in range(0, len(group.runs), BATCH):
        batch = group.runs[start : start + BATCH]
        taken: list[PastRun] = []
        for run in batch:
            if run.key in known and before is None:
                intake.skip(run.row, "already here: from another folder", study=task.study)
                continue
            if run.key in known and before is not None:  # compared as it was: it may have been without a parameter
                run.params = {name: value for name, value in run.params.items() if name in before}
            try:
                taken.append(group.past_run(run, _history(group, run, *recordings[run.key])))
            except ValueError as error:
                intake.reject(run.row, str(error), study=task.study)
        intake.take(task, taken)
        done(len(batch))


def _history(group: TaskRuns, run: LoggedRun, folder: RunFolder, recording: Recording) -> Curve:
    logged = group.logged_metric(run)
    if logged is None:
        return ()
    if not recording.scalars:
        recording = read_run(folder, is_dropped=group.mapping.drops)
    return recording.history(logged)
