"""`/imports`: what is brought in, replayed and written out in the background, and what came of it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Path, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from dashboards.charts.comparison import difference_chart, regret_chart
from dashboards.frame import PageOperator, PageReader, back_to, page
from hpo.api.access import Identity, ServiceState
from hpo.api.answers import as_json
from hpo.api.paging import Cursor
from hpo.api.problems import ApiError
from hpo.api.routes import jobs as job_routes
from hpo.api.wire_jobs import ExportRequest, ImportRequest, JobRecord, ReplayRequest, UploadSettings
from hpo.errors import HpoError
from hpo.replay.regimes import REGIMES
from hpo.service.state import Service
from hpo.studies.yaml_lines import parse_yaml
from storage import background_jobs
from storage.errors import StorageError

JOBS_SHOWN = 25
UNFINISHED = ("queued", "running")
METHODS = {  # of a replay; those that are marked at first
    "history": True,
    "gp+portfolio": True,
    "portfolio": True,
    "tpe": True,
    "random": True,
    "gp": False,
    "tpe+portfolio": False,
    "gpsampler": False,
    "cma": False,
}
REGRETS = ("minmax", "median")

What = Literal["mlflow", "optuna", "table", "lightning", "replay", "export", "verify"]
JobId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Text = Annotated[str, Form(max_length=10_000)]
Regret = Annotated[Literal["minmax", "median"], Query()]

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A form as it was sent, and what is wrong with it."""

    given: Mapping[str, Any]
    problem: str


@router.get("/imports")
def get_imports(
    request: Request, who: PageReader, service: ServiceState, what: What = "mlflow", cursor: Cursor = None
) -> HTMLResponse:
    """What can be started, and what runs and ran."""
    return _shown(request, who, service, what, cursor=cursor)


@router.post("/imports")
def post_import(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    what: Annotated[Literal["mlflow", "optuna", "table", "lightning"], Form()],
    place: Text = "",
    names: Text = "",
    filter: Text = "",
    since: Text = "",
    metric: Text = "",
    direction: Text = "",
    task: Text = "",
    source: Text = "",
    mapping: Text = "",
    dry_run: Annotated[bool, Form()] = False,
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Start an import; where something is wrong with it, the form again with what that is."""
    given: dict[str, Any] = {"place": place, "names": names, "filter": filter, "since": since, "metric": metric}
    given |= {"direction": direction, "task": task, "source": source, "mapping": mapping, "dry_run": dry_run}
    place_key = {"mlflow": "uri", "optuna": "storage", "table": "path", "lightning": "folder"}[what]
    names_key = {"mlflow": "experiments", "optuna": "studies"}.get(what)
    is_judged = what != "optuna"
    try:
        how: dict[str, Any] = {"source": source or None, "dry_run": dry_run, "mapping": _mapping(mapping)}
        how |= {"metric": metric or None, "direction": direction or None, "task": task or None} if is_judged else {}
        if what == "table" and file is not None and file.filename:
            settings = UploadSettings.model_validate(how).model_dump_json()
            return _to(job_routes.upload_table(who, service, file, settings))
        how |= {"kind": what, place_key: place or None}
        how |= {names_key: [name.strip() for name in names.splitlines() if name.strip()]} if names_key else {}
        how |= {"filter": filter, "since": since or None} if what == "mlflow" else {}
        wanted: Any = TypeAdapter(ImportRequest).validate_python(how)
        return _to(job_routes.start_import(who, service, wanted))
    except (ApiError, HpoError, StorageError, ValidationError) as error:
        return _shown(request, who, service, what, draft=_Draft(given=given, problem=_in_words(error)))


@router.post("/imports/replay")
def post_replay(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    methods: Annotated[list[str], Form(max_length=20)] = [],  # noqa: B006  # FastAPI copies it
    regime: Text = "full",
    budget: Text = "30",
    seeds: Text = "10",
    tasks: Text = "",
    family: Text = "",
) -> Response:
    """Start a replay: how many trials would each method have needed?"""
    given = {"methods": methods, "regime": regime, "budget": budget, "seeds": seeds, "tasks": tasks, "family": family}
    asked = given | {"tasks": tasks or None, "family": family or None}
    return _started(request, who, service, "replay", given, ReplayRequest, asked)


@router.post("/imports/export")
def post_export(request: Request, who: PageOperator, service: ServiceState, target: Text = "") -> Response:
    """Start to write past runs as recorded tables."""
    return _started(request, who, service, "export", {"target": target}, ExportRequest, {"target": target})


@router.post("/imports/verify")
def post_verify(who: PageOperator, service: ServiceState) -> RedirectResponse:
    """Start to look whether all is whole."""
    return _to(job_routes.start_verifying(who, service))


@router.get("/imports/{job_id}")
def get_job(request: Request, who: PageReader, service: ServiceState, job_id: JobId) -> HTMLResponse:
    """One job: how far it is, and what came of it."""
    job = job_routes.get_job(who, service, job_id)
    is_over = job.state not in UNFINISHED
    content: dict[str, Any] = {"job": job, "settings": _told(job), "is_over": is_over, "may_change": who.may("operate")}
    return page(request, "job.html", who, **content, regrets=REGRETS)


@router.post("/imports/{job_id}/cancel")
def post_cancel(who: PageOperator, service: ServiceState, job_id: JobId) -> RedirectResponse:
    """End a job that has not ended."""
    return _to(job_routes.cancel_job(who, service, job_id))


@router.get("/imports/{job_id}/figures/regret")
def get_regret(who: PageReader, service: ServiceState, job_id: JobId, kind: Regret = "minmax") -> Response:
    """The regret of each method of a replay along its trials."""
    return as_json(regret_chart(_replay(service, job_id)["overall"], kind=kind))


@router.get("/imports/{job_id}/figures/differences")
def get_differences(who: PageReader, service: ServiceState, job_id: JobId, kind: Regret = "minmax") -> Response:
    """How far each method of a replay is from the baseline after as many trials as were compared."""
    compared = _replay(service, job_id)["comparisons"]
    places = [one["at"] for each in compared for one in each["differences"] if one["kind"] == kind]
    if not places:
        raise ApiError(404, "not-found", "this replay has compared nothing: it had one method")
    return as_json(difference_chart(compared, kind=kind, at=max(places)))


# How it is put together


def _shown(
    request: Request,
    who: Identity,
    service: Service,
    what: str,
    *,
    cursor: str | None = None,
    draft: _Draft | None = None,
) -> HTMLResponse:
    found = job_routes.list_jobs(who, service, limit=JOBS_SHOWN, cursor=cursor)
    return page(
        request,
        "imports.html",
        who,
        status=200 if draft is None else 422,
        what=what,
        jobs=found.items,
        settings={job.id: _told(job) for job in found.items},
        next=found.next,
        is_busy=any(job.state in UNFINISHED for job in found.items),
        may_change=who.may("operate"),
        given=draft.given if draft is not None else {},
        problem=draft.problem if draft is not None else None,
        methods=METHODS,
        regimes=REGIMES,
        has_own_mlflow=service.mlflow_uri is not None,
    )


def _started(
    request: Request,
    who: Identity,
    service: Service,
    what: Literal["replay", "export"],
    given: Mapping[str, Any],
    kind: type[BaseModel],
    asked: Mapping[str, Any],
) -> Response:
    start: Any = {"replay": job_routes.start_replay, "export": job_routes.start_export}[what]
    try:
        return _to(start(who, service, kind.model_validate(asked)))
    except (ApiError, HpoError, StorageError, ValidationError) as error:
        return _shown(request, who, service, what, draft=_Draft(given=given, problem=_in_words(error)))


def _told(job: JobRecord) -> dict[str, Any]:
    """What was asked for, without what was left as it is."""
    shown = {name.replace("_", " "): value for name, value in job.settings.items() if value is not False}
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in shown.items()}


def _to(job: JobRecord) -> RedirectResponse:
    return back_to(f"/imports/{job.id}")


def _mapping(text: str) -> Any:
    """The keys of a mapping file. Raises SpecError for what is no YAML."""
    return parse_yaml(text, "mapping")[0] if text.strip() else None


def _in_words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return error.detail if isinstance(error, ApiError) else str(error)
    return "\n".join(f"{'.'.join(map(str, each['loc'][-1:]))}: {each['msg']}" for each in error.errors())


def _replay(service: Service, job_id: int) -> dict[str, Any]:
    job = background_jobs.get_job(service.store, job_id)
    if job.kind != "replay" or job.result is None:
        raise ApiError(404, "not-found", f"job {job_id} is no replay that has ended")
    found: dict[str, Any] = job.result
    return found
