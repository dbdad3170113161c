"""How is an error told over HTTP? As problem+json (RFC 9457), whose `detail` is the message that every tool shows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hpo.errors import (
    DirectionError,
    HpoError,
    MlflowUnavailableError,
    NoHistoryError,
    SettingsError,
    SpaceError,
    SpecError,
    StudyFailedError,
    StudyOverError,
    StudyPausedError,
)
from hpo.problem_codes import code_of
from storage import errors as store
from storage.masking import without_secrets
from trainers.errors import TrainerError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
ABOUT_THE_STORE = {store.StoreUnavailableError, store.SchemaOutdatedError, store.SchemaTooNewError}
STORE_AWAY = "the history cannot be used just now; the service's log says why"

log = logging.getLogger(__name__)

STATUS: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (store.StoreUnavailableError, 503),
    (store.SchemaOutdatedError, 503),
    (store.SchemaTooNewError, 503),
    (store.SealKeyError, 503),
    (MlflowUnavailableError, 503),
    (store.StudyNotFoundError, 404),
    (store.TrialNotFoundError, 404),
    (store.FamilyNotFoundError, 404),
    (store.SourceNotFoundError, 404),
    (store.TokenNotFoundError, 404),
    (store.JobNotFoundError, 404),
    (NoHistoryError, 404),
    (store.StudyExistsError, 409),
    (store.LaunchError, 409),
    (store.StaleAttemptError, 409),
    (store.SenderBusyError, 409),
    (StudyFailedError, 409),
    (StudyPausedError, 409),
    (StudyOverError, 410),
    (SpecError, 422),
    (SpaceError, 422),
    (DirectionError, 422),
    (SettingsError, 422),
    (HpoError, 422),
    (store.StorageError, 422),
    (TrainerError, 422),
)


class PlaceProblem(BaseModel):
    """One of several things that are wrong with what was sent."""

    place: str  # the key, e.g. body.space.lr.low
    message: str


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    code: str  # a word for programs, e.g. study-not-found
    detail: str
    errors: list[PlaceProblem] | None = None


class ApiError(Exception):
    """An error that only HTTP has. code: a word for programs."""

    def __init__(self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers


def install(app: FastAPI) -> None:
    """Let every error of `app` be answered so."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unforeseen)
    for kind, _ in STATUS:
        app.add_exception_handler(kind, _foreseen)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[PlaceProblem] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail, errors=errors)
    return JSONResponse(
        body.model_dump(exclude_none=True), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def told(error: HTTPException) -> Response:
    """The answer that an error of HTTP itself gets."""
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return problem(error.status_code, code, str(error.detail), headers=error.headers)


def status_of(error: Exception) -> int:
    """The status that tells of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def errors_of(error: Exception) -> list[PlaceProblem] | None:
    """The lines of a study file's errors, each with its key."""
    if not isinstance(error, SpecError):
        return None
    return [PlaceProblem(place=place, message=message) for place, message in map(_split, str(error).splitlines())]


def _split(line: str) -> tuple[str, str]:
    found = re.match(r"^(?P<source>[^:]*(?::\d+)?): (?:(?P<key>[\w.\-\[\]]+): )?(?P<message>.*)$", line)
    if found is None:
        return "", line
    return found["key"] or "", found["message"]


def _foreseen(request: Request, error: Exception) -> Response:
    status, detail = status_of(error), str(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    if type(error) in ABOUT_THE_STORE:  # whoever asks may have no token, and need not know where it is
        log.warning("%s", without_secrets(detail))
        detail = STORE_AWAY
    return problem(status, code_of(type(error)), detail, errors=errors_of(error), headers=headers)


def _unforeseen(request: Request, error: Exception) -> Response:
    """A mistake of ours: what it is stays in the log."""
    request_id = getattr(request.state, "request_id", "?")
    detail = f"something went wrong that nobody had foreseen; the service's log has more under request {request_id}"
    return problem(500, "unforeseen", detail, headers={"X-Request-Id": request_id})


def _api_error(request: Request, error: Any) -> Response:
    return problem(error.status, error.code, error.detail, headers=error.headers)


def _invalid_request(request: Request, error: Any) -> Response:
    errors = [PlaceProblem(place=".".join(map(str, each["loc"])), message=_message(each)) for each in error.errors()]
    first = errors[0]
    detail = f"{first.place}: {first.message}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
    return problem(422, "invalid-request", detail, errors=errors)


def _message(error: Mapping[str, Any]) -> str:
    """What is wrong, without the name of an exception that pydantic puts before the words of ours."""
    of_ours = (error.get("ctx") or {}).get("error")
    return str(of_ours if error["type"] == "value_error" and of_ours else error["msg"])


def _http_exception(request: Request, error: Any) -> Response:
    return told(error)
