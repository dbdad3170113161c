"""`/launch`: what is to be tuned? A form on a study file, checked while one writes, beside what history foretells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response

from dashboards.charts.look import Chart
from dashboards.charts.study_course import study_course_chart
from dashboards.frame import PageOperator, back_to, page
from dashboards.study_draft import like_draft, recipe_draft
from hpo.api.access import Identity, ServiceState
from hpo.api.problems import PlaceProblem, errors_of
from hpo.api.routes.launches import check_study
from hpo.api.slow_answers import SlowRoute
from hpo.api.wire_launches import LaunchRequest, NewStudy
from hpo.errors import HpoError
from hpo.service import launching
from hpo.service.launching import LaunchOptions
from hpo.service.state import Service
from storage import history, launches
from storage.errors import StorageError
from trainers.errors import TrainerError
from trainers.recipes import RECIPES

FIRST_RECIPE = "digits_mlp/all"
LONGEST_FILE = 200_000  # characters

router = APIRouter(route_class=SlowRoute)

File = Annotated[str, Form(max_length=LONGEST_FILE)]
Place = Annotated[launches.Place, Form()]
Jobs = Annotated[int, Form(ge=1, le=launching.MOST_JOBS)]
Priority = Annotated[int, Form(ge=-launching.MOST_PRIORITY, le=launching.MOST_PRIORITY)]


@router.get("/launch")
def get_launch(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    recipe: Annotated[str | None, Query(max_length=200)] = None,
    like: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> HTMLResponse:
    """The form. recipe: NAME/VARIANT of a ready task. like: the id of a study whose file to begin with."""
    taken = {study.name for study in history.list_studies(service.store)}
    spec = None if like is None else history.study_of_id(service.store, like).spec
    file = recipe_draft(recipe or FIRST_RECIPE, taken=taken) if spec is None else like_draft(spec, taken=taken)
    return _form(request, who, service, file=file, options=LaunchOptions(), recipe=recipe or FIRST_RECIPE)


@router.post("/launch/check")
def post_check(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    file: File = "",
    place: Place = "server",
    jobs: Jobs = 1,
    priority: Priority = 0,
) -> HTMLResponse:
    """What is wrong with a study file, all at once; else what it will reach: a fragment."""
    launch = LaunchRequest(place=place, jobs=jobs, priority=priority, executor=None, ray_address=None)
    found = check_study(who, service, NewStudy(file=None, yaml=file, launch=launch))
    chart = None if found.plan is None else _plan_chart(found.plan)
    return page(request, "launch_check.html", who, problems=found.errors, plan=found.plan, chart=chart)


@router.post("/launch")
def post_launch(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    file: File = "",
    place: Place = "server",
    jobs: Jobs = 1,
    priority: Priority = 0,
) -> Response:
    """Create the study and launch it; with the form again, and all problems, where it cannot be."""
    options = LaunchOptions(place=place, jobs=jobs, priority=priority)
    try:
        study_id = launching.create(service, launching.read_file(yaml=file), owner=who.owner, options=options)
    except (HpoError, StorageError, TrainerError) as error:
        return _form(request, who, service, file=file, options=options, problems=_problems_of(error))
    return back_to(f"/studies/{study_id}")


def _plan_chart(plan: Mapping[str, Any]) -> Chart | None:
    if not any(stage["value"] for stage in plan["stages"]):
        return None
    maximize = plan["direction"] == "maximize"
    return study_course_chart([], [], [], metric=plan["metric"], maximize=maximize, foretold=plan["stages"])


def _problems_of(error: Exception) -> list[PlaceProblem]:
    """What an error says, each with its place where it has one."""
    return errors_of(error) or [PlaceProblem(place="", message=str(error))]


def _form(
    request: Request,
    who: Identity,
    service: Service,
    *,
    file: str,
    options: LaunchOptions,
    recipe: str | None = None,
    problems: Sequence[PlaceProblem] = (),
) -> HTMLResponse:
    return page(
        request,
        "launch.html",
        who,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        file=file,
        options=options,
        recipe=recipe,
        recipes=list(RECIPES.values()),
        problems=problems,
        plan=None,
        chart=None,
        projects=service.projects,
    )
