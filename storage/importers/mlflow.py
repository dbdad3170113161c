"""How ordinary MLflow runs come into the history.

Runs are listed page by page (1,000 at a time, all experiments together), sorted into tasks, and then the histories of
each task's metric are read in bulk, one batch ahead of the one that is being written. A run that is here already is
known by its id, which is unique in the world; its history is not read again.

Failed and killed runs are taken as evidence against their configuration, without a value; so are runs whose metric is
NaN or infinite. Runs that still run are left for the next import. Which value of a curve counts is told in
`storage.importers.logged.runs`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from storage.database import Store
from storage.errors import ImportFailedError
from storage.importers.intake import Intake
from storage.importers.logged.mlflow_server import MlflowServer, place_of
from storage.importers.logged.runs import LoggedRun, TaskRuns, Wishes, sort_into_tasks, source_name
from storage.importers.mapping import RunMapping, check_template
from storage.importers.report import ImportReport, RowByRow
from storage.importers.runs import Curve, PastRun
from storage.mlflow_runs import ORIGINAL_NAME_TAG, RUN_KEY_TAG
from storage.models import mlflow_runs
from storage.sources import Source

if TYPE_CHECKING:
    from mlflow.entities import Run

BATCH = 1_000  # runs whose histories are read together and taken together
DEFAULT_TASK = "{experiment}"
PARENT_TAG = "mlflow.parentRunId"
MONITOR_NAMES = ("monitor", "checkpoint_monitor", "ckpt_monitor", "model_checkpoint_monitor")


def import_mlflow(
    store: Store,
    *,
    uri: str,
    experiments: Sequence[str] = (),
    filter: str = "",
    since: datetime | None = None,
    metric: str | None = None,
    direction: str | None = None,
    task: str = DEFAULT_TASK,
    mapping: RunMapping | Mapping[str, Any] | None = None,
    source: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    row_by_row: RowByRow | None = None,
) -> ImportReport:
    """Import the runs of a tracking server, an MLflow database or a folder of runs.

    uri: `http://HOST:PORT`, `sqlite:///FILE`, another database's URL, or a path.
    experiments: names or ids; all that are active if there are none. filter: in MLflow's words.
    since: runs that started then or later; a time without a zone is UTC. task: a template, one task per experiment.
    source: what to call the place in the history. progress: told how many more runs are done.
    row_by_row: told what became of each.
    Raises ImportFailedError where nothing can be imported; it says what to do.
    """
    mapping = RunMapping.of(mapping)
    template = task if task != DEFAULT_TASK or mapping.task is None else mapping.task
    check_template(template)
    wishes = Wishes(
        metric=metric or mapping.metric, direction=direction or mapping.direction, task=template, mapping=mapping
    )
    if wishes.direction not in (None, "minimize", "maximize"):
        raise ImportFailedError(f"The direction {wishes.direction!r} is unknown: it is minimize or maximize.")
    place = place_of(uri)
    query = _query(filter, since)
    name = source or source_name(store, "mlflow", place.short, place.location)
    settings = {"experiments": list(experiments), "filter": query, "task": template}
    intake = Intake(
        store,
        source=Source(name=name, kind="mlflow", location=place.location, settings=settings),
        dry_run=dry_run,
        scope="store",
        row_by_row=row_by_row,
    )
    server = MlflowServer(place)
    names = server.experiments(experiments)
    listed = list(_listed(server.runs(list(names), query=query), names, intake))
    own = _own_runs(store, [run.key for run in listed])
    for run in listed:
        if run.key in own:
            intake.skip(run.row, "a run of Hindsight's own study")
    usable = [run for run in listed if run.key not in own]
    done = progress or (lambda number: None)
    for group in sort_into_tasks(store, intake, usable, wishes, source=name):
        _import_task(server, intake, group, dry_run=dry_run, done=done)
    return intake.finish()


def _query(words: str, since: datetime | None) -> str:
    if since is None:
        return words
    aware = since if since.tzinfo else since.replace(tzinfo=UTC)
    started = f"attributes.start_time >= {int(aware.timestamp() * 1000)}"
    return f"{words} AND {started}" if words.strip() else started


def _own_runs(store: Store, run_ids: Sequence[str]) -> set[str]:
    """Which runs this history has itself sent to MLflow."""
    found: set[str] = set()
    with store.read() as connection:
        for start in range(0, len(run_ids), 10_000):
            some = run_ids[start : start + 10_000]
            found |= set(
                connection.execute(select(mlflow_runs.c.run_id).where(mlflow_runs.c.run_id.in_(some))).scalars()
            )
    return found


# One task


def _import_task(
    server: MlflowServer, intake: Intake, group: TaskRuns, *, dry_run: bool, done: Callable[[int], None]
) -> None:
    task = group.task
    intake.take(task, [])  # opens its account
    known = intake.known_keys([run.key for run in group.runs])
    for run in group.runs:
        if run.key in known:
            intake.skip(run.row, "already here", study=task.study)
    done(len(known))
    new = [run for run in group.runs if run.key not in known]
    batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
    needs_curves = not dry_run or group.by_best

    def read(batch: Sequence[LoggedRun]) -> dict[str, Curve]:
        return _histories(server, group, batch) if needs_curves else {}

    with ThreadPoolExecutor(1) as ahead:
        reading = ahead.submit(read, new[:BATCH])
        for index, batch in enumerate(batches, start=1):
            histories = reading.result()
            reading = ahead.submit(read, new[index * BATCH : (index + 1) * BATCH])
            intake.take(task, list(_past_runs(intake, group, batch, histories)))
            done(len(batch))


def _histories(server: MlflowServer, group: TaskRuns, runs: Sequence[LoggedRun]) -> dict[str, Curve]:
    by_name: dict[str, list[str]] = {}
    for run in runs:
        logged = group.logged_metric(run)
        if logged is not None:
            by_name.setdefault(run.stored_as.get(logged, logged), []).append(run.key)
    found: dict[str, Curve] = {}
    for logged, run_ids in by_name.items():
        found |= server.histories(run_ids, logged)
    return found


def _past_runs(
    intake: Intake, group: TaskRuns, runs: Iterable[LoggedRun], histories: Mapping[str, Curve]
) -> Iterator[PastRun]:
    for run in runs:
        if run.is_parent and run.failure is None and group.logged_metric(run) is None:
            intake.skip(run.row, "a parent of other runs: it has not the metric", study=group.task.study)
            continue
        try:
            yield group.past_run(run, histories.get(run.key, ()))
        except ValueError as error:
            intake.reject(run.row, str(error), study=group.task.study)


# What MLflow says of a run


def _listed(runs: Iterable["Run"], experiments: Mapping[str, str], intake: Intake) -> Iterator[LoggedRun]:
    """The runs that are over and have something to say, and are not only there to hold others together."""
    waiting: list[LoggedRun] = []
    parents: set[str | None] = set()
    for run in runs:
        parents.add(run.data.tags.get(PARENT_TAG))
        if run.info.status in ("RUNNING", "SCHEDULED"):
            intake.skip(run.info.run_id, "still running")
            continue
        waiting.append(_logged(run, experiments[str(run.info.experiment_id)]))
    for logged in waiting:
        logged.is_parent = logged.key in parents
        if RUN_KEY_TAG in logged.tags and "hindsight.trial" not in logged.tags:
            intake.skip(logged.row, "a study's own run: its trials are taken")
        elif logged.is_parent and not (logged.params and logged.metrics):
            intake.skip(logged.row, "a parent of other runs: it has no parameters or no metrics of its own")
        else:
            yield logged


def _logged(run: "Run", experiment: str) -> LoggedRun:
    info, tags = run.info, dict(run.data.tags)
    original = {
        tag.removeprefix(ORIGINAL_NAME_TAG): name for tag, name in tags.items() if tag.startswith(ORIGINAL_NAME_TAG)
    }
    metrics = {original.get(name, name): value for name, value in run.data.metrics.items()}
    params = {original.get(name, name): value for name, value in run.data.params.items()}
    started, ended = _seconds(info.start_time), _seconds(info.end_time)
    own_tags = {name: value for name, value in tags.items() if not name.startswith(("mlflow.", "hindsight."))}
    run_name = tags.get("mlflow.runName") or info.run_name or ""
    monitored = {value for name, value in params.items() if _is_monitor(name)}
    return LoggedRun(
        key=str(info.run_id),
        row=str(info.run_id),
        words={"experiment": experiment, "run_name": run_name},
        params=params,
        metrics=metrics,
        tags=tags,
        stored_as={name: there for there, name in original.items()},
        failure=_failure(str(info.status), tags),
        was_pruned=tags.get("hindsight.state") == "PRUNED",
        monitored=frozenset(map(str, monitored)),
        started_at=started,
        finished_at=ended,
        cost_seconds=ended - started if started is not None and ended is not None and ended >= started else None,
        seed=_integer(tags.get("hindsight.seed")),
        code_version=tags.get("mlflow.source.git.commit"),
        data_fingerprint=tags.get("hindsight.data_fingerprint") or _digest(run),
        hardware=tags.get("hindsight.hardware"),
        user_attrs={
            "run_name": run_name,
            "experiment": experiment,
            "user": tags.get("mlflow.user"),
            "source_name": tags.get("mlflow.source.name"),
            "parent_run": tags.get(PARENT_TAG),
            "tags": own_tags,
        },
    )


def _failure(status: str, tags: Mapping[str, str]) -> str | None:
    if tags.get("hindsight.state") == "PRUNED" or status == "FINISHED":
        return None
    words = {"FAILED": "failed", "KILLED": "was killed"}.get(status, f"is {status}")
    reason = tags.get("hindsight.error")
    return f"MLflow says that it {words}" + (f": {reason}" if reason else "")


def _is_monitor(name: str) -> bool:
    """Whether a parameter says which metric decided which checkpoint is kept; early stopping says nothing of that."""
    words = name.lower().replace("/", ".").split(".")
    is_checkpoint = any("checkpoint" in word or "ckpt" in word for word in words)
    return words[-1] in MONITOR_NAMES[1:] or (words[-1] == "monitor" and is_checkpoint)


def _digest(run: "Run") -> str | None:
    """The digests of the data sets that a run has noted as its input; those for training, where some say so."""
    inputs = list(getattr(run.inputs, "dataset_inputs", None) or ())
    training = [each for each in inputs if any(tag.value in ("train", "training") for tag in each.tags or ())]
    digests = sorted({str(each.dataset.digest) for each in training or inputs if each.dataset.digest})
    return ",".join(digests) or None


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None
