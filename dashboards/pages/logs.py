"""What did a study, or a trial, print? The end of its log, as a fragment."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboards.frame import PageReader, page
from hpo.api.access import Identity, ServiceState
from hpo.api.problems import ApiError
from hpo.api.routes.launches import get_study_log, get_trial_log
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber

LINES_SHOWN = 200

router = APIRouter(prefix="/studies/{study_id}")


@router.get("/log")
def get_study_lines(request: Request, who: PageReader, service: ServiceState, study_id: StudyId) -> HTMLResponse:
    """What was said of a study on the server."""
    try:
        return _shown(request, who, get_study_log(who, service, study_id, LINES_SHOWN).lines)
    except ApiError as error:  # it has not run here
        return _shown(request, who, [], nothing=error.detail)


@router.get("/trials/{number}/log")
def get_trial_lines(
    request: Request, who: PageReader, service: ServiceState, study_id: StudyId, number: TrialNumber
) -> HTMLResponse:
    """What a trial printed at its last attempt."""
    try:
        return _shown(request, who, get_trial_log(who, service, study_id, number, LINES_SHOWN).lines)
    except ApiError as error:
        return _shown(request, who, [], nothing=error.detail)


def _shown(
    request: Request, who: Identity, lines: Sequence[str], *, nothing: str = "It printed nothing."
) -> HTMLResponse:
    return page(request, "log.html", who, lines=lines, nothing=nothing)
