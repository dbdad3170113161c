"""What may be done with a study: start it, pause it, stop it, repeat its best, delete it. Each button is a form."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse

from dashboards.frame import PageOperator, back_to
from hpo.api.access import ServiceState
from hpo.api.problems import ApiError
from hpo.api.routes.studies import StudyId
from hpo.api.slow_answers import SlowRoute
from hpo.service import launching
from hpo.service.launching import MOST_JOBS
from hpo.service.replicating import start_replicates
from storage import history
from storage.launches import find_launch

router = APIRouter(prefix="/studies/{study_id}", route_class=SlowRoute)


@router.post("/start")
def post_start(who: PageOperator, service: ServiceState, study_id: StudyId) -> RedirectResponse:
    """Launch a study that is in the history already, as it was launched before if it was."""
    is_new = find_launch(service.store, study_id) is None
    options = launching.LaunchOptions() if is_new else None
    launching.start(service, study_id, owner=who.owner, options=options)
    return back_to(f"/studies/{study_id}")


@router.post("/pause")
def post_pause(who: PageOperator, service: ServiceState, study_id: StudyId) -> RedirectResponse:
    """Let it give its trials back."""
    launching.pause(service, study_id, who=who.owner)
    return back_to(f"/studies/{study_id}")


@router.post("/resume")
def post_resume(who: PageOperator, service: ServiceState, study_id: StudyId) -> RedirectResponse:
    """Let it go on."""
    launching.resume(service, study_id, who=who.owner)
    return back_to(f"/studies/{study_id}")


@router.post("/stop")
def post_stop(who: PageOperator, service: ServiceState, study_id: StudyId) -> RedirectResponse:
    """End it for good."""
    launching.stop(service, study_id, who=who.owner)
    return back_to(f"/studies/{study_id}")


@router.post("/replicates")
def post_replicates(
    who: PageOperator,
    service: ServiceState,
    study_id: StudyId,
    most: Annotated[int, Form(ge=1, le=10_000)],
    jobs: Annotated[int, Form(ge=1, le=MOST_JOBS)] = 1,
) -> RedirectResponse:
    """Train its contenders again on fresh seeds. most: replicates in all. jobs: side by side."""
    options = launching.LaunchOptions(jobs=jobs)
    start_replicates(service, study_id, most=most, against=None, options=options, owner=who.owner)
    return back_to(f"/studies/{study_id}/best")


@router.post("/delete")
def post_delete(
    who: PageOperator,
    service: ServiceState,
    study_id: StudyId,
    sure: Annotated[str, Form(max_length=10)] = "",
    files: Annotated[str, Form(max_length=10)] = "",
    mlflow_runs: Annotated[str, Form(max_length=10)] = "",
) -> RedirectResponse:
    """Delete it with its trials and their replicates.

    sure: `yes`, or nothing is done. files, mlflow_runs: `yes` for those too.
    """
    if sure != "yes":
        name = history.study_of_id(service.store, study_id).name
        raise ApiError(422, "not-sure", f"study {name!r} was not deleted: tick that you know what that means")
    with_files, with_mlflow_runs = files == "yes", mlflow_runs == "yes"
    launching.delete(service, study_id, who=who.owner, with_files=with_files, with_mlflow_runs=with_mlflow_runs)
    return back_to("/studies")
