"""`/studies/{id}/trials`: why was a trial proposed, how did it go, what came of it? And all of them in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from dashboards.frame import PageOperator, PageReader, back_to, page
from dashboards.pages.studies import standing_of
from dashboards.pages.study import parameters_of
from dashboards.trial_files import as_csv, as_json_list
from hpo.answers.receipts import receipt_fields
from hpo.api.access import ServiceState
from hpo.api.routes import trials as trial_routes
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import OrderBy, TrialNumber, Where
from hpo.api.wire import LateResultToAccept
from hpo.service.state import Service
from hpo.studies.folds import fold_values
from hpo.tuning.receipts import receipt_of
from storage import history
from storage.history import TrialRecord
from storage.late_results import MAY_COUNT, late_results_of
from storage.studies import NOTES_ATTRIBUTE
from storage.trial_pages import trial_numbered, trial_page

TRIALS_AT_A_TIME = 500
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}

router = APIRouter(prefix="/studies/{study_id}")


@router.get("/trials.{kind}")
def get_file(
    who: PageReader,
    service: ServiceState,
    study_id: StudyId,
    kind: Literal["csv", "json"],
    where: Where = "",
    order: OrderBy = None,
) -> StreamingResponse:
    """The trials that meet a condition, all of them, as a file."""
    study = history.study_of_id(service.store, study_id)
    trials = _all(service, study_id, where, order)
    first = trial_page(service.store, study_id, where=where, order=order, limit=1, known=service.known_sets)
    if kind == "csv":
        lines = as_csv(trials, parameters=parameters_of(study.space, first.trials), objectives=study.objectives)
    else:
        lines = as_json_list(trials)
    name = f"study-{study_id}-trials.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, media_type=MEDIA_TYPES[kind], headers=headers)


@router.get("/trials/{number}")
def get_trial(
    request: Request, who: PageReader, service: ServiceState, study_id: StudyId, number: TrialNumber
) -> HTMLResponse:
    """One trial."""
    standing = standing_of(service.store, study_id)
    study, trial = standing.study, trial_numbered(service.store, study_id, number, known=service.known_sets)
    late = late_results_of(trial.system_attrs)
    return page(
        request,
        "trial.html",
        who,
        study=study,
        standing=standing,
        trial=trial,
        state=trial.state.name.lower(),
        receipt=receipt_fields(receipt_of(study, trial), trial),
        folds=fold_values(study, trial),
        notes=trial.system_attrs.get(NOTES_ATTRIBUTE, []),
        late=late,
        may_count=trial.state in MAY_COUNT and not any(each.counts_as is not None for each in late),
        studies_leant_on=history.ids_of_studies(service.store, _leant_on(trial)),
        last=study.trials - 1,
        has_mlflow=study.mlflow_uri is not None,
    )


@router.post("/trials/{number}/accept-late")
def post_accept_late(
    who: PageOperator,
    service: ServiceState,
    study_id: StudyId,
    number: TrialNumber,
    result: Annotated[int, Form(ge=1, le=1_000)],
) -> RedirectResponse:
    """Let a value that came too late count; on to the trial that has it."""
    found = trial_routes.accept_late(who, service, study_id, number, LateResultToAccept(result=result))
    return back_to(f"/studies/{study_id}/trials/{found.number}")


def _leant_on(trial: TrialRecord) -> set[str]:
    receipt = trial.system_attrs.get("hindsight:receipt")
    sources = receipt.get("leans_on", []) if isinstance(receipt, dict) else []
    return {str(source.get("study")) for source in sources if isinstance(source, dict)}


def _all(service: Service, study_id: int, where: str, order: str | None) -> Iterator[TrialRecord]:
    """Page by page, so that no study is too large. The question has been found to be readable before."""
    after = None
    while True:
        found = trial_page(
            service.store,
            study_id,
            where=where,
            order=order,
            after=after,
            limit=TRIALS_AT_A_TIME,
            known=service.known_sets,
        )
        yield from found.trials
        if (after := found.end) is None:
            return
