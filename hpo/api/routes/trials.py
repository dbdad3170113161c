"""`/studies/{id}/trials`, and what figures show of them: curves, receipts, the incumbents, slices; `/trials` of all."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from typing_extensions import TypedDict

from hpo.answers import questions
from hpo.answers.curves import Curve, curve_fields
from hpo.answers.receipts import TrialReason, trial_explanation
from hpo.answers.study_figures import (
    Configurations,
    ForetoldCourse,
    Slice,
    course_fields,
    parallel_fields,
    slice_fields,
)
from hpo.api.access import Operator, Reader, ServiceState
from hpo.api.answers import already_json, as_json, says
from hpo.api.history_pages import HistoryPage, history_page, in_json
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.problems import ApiError
from hpo.api.routes.studies import StudyId
from hpo.api.slow_answers import SlowRoute
from hpo.api.wire import LateResultToAccept, Trial, trial_of
from hpo.errors import HpoError
from hpo.service.state import Service
from storage import history
from storage.audit import Doer
from storage.errors import StorageError
from storage.late_results import accept_late_result
from storage.parameter_order import is_position
from storage.revisions import history_mark
from storage.study_columns import study_columns
from storage.trial_pages import Position, order_of, trial_numbered, trial_page

LARGEST = 2**63  # of what databases hold
MOST_CURVES = 200
MOST_POINTS = 10_000
MOST_DRAWN = 10_000  # configurations in a figure

TrialNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="Of the trial within its study, from 0.")]
Where = Annotated[
    str,
    Query(
        max_length=4_000,  # in an address, which servers take up to 64 KiB long
        description="A condition, as `hpo history query` takes it: fields, params.NAME, attrs.NAME and tags.NAME; "
        "= != < <= > >=, in, between, like, ilike, is null; and, or, not.",
        examples=["params.lr < 0.01 and state = complete"],
    ),
]
OrderBy = Annotated[
    str | None,
    Query(
        max_length=300,
        description="A field or params.NAME, with - before it to begin with the greatest; those without it come last.",
        examples=["-number", "value", "params.lr"],
    ),
]
Points = Annotated[int | None, Query(ge=1, le=MOST_POINTS, description="At most so many points, spread evenly.")]
Drawn = Annotated[int, Query(ge=1, le=MOST_DRAWN, description="At most so many trials: the best half, and others.")]

CURVE = {"number": 3, "state": "running", "value": None, "steps": [0, 1, 2], "values": [0.9, 0.5, None], "reported": 3}
COURSE = {
    "study": "churn",
    "metric": "val_loss",
    "direction": "minimize",
    "finished": 3,
    "after": [1, 2, 3],
    "numbers": [0, 1, 2],
    "incumbent": [None, 0.5, 0.3],
    "forecast": None,
}
PARALLEL = {
    "study": "churn",
    "metric": "val_loss",
    "direction": "minimize",
    "complete": 2,
    "numbers": [1, 2],
    "values": [0.5, 0.3],
    "parameters": [{"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "log": True, "chosen": [0.01, 0.001]}],
}


class Curves(TypedDict):
    """The learning curves of some trials of a study."""

    study: int
    curves: list[Curve]


router = APIRouter(tags=["trials"], route_class=SlowRoute)


@router.get("/studies/{study_id}/trials")
def list_trials(
    who: Reader,
    service: ServiceState,
    study_id: StudyId,
    where: Where = "",
    order: OrderBy = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    *,
    brief: Annotated[bool, Query(description="Without what was reported: intermediate_values are empty.")] = False,
) -> Page[Trial]:
    """The trials of a study that meet a condition, by number if no other order is asked for.

    A page begins after the last trial of the page before, so that trials that come in shift nothing. 422 `query` says
    where a condition cannot be read.
    """
    after = position_of(cursor, order)
    page = trial_page(
        service.store,
        study_id,
        where=where,
        order=order,
        after=after,
        limit=limit,
        full=not brief,
        known=service.known_sets,
    )
    return Page(items=[trial_of(trial) for trial in page.trials], next=next_cursor(page.end, order))


@router.get("/studies/{study_id}/trials/{number}")
def get_trial(who: Reader, service: ServiceState, study_id: StudyId, number: TrialNumber) -> Trial:
    """One trial, with all that it reported."""
    return trial_of(trial_numbered(service.store, study_id, number, known=service.known_sets))


@router.post("/studies/{study_id}/trials/{number}/accept-late")
def accept_late(
    who: Operator, service: ServiceState, study_id: StudyId, number: TrialNumber, body: LateResultToAccept | None = None
) -> Trial:
    """Let a value count that came when its attempt had lost the trial, and no other came; the trial that has it.

    A trial that waits to be tried again ends with it. For one that has failed, which stays as it is, it is one more
    trial. 422 `storage` where another value counts, or it is not said which of several is meant: say it for the only
    one, too, where somebody told it who never had the trial.
    """
    doer = Doer(who=who.owner, action="trial.accept-late")
    place = None if body is None else body.result
    counts_as = accept_late_result(service.store, study_id, number, place=place, doer=doer)
    service.desk.hear_of_late_result(study_id)
    return trial_of(trial_numbered(service.store, study_id, counts_as, known=service.known_sets))


@router.get("/studies/{study_id}/trials/{number}/curve", responses=says(Curve, CURVE))
def get_curve(
    who: Reader, service: ServiceState, study_id: StudyId, number: TrialNumber, points: Points = None
) -> Response:
    """What a trial reported along its training: steps and values, null where there was no number."""
    return as_json(curve_fields(trial_numbered(service.store, study_id, number, known=service.known_sets), points))


@router.get("/studies/{study_id}/trials/{number}/receipt", responses=says(TrialReason))
def get_receipt(who: Reader, service: ServiceState, study_id: StudyId, number: TrialNumber) -> Response:
    """Why a trial was proposed and pruned, and whether what was predicted came true; as `hpo explain --json`."""
    trial = trial_numbered(service.store, study_id, number, known=service.known_sets)
    return as_json(trial_explanation(history.study_of_id(service.store, study_id), trial))


@router.get("/studies/{study_id}/curves", responses=says(Curves, {"study": 12, "curves": [CURVE]}))
def list_curves(
    who: Reader,
    service: ServiceState,
    study_id: StudyId,
    where: Where = "",
    order: OrderBy = "-number",
    limit: Annotated[int, Query(ge=1, le=MOST_CURVES, description="How many trials at most.")] = 50,
    points: Annotated[int, Query(ge=1, le=1_000, description="At most so many points of each.")] = 100,
) -> Response:
    """The learning curves of trials that meet a condition, the latest first if no other order is asked for."""
    page = trial_page(service.store, study_id, where=where, order=order, limit=limit, known=service.known_sets)
    return as_json({"study": study_id, "curves": [curve_fields(trial, points) for trial in page.trials]})


@router.get("/studies/{study_id}/course", responses=says(ForetoldCourse, COURSE))
def get_course(
    who: Reader,
    service: ServiceState,
    study_id: StudyId,
    points: Points = 1_000,
    *,
    forecast: Annotated[bool, Query(description="With what history predicted before the first trial.")] = True,
) -> Response:
    """The best value after each finished trial, and what was to be expected of it before the first one.

    `forecast` is as `hpo plan --json`, from the studies that were there before this one; null where it has no study
    file, and its `statement` says why where history was not enough. The first time it takes some seconds.
    """
    study = history.study_of_id(service.store, study_id)
    columns = study_columns(service.store, study_id, known=service.known_sets)
    said = course_fields(study, columns, points)
    return as_json({**said, "forecast": _forecast(service, study) if forecast else None})


@router.get("/studies/{study_id}/parallel", responses=says(Configurations, PARALLEL))
def get_parallel(who: Reader, service: ServiceState, study_id: StudyId, most: Drawn = 1_000) -> Response:
    """The configurations of complete trials as columns, one per parameter: for parallel coordinates."""
    columns = study_columns(service.store, study_id, known=service.known_sets)
    return as_json(parallel_fields(history.study_of_id(service.store, study_id), columns, most))


@router.get("/studies/{study_id}/slice", responses=says(Slice, PARALLEL | {"effects": None}))
def get_slice(
    who: Reader,
    service: ServiceState,
    study_id: StudyId,
    parameter: Annotated[
        list[str], Query(min_length=1, max_length=2, description="One parameter for a slice, two for a contour.")
    ],
    most: Drawn = 1_000,
    *,
    intervals: Annotated[bool, Query(description="With the mean of each range, and its 95% interval.")] = True,
) -> Response:
    """Complete trials along one parameter, or two, and what each range of it was worth.

    `effects` is as `hpo stats --raw-units --json` of this study alone; null where its trials do not say.
    """
    study = history.study_of_id(service.store, study_id)
    said = slice_fields(study, study_columns(service.store, study_id, known=service.known_sets), parameter, most)
    return as_json({**said, "effects": _effects(service, study, parameter) if intervals else None})


@router.get("/trials", tags=["history"], responses=says(HistoryPage))
def query_trials(
    who: Reader,
    service: ServiceState,
    where: Where = "",
    order: OrderBy = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    *,
    curves: Annotated[bool, Query(description="With the metric along the training.")] = False,
) -> Response:
    """The trials of the whole history that meet a condition, as `hpo history query --json` prints them.

    As they were recorded if no other order is asked for; `best` puts complete trials first, by their value in the
    direction of their study.
    """
    found = history_page(service.store, where=where, order=order, limit=limit, cursor=cursor, curves=curves)
    return already_json(in_json(found))


def position_of(cursor: str | None, order: str | None) -> Position | None:
    """Where the page before ended. Raises ApiError for a cursor of another order."""
    found = decode_cursor(cursor, tuple[str, float | int | str | None, int])
    if found is None:
        return None
    wanted = order_of(order)
    is_text = isinstance(found[1], str)
    takes_text = wanted.by.room == "params" or wanted.by.kind == "text"
    is_odd = is_text and ("\0" in str(found[1]) or (wanted.by.room == "params" and not is_position(str(found[1]))))
    is_large = any(isinstance(each, int) and abs(each) >= LARGEST for each in found)
    if found[0] != _name(order) or (found[1] is not None and is_text != takes_text) or is_odd or is_large:
        raise ApiError(422, "invalid-cursor", "this cursor is of another order; begin without one")
    return found[1], found[2]


def next_cursor(end: Position | None, order: str | None) -> str | None:
    """What asks for the page after the one that ended there, in the same order; None after the last one."""
    return None if end is None else encode_cursor([_name(order), *end])


def _name(order: str | None) -> str:
    wanted = order_of(order)
    return f"{'-' if wanted.descending else ''}{wanted.by}"


def _forecast(service: Service, study: history.StudySummary) -> Any:
    if study.spec is None or len(study.directions) > 1:
        return None
    return service.calculations.say(
        questions.forecast_of_study, store_url=service.store.url, as_of="its beginning", study_id=study.study_id
    )


def _effects(service: Service, study: history.StudySummary, parameters: list[str]) -> Any:
    quoted = study.name.replace("'", "''")
    try:
        return service.calculations.say(
            questions.effects,
            store_url=service.store.url,
            as_of=history_mark(service.store),
            target=study.task or study.family,
            where=f"study = '{quoted}'",
            parameters=parameters,
            pairs=len(parameters) > 1,
            raw_units=True,
        )
    except (HpoError, StorageError):  # too few trials, or in quarantine
        return None
