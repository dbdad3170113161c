"""`/studies`: created, started, paused, resumed, stopped, deleted and followed; `/queue`: what runs and what waits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from hpo.answers import questions
from hpo.api.access import Operator, Reader, ServiceState
from hpo.api.problems import ApiError, PlaceProblem, errors_of
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber
from hpo.api.slow_answers import SlowRoute
from hpo.api.wire import Study, study_of, trial_of
from hpo.api.wire_launches import (
    Checked,
    DeletedStudy,
    LimitsInForce,
    LogTail,
    NewPriority,
    NewReplicates,
    NewStudy,
    OwnersShare,
    Queue,
    StartStudy,
    queued_of,
)
from hpo.errors import BusyError, DirectionError, HpoError, SpecError
from hpo.service import launching, replicating
from hpo.service.events import StudyEvent
from hpo.service.run_folders import last_lines, study_log, trial_log
from hpo.service.state import Service
from hpo.service.turns import Round
from hpo.studies.spec import StudySpec
from storage import history
from storage.errors import StorageError, StudyExistsError
from storage.launches import Launch, find_launch
from storage.load import current_load
from storage.revisions import history_mark
from storage.trial_pages import trial_numbered

Lines = Annotated[int, Query(ge=1, le=5_000, description="At most so many, the last ones.")]
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID", max_length=100, description="`id` of the last event.")]

router = APIRouter(tags=["studies"], route_class=SlowRoute)


@router.post("/studies", status_code=201)
def create_study(who: Operator, service: ServiceState, wanted: NewStudy, response: Response) -> Study:
    """Create a study from a study file and, with `launch`, put it into the queue.

    409 `study-exists`: the name is taken. 422 `spec`: all that is wrong with the file, each with its place.
    """
    spec = launching.read_file(file=wanted.file, yaml=wanted.yaml)
    options = None if wanted.launch is None else wanted.launch.options()
    study_id = launching.create(service, spec, owner=who.owner, options=options)
    response.headers["Location"] = f"/api/v1/studies/{study_id}"
    return _told(service, study_id)


@router.post("/studies/check")
def check_study(who: Reader, service: ServiceState, wanted: NewStudy) -> Checked:
    """What is wrong with a study file, all at once, and what history foretells of the study. It changes nothing."""
    try:
        spec = launching.read_file(file=wanted.file, yaml=wanted.yaml)
    except SpecError as error:
        return Checked(errors=errors_of(error) or [], plan=None)
    try:
        launching.check_study(service, spec, None if wanted.launch is None else wanted.launch.options())
    except SpecError as error:
        return Checked(errors=errors_of(error) or [], plan=None)
    except StudyExistsError as error:
        problem = PlaceProblem(place="study", message=str(error))
    except DirectionError as error:
        problem = PlaceProblem(place="task.direction", message=str(error).removeprefix("task.direction: "))
    else:
        return Checked(errors=[], plan=_plan(service, spec, jobs=wanted.launch.jobs if wanted.launch else 1))
    return Checked(errors=[problem], plan=None)


@router.post("/studies/{study_id}/start")
def start_study(who: Operator, service: ServiceState, study_id: StudyId, wanted: StartStudy | None = None) -> Study:
    """Put a study into the queue that never was there, is paused, or has failed. 409 `launch` for any other."""
    options = None if wanted is None or wanted.launch is None else wanted.launch.options()
    return _told(service, study_id, launching.start(service, study_id, owner=who.owner, options=options))


@router.post("/studies/{study_id}/replicates", status_code=202)
def start_replicates(who: Operator, service: ServiceState, study_id: StudyId, wanted: NewReplicates) -> Study:
    """Train the contenders of a study again on fresh seeds, on the server, until one stands out or they are spent.

    Answers with the study that holds them, which waits and runs as any other; what they say is in `/statistics/best`.
    409 `launch` while they are being trained; 422 `settings` where nobody knows how, or there is nothing to repeat.
    """
    launch = replicating.start_replicates(
        service,
        study_id,
        most=wanted.replicates,
        against=wanted.against,
        options=wanted.options(),
        owner=who.owner,
    )
    return _told(service, launch.study_id, launch)


@router.post("/studies/{study_id}/pause")
def pause_study(who: Operator, service: ServiceState, study_id: StudyId) -> Study:
    """Let a study give its trials back; they go on from their checkpoints when it is resumed."""
    return _told(service, study_id, launching.pause(service, study_id, who=who.owner))


@router.post("/studies/{study_id}/resume")
def resume_study(who: Operator, service: ServiceState, study_id: StudyId) -> Study:
    """Let a study go on that was paused, or has failed."""
    return _told(service, study_id, launching.resume(service, study_id, who=who.owner))


@router.post("/studies/{study_id}/stop")
def stop_study(who: Operator, service: ServiceState, study_id: StudyId) -> Study:
    """End a study for good."""
    return _told(service, study_id, launching.stop(service, study_id, who=who.owner))


@router.post("/studies/{study_id}/priority")
def set_priority(who: Operator, service: ServiceState, study_id: StudyId, wanted: NewPriority) -> Study:
    """Let a launched study go before others, or after them."""
    return _told(service, study_id, launching.set_priority(service, study_id, wanted.priority, who=who.owner))


@router.delete("/studies/{study_id}")
def delete_study(
    who: Operator,
    service: ServiceState,
    study_id: StudyId,
    *,
    files: Annotated[bool, Query(description="With its checkpoints and outputs on the server.")] = False,
    mlflow_runs: Annotated[bool, Query(description="With its runs in MLflow, which marks them as deleted.")] = False,
) -> DeletedStudy:
    """Delete a study with its trials, their replicates, and what was learned from them.

    The answer says where what stays is. 409 `launch` while it or its replicates wait or run. 503 `mlflow-unavailable`
    where its runs are to go and MLflow does not answer; the study stays then. With an `Idempotency-Key` it is answered
    once, as every POST.
    """
    done = launching.delete(service, study_id, who=who.owner, with_files=files, with_mlflow_runs=mlflow_runs)
    return DeletedStudy(**asdict(done))


@router.get("/queue")
def get_queue(who: Reader, service: ServiceState) -> Queue:
    """What runs, what waits and why, in the order of their turns; the limits, and what each owner has of them."""
    turns = Round(current_load(service.store), service.limits)
    items = [queued_of(launch, waits=turns.why_waiting(launch.study_id)) for launch in turns.launches]
    shares = [OwnersShare(**asdict(share)) for share in turns.shares]
    return Queue(items=items, limits=LimitsInForce(**asdict(service.limits)), shares=shares)


@router.get("/studies/{study_id}/log")
def get_study_log(who: Reader, service: ServiceState, study_id: StudyId, lines: Lines = 200) -> LogTail:
    """The end of what was said of a study on the server; 404 `no-log` where it has not run there."""
    study = history.study_of_id(service.store, study_id)
    found = last_lines(study_log(service.runs, service.store, study), within=service.runs, most=lines)
    if found is None:
        raise ApiError(404, "no-log", f"study {study.name!r} has no log here: it has not run on this server")
    return LogTail(lines=found)


@router.get("/studies/{study_id}/trials/{number}/log")
def get_trial_log(
    who: Reader, service: ServiceState, study_id: StudyId, number: TrialNumber, lines: Lines = 200
) -> LogTail:
    """The end of what a trial printed at its last attempt; 404 `no-log` where it has not run on the server."""
    study = history.study_of_id(service.store, study_id)
    trial = trial_numbered(service.store, study_id, number, known=service.known_sets)
    found = last_lines(trial_log(service.runs, service.store, study, trial), within=service.runs, most=lines)
    if found is None:
        raise ApiError(404, "no-log", f"trial {number} of study {study.name!r} has printed nothing on this server")
    return LogTail(lines=found)


def followed_study(service: ServiceState, study_id: StudyId) -> int:
    """The id of a study that is there: once a stream has begun, it could not be told that it is not."""
    return history.study_of_id(service.store, study_id).study_id


@router.get(
    "/studies/{study_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"description": "`trial` (a Trial that changed), `study` (the Study), `end` (and its `reason`)."}},
)
async def follow_study(
    who: Reader,
    service: ServiceState,
    followed: Annotated[int, Depends(followed_study)],
    last_event_id: LastEvent = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens in a study, as it happens: server-sent events, first how it stands and which trials run.

    Streams end after ten minutes, and with the server: come again with `Last-Event-ID`, as browsers do, and nothing is
    missed.
    """
    heard = service.events.follow(service.store, followed, last=last_event_id, ending=service.ending)
    async for event in heard:
        yield ServerSentEvent(event=event.kind, id=event.event_id, raw_data=_data_of(event))


@lru_cache(maxsize=1_000)  # made once, for however many listeners
def _data_of(event: StudyEvent) -> str:
    if event.trial is not None:
        return trial_of(event.trial).model_dump_json()
    if event.study is not None:
        return study_of(event.study, event.launch).model_dump_json()
    return json.dumps({"reason": event.reason})


def _told(service: Service, study_id: int, launch: Launch | None = None) -> Study:
    return study_of(history.study_of_id(service.store, study_id), launch or find_launch(service.store, study_id))


def _plan(service: Service, spec: StudySpec, *, jobs: int) -> dict[str, object] | None:
    """What history foretells; None where it cannot say just now."""
    file = spec.model_dump(mode="json", exclude_defaults=True)
    as_of = history_mark(service.store)
    try:
        told: dict[str, object] = service.calculations.say(
            questions.plan, store_url=service.store.url, as_of=as_of, file=file, jobs=jobs
        )
    except (BusyError, HpoError, StorageError):
        return None
    return told
