"""`/studies/{id}`: how does one study get on, what does it depend on, and which configuration is its best?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from optuna.trial import TrialState

from dashboards.charts.parallel import what_is_drawn
from dashboards.frame import PageReader, page
from dashboards.pages.studies import standing_of
from dashboards.study_draft import written
from dashboards.study_state import Standing
from hpo.answers import questions
from hpo.answers.receipts import receipt_fields
from hpo.api.access import Identity, ServiceState
from hpo.api.paging import Cursor
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import next_cursor, position_of
from hpo.api.slow_answers import SlowRoute
from hpo.service.replicating import find_replicates, why_not_replicated
from hpo.service.state import Service
from hpo.statistics.best import FEWEST_TRIALS
from hpo.tuning.receipts import receipt_of
from hpo.tuning.stopping import stopped_reason
from storage.history import TrialRecord
from storage.query_language import Field, QueryError
from storage.revisions import study_mark
from storage.study_costs import training_seconds
from storage.trial_pages import TrialPage, trial_page

ROWS_SHOWN = 50
COLUMNS_SHOWN = 8  # hyperparameters with a column of their own; more stand together in one

router = APIRouter(prefix="/studies/{study_id}", route_class=SlowRoute)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which trials, and in which order."""

    where: str
    order: str
    problem: str | None = None  # why the condition cannot be read


@router.get("")
def get_study(
    request: Request,
    who: PageReader,
    service: ServiceState,
    study_id: StudyId,
    where: Annotated[str, Query(max_length=10_000)] = "",
    order: Annotated[str, Query(max_length=300)] = "-number",
    cursor: Cursor = None,
) -> HTMLResponse:
    """The course of a study and its trials. where, order: as `GET /api/v1/studies/{id}/trials` takes them."""
    standing = standing_of(service.store, study_id)
    asked, found = _trials(service, study_id, where, order, cursor)
    names = parameters_of(standing.study.space, found.trials)
    return _page(
        request,
        "study.html",
        who,
        service,
        standing,
        trials=[(trial, receipt_fields(receipt_of(standing.study, trial), trial)) for trial in found.trials],
        asked=asked,
        columns=[(name, str(Field(room="params", name=name))) for name in names[:COLUMNS_SHOWN]],
        others=names[COLUMNS_SHOWN:],
        next=next_cursor(found.end, order),
    )


@router.get("/parameters")
def get_parameters(
    request: Request,
    who: PageReader,
    service: ServiceState,
    study_id: StudyId,
    of: Annotated[str | None, Query(max_length=300)] = None,
    over: Annotated[str | None, Query(max_length=300)] = None,
) -> HTMLResponse:
    """What the outcome depends on. of, over: the hyperparameters of the slice, and of the plane."""
    standing = standing_of(service.store, study_id)
    latest = trial_page(service.store, study_id, order="-number", limit=20, full=False, known=service.known_sets)
    names = parameters_of(standing.study.space, latest.trials)
    first = of if of in names else next(iter(names), None)
    second = over if over in names and over != first else next((name for name in names if name != first), None)
    drawn = what_is_drawn(standing.study.counts[TrialState.COMPLETE])
    return _page(
        request, "study_parameters.html", who, service, standing, names=names, of=first, over=second, drawn=drawn
    )


@router.get("/best")
def get_best(request: Request, who: PageReader, service: ServiceState, study_id: StudyId) -> HTMLResponse:
    """Which configuration is best, and how sure that is: the frame; what takes a moment comes as a fragment."""
    standing = standing_of(service.store, study_id)
    held = find_replicates(service.store, standing.study)
    return _page(
        request,
        "study_best.html",
        who,
        service,
        standing,
        replicates=None if held is None else standing_of(service.store, held.study_id),
        may_replicate=why_not_replicated(standing.study) is None,
    )


@router.get("/best/judgement")
def get_judgement(request: Request, who: PageReader, service: ServiceState, study_id: StudyId) -> HTMLResponse:
    """The judgement, as a fragment."""
    study = standing_of(service.store, study_id).study
    is_single = len(study.directions) == 1
    held = find_replicates(service.store, study)
    found = service.calculations.say(
        questions.best if is_single else questions.front,
        store_url=service.store.url,
        as_of=[study_mark(service.store, each.study_id) for each in (study, held) if each is not None],
        study=study.name,
    )
    return page(request, "study_judgement.html" if is_single else "study_front.html", who, study=study, found=found)


@router.get("/about")
def get_about(request: Request, who: PageReader, service: ServiceState, study_id: StudyId) -> HTMLResponse:
    """What it was asked to do, and where it ran."""
    standing = standing_of(service.store, study_id)
    study = standing.study
    return _page(
        request,
        "study_about.html",
        who,
        service,
        standing,
        file=None if study.spec is None else written(study.spec),
        space=None if study.space is None else written({"space": study.space}),
        provenance=study.provenance or {},
        settings={} if standing.launch is None else standing.launch.settings,
    )


def parameters_of(space: Any, trials: Sequence[TrialRecord]) -> list[str]:
    """The hyperparameters of a study in the order in which it declares them, then as they were used."""
    return list(dict.fromkeys([*(space or {}), *(name for trial in trials for name in trial.params)]))


def _trials(service: Service, study_id: int, where: str, order: str, cursor: str | None) -> tuple[Asked, TrialPage]:
    """The trials that are asked for; none of them, with the reason, where the question cannot be read."""

    def read(where: str, order: str, cursor: str | None) -> TrialPage:
        return trial_page(
            service.store,
            study_id,
            where=where,
            order=order,
            after=position_of(cursor, order),
            limit=ROWS_SHOWN,
            full=False,
            known=service.known_sets,
        )

    try:
        return Asked(where=where, order=order), read(where, order, cursor)
    except QueryError as error:
        return Asked(where=where, order="-number", problem=str(error)), TrialPage(trials=[], end=None)


def _page(
    request: Request, template: str, who: Identity, service: Service, standing: Standing, **content: Any
) -> HTMLResponse:
    study = standing.study
    is_single = len(study.directions) == 1
    return page(
        request,
        template,
        who,
        standing=standing,
        study=study,
        seconds=training_seconds(service.store, [study.study_id]).get(study.study_id),
        is_judged=is_single and study.counts[TrialState.COMPLETE] >= FEWEST_TRIALS,
        stopped=stopped_reason(service.store, study.study_id) if study.spec is not None else None,
        has_mlflow=study.mlflow_uri is not None,
        **content,
    )
