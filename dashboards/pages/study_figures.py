"""`/studies/{id}/figures`: what the figures of a study show, as plotly's JSON.

A figure is sent at once with what costs nothing; what takes seconds follows under its `more`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from optuna.trial import TrialState

from dashboards import study_questions
from dashboards.charts.learning_curves import LearningCurve, learning_curves_chart
from dashboards.charts.look import Chart
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.study_course import study_course_chart
from dashboards.frame import PageReader
from hpo.answers import questions
from hpo.api.access import ServiceState
from hpo.api.answers import as_json
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber
from hpo.api.slow_answers import SlowRoute
from hpo.decisions.worth_course import Worth
from hpo.service.state import Service
from storage import history
from storage.history import StudySummary, TrialRecord
from storage.revisions import study_mark
from storage.study_columns import study_columns
from storage.trial_pages import trial_numbered, trial_page

RUNNING_SHOWN = 6
OTHERS_SHOWN = 40  # the latest

router = APIRouter(prefix="/studies/{study_id}", route_class=SlowRoute)

Full = Annotated[bool, Query(description="With what takes seconds.")]


@router.get("/figures/course")
def get_course(who: PageReader, service: ServiceState, study_id: StudyId, *, full: Full = False) -> Response:
    """The best so far; in full with what it was worth, and what history had led to expect."""
    study = history.study_of_id(service.store, study_id)
    columns = study_columns(service.store, study_id, known=service.known_sets)
    is_single = len(study.directions) == 1
    chart = study_course_chart(
        columns.numbers,
        columns.states,
        columns.values,
        metric=study.objectives[0],
        maximize=study.directions[0] == "maximize",
        worth=_worth(service, study_id) if full and is_single else (),
        foretold=_foretold(service, study) if full and is_single else (),
    )
    return _sent(chart, more=None if full or not is_single else f"/studies/{study_id}/figures/course?full=true")


@router.get("/figures/curves")
def get_curves(who: PageReader, service: ServiceState, study_id: StudyId, *, full: Full = False) -> Response:
    """Learning curves; in full with where the running trials are heading."""
    study = history.study_of_id(service.store, study_id)
    running = _page(service, study_id, "state = running", RUNNING_SHOWN)
    others = _page(service, study_id, "state = complete or state = pruned", OTHERS_SHOWN)
    reporting = [trial for trial in running if trial.intermediate_values]
    endings = _endings(service, study_id, reporting) if full and reporting else {}
    lengths = [max(trial.intermediate_values) for trial in others if trial.intermediate_values]
    chart = learning_curves_chart(
        [_curve(trial) for trial in others if trial.intermediate_values],
        [_curve(trial, endings.get(str(trial.number))) for trial in reporting],
        metric=study.objectives[0],
        last_step=max(lengths, default=None),
    )
    return _sent(chart, more=f"/studies/{study_id}/figures/curves?full=true" if reporting and not full else None)


@router.get("/trials/{number}/figures/curve")
def get_curve(who: PageReader, service: ServiceState, study_id: StudyId, number: TrialNumber) -> Response:
    """One trial's learning curve before the others'."""
    study = history.study_of_id(service.store, study_id)
    trial = trial_numbered(service.store, study_id, number, known=service.known_sets)
    others = _page(service, study_id, "state = complete or state = pruned", OTHERS_SHOWN)
    is_running = trial.state == TrialState.RUNNING and bool(trial.intermediate_values)
    endings = _endings(service, study_id, [trial]) if is_running else {}
    chart = learning_curves_chart(
        [_curve(other) for other in others if other.number != number and other.intermediate_values],
        [_curve(trial, endings.get(str(number)))] if trial.intermediate_values else [],
        metric=study.objectives[0],
    )
    return _sent(chart)


@router.get("/figures/parallel")
def get_parallel(who: PageReader, service: ServiceState, study_id: StudyId) -> Response:
    """Configurations side by side."""
    study = history.study_of_id(service.store, study_id)
    columns = study_columns(service.store, study_id, known=service.known_sets)
    complete = [
        (number, value, params)
        for number, state, value, params in study_questions.tried(columns)
        if state == "complete"
    ]
    chart = parallel_chart(
        complete,
        study_questions.space_of(study, dict(columns.distributions)),
        metric=study.objectives[0],
        maximize=study.directions[0] == "maximize",
    )
    return _sent(chart)


@router.get("/figures/slice")
def get_slice(
    who: PageReader,
    service: ServiceState,
    study_id: StudyId,
    of: Annotated[str, Query(max_length=300, description="A hyperparameter.")],
    over: Annotated[str | None, Query(max_length=300, description="A second one, for a plane.")] = None,
) -> Response:
    """The study's own surface along a hyperparameter, or over two, with its interval."""
    return _asked(service, study_questions.slices, study_id, parameters=[of] if over is None else [of, over])


@router.get("/figures/importance")
def get_importance(who: PageReader, service: ServiceState, study_id: StudyId) -> Response:
    """What the outcome depends on."""
    return _asked(service, study_questions.importance, study_id)


def _asked(service: Service, question: Any, study_id: int, **options: Any) -> Response:
    mark = study_mark(service.store, study_id)
    answer = service.calculations.say(question, store_url=service.store.url, as_of=mark, study_id=study_id, **options)
    return as_json(answer)


def _sent(chart: Chart, *, more: str | None = None) -> Response:
    return as_json(chart | {"more": more})


def _worth(service: Service, study_id: int) -> list[Worth]:
    mark = study_mark(service.store, study_id)
    found = service.calculations.say(study_questions.worth, store_url=service.store.url, as_of=mark, study_id=study_id)
    return [Worth(**stage | {"interval95": tuple(stage["interval95"])}) for stage in found]


def _foretold(service: Service, study: StudySummary) -> list[dict[str, Any]]:
    if study.spec is None:
        return []
    told = service.calculations.say(
        questions.forecast_of_study, store_url=service.store.url, as_of="its beginning", study_id=study.study_id
    )
    stages: list[dict[str, Any]] = [] if told is None else told["stages"]
    return stages


def _endings(service: Service, study_id: int, running: list[TrialRecord]) -> dict[str, Any]:
    reports = [(trial.number, max(trial.intermediate_values)) for trial in running]
    found: dict[str, Any] = service.calculations.say(
        study_questions.endings,
        store_url=service.store.url,
        as_of=(study_mark(service.store, study_id), reports),
        study_id=study_id,
        numbers=[trial.number for trial in running],
    )
    return found


def _page(service: Service, study_id: int, where: str, limit: int) -> list[TrialRecord]:
    page = trial_page(service.store, study_id, where=where, order="-number", limit=limit, known=service.known_sets)
    return page.trials


def _curve(trial: TrialRecord, ending: dict[str, Any] | None = None) -> LearningCurve:
    return LearningCurve(
        number=trial.number,
        state=trial.state.name.lower(),
        points=trial.intermediate_values,
        ending=None if ending is None else (ending["predicted"], *ending["interval90"]),
        chance=None if ending is None else ending["chance"],
    )
