"""How is a study launched, paused, resumed, stopped and deleted, and by whom?

What is wrong with a study file is told all at once, each with its key; nothing is created then. A study is in the
history from the moment that it is accepted, so that it can be seen while it waits for its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import SpecError
from hpo.running.admission import admit
from hpo.running.creation import create_study
from hpo.running.deletion import Deletion, delete_study, mark_runs
from hpo.running.executors import EXECUTORS
from hpo.service.allowed_code import check_code
from hpo.service.limits import Limits
from hpo.service.state import Service
from hpo.studies.lightning_project import read_project
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import parse_spec
from hpo.studies.yaml_lines import parse_yaml
from storage import history, launches
from storage.audit import Doer
from storage.errors import LaunchError, StudyExistsError
from storage.launches import PLACES, Launch, Place, Wanted
from trainers.errors import DataFileError
from trainers.recipes import find_recipe

MOST_JOBS = 1_000
MOST_PRIORITY = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How a study is to be run."""

    place: Place = "server"  # or workers: they pull its trials
    jobs: int = 1  # trials side by side, on the server
    priority: int = 0  # the larger, the sooner
    executor: str | None = None  # of a study on the server: local or ray; None: the service's own
    ray_address: str | None = None  # None, or the service's own


def read_file(*, file: Mapping[str, Any] | None = None, yaml: str | None = None) -> StudySpec:
    """A study file given as plain data or as text. Raises SpecError with a line for each problem."""
    if (file is None) == (yaml is None):
        raise SpecError("study: give the study file in one way: as `file`, its content, or as `yaml`, its text")
    if yaml is None:
        return parse_spec(dict(file or {}))
    content, lines = parse_yaml(yaml, "study")
    if not isinstance(content, dict):
        raise SpecError("study: a study file is a mapping of keys (study, task, trainer, space, budget, …)")
    return parse_spec(content, source="study", lines=lines)


def check_study(service: Service, spec: StudySpec, options: LaunchOptions | None) -> None:
    """Whether it could be created and launched now. Raises SpecError, DirectionError, StudyExistsError."""
    problems = _problems_of(lambda: check_code(spec, projects=service.projects, packages=service.packages))
    if spec.trainer is not None and spec.trainer.cli is not None and not problems:
        config = spec.trainer.cli.config
        found = _problems_of(lambda: read_project(config, folder=service.projects))
        problems += [f"study: trainer.cli.config: {line.removeprefix('trainer.cli: ')}" for line in found]
    if options is not None:
        problems += [f"study: {place}: {what}" for place, what in _wrong_options(service, spec, options)]
        problems += [f"study: trainer.data: {what}" for what in _missing_files(service, spec, options)]
    if problems:
        raise SpecError("\n".join(problems))
    if history.ids_of_studies(service.store, [spec.study]):  # even one that has only failed: it may be somebody else's
        raise StudyExistsError(
            f"study {spec.study!r} is there already; give this one another name by the key `study`: it will learn from "
            "that one"
        )
    admit(service.store, spec, resume=False)


def check_launch(service: Service, spec: StudySpec, options: LaunchOptions) -> None:
    """Whether what a study file says may be trained here, and so. Raises SpecError."""
    check_code(spec, projects=service.projects, packages=service.packages)
    wrong = _wrong_options(service, spec, options)
    if wrong:
        raise SpecError("\n".join(f"study: {place}: {what}" for place, what in wrong))


def create(service: Service, spec: StudySpec, *, owner: str, options: LaunchOptions | None) -> int:
    """Create a study and, with options, launch it; returns its id. Raises as `check_study`."""
    check_study(service, spec, options)
    doer = Doer(who=owner, action="study.create", details={"name": spec.study})
    study_id = create_study(service.store, spec, folder=service.projects, mlflow_uri=service.mlflow_uri, doer=doer)
    if spec.trainer is None:
        service.desk.get_ready()  # programs will ask for its trials
    if options is not None:
        start(service, study_id, owner=owner, options=options)
    return study_id


def start(service: Service, study_id: int, *, owner: str, options: LaunchOptions | None) -> Launch:
    """Launch a study that was never launched, is paused or has failed; without options as it was before.

    Raises StudyNotFoundError, LaunchError, SpecError.
    """
    summary = history.study_of_id(service.store, study_id)
    before = launches.find_launch(service.store, study_id)
    if before is not None and options is None:
        return _want(service, study_id, "run", who=owner, action="study.start")
    if summary.spec is None:
        raise LaunchError(
            f"study {summary.name!r} has no study file: another program made it, or it was imported; create a new one "
            "from a file: it will learn from this"
        )
    spec, options = parse_spec(summary.spec), options or LaunchOptions()
    check_launch(service, spec, options)
    details = {"place": options.place, "jobs": options.jobs, "priority": options.priority}
    launch = launches.request_launch(
        service.store,
        study_id,
        owner=owner if before is None else before.owner,
        place=options.place,
        jobs=options.jobs,
        devices=devices_of(spec),
        priority=options.priority,
        settings={"executor": options.executor or service.placement.executor},
        doer=Doer(who=owner, action="study.start", details=details),
    )
    service.called.set()
    if options.place == "workers":
        service.desk.get_ready()
    return launch


def pause(service: Service, study_id: int, *, who: str) -> Launch:
    """Let a study give its trials back, to go on from their checkpoints later. Raises as `resume`."""
    return _want(service, study_id, "pause", who=who, action="study.pause")


def resume(service: Service, study_id: int, *, who: str) -> Launch:
    """Let a study that was paused, or has failed, go on. Raises StudyNotFoundError, LaunchError."""
    return _want(service, study_id, "run", who=who, action="study.resume")


def stop(service: Service, study_id: int, *, who: str) -> Launch:
    """End a study for good. Raises as `resume`."""
    return _want(service, study_id, "stop", who=who, action="study.stop")


def set_priority(service: Service, study_id: int, priority: int, *, who: str) -> Launch:
    """Let a study go before others, the larger the sooner. Raises StudyNotFoundError, LaunchError."""
    doer = Doer(who=who, action="study.priority", details={"priority": priority})
    launch = launches.set_priority(service.store, study_id, priority, doer=doer)
    service.called.set()
    return launch


def delete(
    service: Service, study_id: int, *, who: str, with_files: bool = False, with_mlflow_runs: bool = False
) -> Deletion:
    """Delete a study with its trials, and what else is asked for.

    Raises StudyNotFoundError, LaunchError, MlflowUnavailableError, BusyError.
    """

    def mark(study_ids: Sequence[int]) -> None:  # MLflow takes memory and long, so it is imported by another process
        calculations, now = service.calculations, time.monotonic()
        calculations.say(mark_runs, store_url=service.store.url, as_of=now, line="MLflow", study_ids=list(study_ids))

    details = {"files": with_files, "mlflow_runs": with_mlflow_runs}
    return delete_study(
        service.store,
        study_id,
        runs=service.runs,
        with_files=with_files,
        with_mlflow_runs=with_mlflow_runs,
        doer=Doer(who=who, action="study.delete", details=details),
        mark=mark,
    )


def devices_of(spec: StudySpec) -> int:
    """How many devices a trial has, on all its machines."""
    trainer = spec.trainer
    return 1 if trainer is None else (trainer.devices or 1) * (trainer.nodes or 1)


def _want(service: Service, study_id: int, wanted: Wanted, *, who: str, action: str) -> Launch:
    launch = launches.want(service.store, study_id, wanted, doer=Doer(who=who, action=action))
    service.called.set()
    return launch


def _wrong_options(service: Service, spec: StudySpec, options: LaunchOptions) -> list[tuple[str, str]]:
    """What is wrong with how a study is to be run, each with its key."""
    found = []
    if options.place not in PLACES:
        found.append(("launch.place", f"{options.place!r} is unknown; use one of {', '.join(PLACES)}"))
    if not 1 <= options.jobs <= MOST_JOBS:
        found.append(("launch.jobs", f"{options.jobs} is not between 1 and {MOST_JOBS}"))
    if abs(options.priority) > MOST_PRIORITY:
        found.append(("launch.priority", f"{options.priority} is not between -{MOST_PRIORITY} and {MOST_PRIORITY}"))
    if options.executor is not None and options.executor not in EXECUTORS:
        found.append(("launch.executor", f"{options.executor!r} is unknown; use one of {', '.join(EXECUTORS)}"))
    if options.executor == "ray" and service.placement.executor != "ray":
        found.append(("launch.executor", "this service has no Ray cluster; it is started with one by --executor ray"))
    if options.ray_address not in (None, service.placement.ray_address):
        found.append(("launch.ray_address", "only the service's own cluster can be used; leave the address out"))
    if options.place == "server" and spec.trainer is None:
        found.append(
            (
                "launch.place",
                "without `trainer` only programs that ask for its trials can train it: use the place `workers`",
            )
        )
    if options.place == "server" and not found:
        found += [("launch.jobs", reason) for reason in _never_met(service.limits, spec, options, service)]
    return found


def _missing_files(service: Service, spec: StudySpec, options: LaunchOptions) -> list[str]:
    """What a recipe lacks of the user's files where this machine trains it; others have files of their own."""
    if spec.trainer is None or spec.trainer.recipe is None or options.place != "server":
        return []
    recipe, _ = find_recipe(spec.trainer.recipe)
    given = {} if spec.trainer.data is None else spec.trainer.data.init_args
    folder, is_here = given.get("folder"), (options.executor or service.placement.executor) == "local"
    if recipe.find_files is None or not is_here or not isinstance(folder, str):
        return []
    try:
        recipe.find_files(service.projects / Path(folder).expanduser())
    except (DataFileError, OSError, RuntimeError):  # the same words for all: who may only look is told of no other file
        return [f"init_args.folder: the server has none of the files that {recipe.name} reads in {folder!r}"]
    return []


def _never_met(limits: Limits, spec: StudySpec, options: LaunchOptions, service: Service) -> list[str]:
    """Why a study that wants so much at once would wait for ever."""
    jobs, devices = options.jobs, options.jobs * devices_of(spec)
    is_here = (options.executor or service.placement.executor) == "local"
    wants = [
        (jobs, limits.trials, "trials"),
        (jobs, limits.trials_per_owner, "trials of an owner"),
        (devices, limits.devices, "devices"),
        (devices, limits.devices_per_owner, "devices of an owner"),
        (jobs, limits.trials_on_server if is_here else None, "trials on the server itself"),
    ]
    return [
        f"it would have {wanted} at once, and the limit of {unit} is {limit}"
        for wanted, limit, unit in wants
        if limit is not None and wanted > limit
    ]


def _problems_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except SpecError as error:
        return str(error).splitlines()
    return []
