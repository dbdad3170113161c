"""`/jobs`, and what they are asked for by: `/imports`, `/replays`, `/exports`, `/history/verify`, `.../promote`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Path, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import ValidationError

from hpo.api.access import Identity, Operator, Reader, ServiceState
from hpo.api.answers import is_file, says
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.problems import ApiError
from hpo.api.routes.studies import StudyId
from hpo.api.wire_jobs import (
    AnyJob,
    ExportJob,
    ExportRequest,
    ImportJob,
    ImportRequest,
    JobRecord,
    Kind,
    LightningImport,
    MlflowImport,
    OptunaImport,
    PromotionJob,
    PromotionRequest,
    ReplayJob,
    ReplayRequest,
    State,
    SummarizeJob,
    UploadSettings,
    VerifyJob,
    job_of,
    told_settings,
)
from hpo.decisions.promotion import refuse_unusable
from hpo.errors import SettingsError
from hpo.service.allowed_places import Places, mlflow_place, optuna_place, path_of_projects
from hpo.service.job_files import FILE_NAMES
from hpo.service.jobs import DAYS_KEPT, folder_of
from hpo.service.state import Service
from hpo.service.uploads import safe_name
from storage import background_jobs, history
from storage.audit import Doer
from storage.errors import FamilyNotFoundError, did_you_mean
from storage.importers.mapping import RunMapping
from storage.overview import kinds_of, known_names
from storage.trial_pages import trial_numbered

CHUNK = 1 << 20
FILES = {".zip": "application/zip", ".jsonl": "application/jsonl"}
JobId = Annotated[int, Path(ge=1, le=2**31 - 1, description="Of the job.")]

router = APIRouter(tags=["jobs"])


@router.get("/jobs", response_model=None, responses=says(Page[AnyJob]))
def list_jobs(
    who: Reader,
    service: ServiceState,
    kind: Kind | None = None,
    state: State | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[JobRecord]:
    """What runs and ran in the background, the newest first."""
    before = decode_cursor(cursor, int)
    found = background_jobs.list_jobs(service.store, limit=limit + 1, before=before, kind=kind, state=state)
    shown = found[:limit]
    more = encode_cursor(shown[-1].job_id) if len(found) > limit else None
    return Page(items=[job_of(job) for job in shown], next=more)


@router.get("/jobs/{job_id}", response_model=None, responses=says(AnyJob))
def get_job(who: Reader, service: ServiceState, job_id: JobId) -> JobRecord:
    """One of them, with its progress and its result."""
    return job_of(background_jobs.get_job(service.store, job_id))


@router.get("/jobs/{job_id}/file", response_class=FileResponse, responses=is_file(*FILES.values()))
def get_file(who: Reader, service: ServiceState, job_id: JobId) -> FileResponse:
    """The tables that an export has written, as a ZIP archive; the runs of a replay, as lines of JSON.

    409 `not-done` while, or where, there are none.
    """
    job = background_jobs.get_job(service.store, job_id)
    path = folder_of(service.runs, job_id) / FILE_NAMES.get(job.kind, "")
    if job.kind not in FILE_NAMES or job.state != "done" or not path.is_file():
        kept = f"; files are kept for {DAYS_KEPT} days" if job.kind in FILE_NAMES else ""
        what = f"it is a job of kind {job.kind} that is {job.state}{kept}"
        raise ApiError(409, "not-done", f"job {job_id} has no file: {what}")
    return FileResponse(path, media_type=FILES[path.suffix], filename=f"{job.kind}-{job_id}{path.suffix}")


@router.post("/jobs/{job_id}/cancel", response_model=None, responses=says(AnyJob))
def cancel_job(who: Operator, service: ServiceState, job_id: JobId) -> JobRecord:
    """End a job that has not ended; what an import has taken till then stays. One that has ended stays as it is."""
    before = background_jobs.get_job(service.store, job_id)
    job = background_jobs.cancel_job(service.store, job_id, doer=Doer(who=who.owner, action="job.cancel"))
    if before.state == "queued":
        shutil.rmtree(folder_of(service.runs, job_id), ignore_errors=True)
    return job_of(job)


@router.post("/imports", status_code=202, response_model=None, responses=says(ImportJob, status=202))
def start_import(who: Operator, service: ServiceState, request: ImportRequest) -> JobRecord:
    """Bring past runs in, each once, however often. The job's `result` is as `hpo history import --json`.

    422 `settings`: the place is not allowed, or there is nothing.
    """
    RunMapping.of(request.mapping)
    places = _places(service)
    if isinstance(request, MlflowImport):
        mlflow_place(request.uri, places)
    elif isinstance(request, OptunaImport):
        optuna_place(request.storage, places)
    else:
        path_of_projects(request.folder if isinstance(request, LightningImport) else request.path, places)
    return _asked(service, who, "import", request.model_dump(mode="json"))


@router.post("/imports/upload", status_code=202, response_model=None, responses=says(ImportJob, status=202))
def upload_table(
    who: Operator,
    service: ServiceState,
    file: Annotated[UploadFile, File(description="A CSV or Parquet file, or a ZIP archive of recorded tables.")],
    settings: Annotated[str, Form(max_length=100_000, description="How it is read, as JSON: metric, task, …")] = "{}",
) -> JobRecord:
    """Bring in a table that is sent: what `POST /imports` does of kind `table`, for a file that is not there yet."""
    name = safe_name(file.filename or "")
    try:
        how = UploadSettings.model_validate_json(settings)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("settings", *each["loc"])} for each in error.errors()]) from None
    RunMapping.of(how.mapping)
    asked = {"kind": "table", "upload": name, **how.model_dump(mode="json")}
    doer = Doer(who=who.owner, action="import.upload", details={"file": name})
    job = background_jobs.add_job(
        service.store, kind="import", owner=who.owner, settings=asked, is_held=True, doer=doer
    )
    folder = folder_of(service.runs, job.job_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / name).open("wb") as kept:
            shutil.copyfileobj(file.file, kept, CHUNK)
    except OSError:
        background_jobs.cancel_job(service.store, job.job_id)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    job = background_jobs.release_job(service.store, job.job_id)
    if job.state == "cancelled":  # while it was sent
        shutil.rmtree(folder, ignore_errors=True)
    return job_of(job)


@router.post("/replays", status_code=202, response_model=None, responses=says(ReplayJob, status=202))
def start_replay(who: Operator, service: ServiceState, request: ReplayRequest) -> JobRecord:
    """Tune recorded tasks again: how many trials would each method have needed? As `hpo replay --json`."""
    if request.baseline is not None and request.baseline not in request.methods:
        raise ApiError(422, "settings", f"baseline {request.baseline!r} is not among the methods")
    return _asked(service, who, "replay", request.model_dump(mode="json"))


@router.post("/exports", status_code=202, response_model=None, responses=says(ExportJob, status=202))
def start_export(who: Operator, service: ServiceState, request: ExportRequest) -> JobRecord:
    """Write past runs as recorded tables, which an import reads again; `GET /jobs/{id}/file` hands them out."""
    if not kinds_of(service.store, request.target):
        hint = did_you_mean(request.target, known_names(service.store))
        raise FamilyNotFoundError(f"There is no family, task, study or source named {request.target!r}.{hint}")
    return _asked(service, who, "export", request.model_dump(mode="json"))


@router.post(
    "/history/verify", status_code=202, response_model=None, responses=says(VerifyJob, status=202), tags=["history"]
)
def start_verifying(who: Operator, service: ServiceState) -> JobRecord:
    """Look for what is not whole, does not fit together, or was tampered with; as `hpo history verify --json`."""
    return _asked(service, who, "verify", {})


@router.post(
    "/history/summarize",
    status_code=202,
    response_model=None,
    responses=says(SummarizeJob, status=202),
    tags=["history"],
)
def start_summarizing(who: Operator, service: ServiceState) -> JobRecord:
    """Make ready what the tuner needs of each family, as after a large import, so that no study waits for it."""
    return _asked(service, who, "summarize", {})


@router.post(
    "/studies/{study_id}/promote",
    status_code=202,
    response_model=None,
    responses=says(PromotionJob, status=202),
    tags=["studies"],
)
def start_promotion(who: Operator, service: ServiceState, study_id: StudyId, request: PromotionRequest) -> JobRecord:
    """Put a trial's model into MLflow's registry as the champion. The job's `result` is as `hpo promote --json`.

    It takes as long as the model takes to load, and to be tried on the validation data. 422 `settings`: no checkpoint
    of the trial was kept, or there is no MLflow.
    """
    study = history.study_of_id(service.store, study_id)
    if request.trial is not None:
        refuse_unusable(study, trial_numbered(service.store, study_id, request.trial, known=service.known_sets))
    if study.mlflow_uri is None and service.mlflow_uri is None:
        raise SettingsError("a model is registered in MLflow, and this service was started without one")
    asked = {"study_id": study_id, "study": study.name, **request.model_dump(mode="json")}
    return _asked(service, who, "promotion", asked)


def _asked(service: Service, who: Identity, kind: Kind, settings: Mapping[str, Any]) -> JobRecord:
    doer = Doer(who=who.owner, action=f"{kind}.start", details=told_settings(settings))
    return job_of(background_jobs.add_job(service.store, kind=kind, owner=who.owner, settings=settings, doer=doer))


def _places(service: Service) -> Places:
    return Places(projects=service.projects, hosts=service.import_hosts, own_mlflow=service.mlflow_uri)
