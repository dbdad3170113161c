"""`/launch`: what is to be tuned? A form on a study file, checked while one writes, beside what history foretells."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response

from dashboards.charts.look import Chart
from dashboards.charts.study_course import study_course_chart
from dashboards.frame import PageOperator, back_to, page
from dashboards.study_draft import like_draft, recipe_draft
from hpo.answers import questions
from hpo.api.access import ServiceState
from hpo.api.problems import PlaceProblem, errors_of
from hpo.errors import BusyError, HpoError, SpecError
from hpo.service import launching
from hpo.service.launching import LaunchOptions
from hpo.service.state import Service
from storage import history
from storage.errors import StorageError
from storage.revisions import history_mark
from trainers.errors import TrainerError
from trainers.recipes import RECIPES

FIRST_RECIPE = "digits_mlp/all"
LONGEST_FILE = 200_000  # characters

router = APIRouter()

File = Annotated[str, Form(max_length=LONGEST_FILE)]
Place = Annotated[str, Form(max_length=20)]
Number = Annotated[int, Form()]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in a study file."""

    problems: list[PlaceProblem]
    plan: dict[str, Any] | None = None  # as `hpo plan --json`; None where something is wrong with the file
    chart: Chart | None = None
    busy: str | None = None  # why there is no plan though all is well


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
    jobs: Number = 1,
    priority: Number = 0,
) -> HTMLResponse:
    """What is wrong with a study file, all at once; else what it will reach: a fragment."""
    options = LaunchOptions(place=place, jobs=jobs, priority=priority)  # type: ignore[arg-type]  # it is checked
    return page(request, "launch_check.html", who, checked=_checked(service, file, options))


@router.post("/launch")
def post_launch(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    file: File = "",
    place: Place = "server",
    jobs: Number = 1,
    priority: Number = 0,
) -> Response:
    """Create the study and launch it; with the form again, and all problems, where it cannot be."""
    options = LaunchOptions(place=place, jobs=jobs, priority=priority)  # type: ignore[arg-type]  # it is checked
    try:
        study_id = launching.create(service, launching.read_file(yaml=file), owner=who.owner, options=options)
    except (HpoError, StorageError, TrainerError) as error:
        checked = Checked(problems=problems_of(error))
        return _form(request, who, service, file=file, options=options, checked=checked)
    return back_to(f"/studies/{study_id}")


def _checked(service: Service, file: str, options: LaunchOptions) -> Checked:
    try:
        spec = launching.read_file(yaml=file)
        launching.check_study(service, spec, options)
    except (HpoError, StorageError, TrainerError) as error:
        return Checked(problems=problems_of(error))
    try:
        plan = service.calculations.say(
            questions.plan,
            store_url=service.store.url,
            as_of=history_mark(service.store),
            file=spec.model_dump(mode="json", exclude_defaults=True),
            jobs=options.jobs,
        )
    except BusyError as error:
        return Checked(problems=[], busy=str(error))
    return Checked(problems=[], plan=plan, chart=_plan_chart(plan))


def _plan_chart(plan: dict[str, Any]) -> Chart | None:
    if not any(stage["value"] for stage in plan["stages"]):
        return None
    maximize = plan["direction"] == "maximize"
    return study_course_chart([], [], [], metric=plan["metric"], maximize=maximize, foretold=plan["stages"])


def problems_of(error: Exception) -> list[PlaceProblem]:
    """What an error says, each with its place where it has one."""
    found = errors_of(error) if isinstance(error, SpecError) else None
    return found or [PlaceProblem(place="", message=str(error))]


def _form(
    request: Request,
    who: Any,
    service: Service,
    *,
    file: str,
    options: LaunchOptions,
    recipe: str | None = None,
    checked: Checked | None = None,
) -> HTMLResponse:
    return page(
        request,
        "launch.html",
        who,
        status=HTTPStatus.OK if checked is None else HTTPStatus.UNPROCESSABLE_ENTITY,
        file=file,
        options=options,
        recipe=recipe,
        recipes=list(RECIPES.values()),
        checked=checked,
        projects=service.projects,
    )
