"""Which error does a service's problem+json tell of? The same that the function it called has raised there."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx2

from hpo.errors import NotAllowedError, ServiceError, ServiceUnavailableError, StudyOverError
from hpo.problem_codes import known_errors

LOGIN = "give a token by HPO_TOKEN, or log in: hpo login"
PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


def refusal_of(answer: httpx2.Response, url: str) -> Exception:
    """The error of an answer that is none of success."""
    told = _problem(answer)
    detail, code = str(told.get("detail") or answer.reason_phrase), str(told.get("code", ""))
    kind = known_errors().get(code)
    if is_passing(answer):
        return ServiceUnavailableError(f"{url}: {detail}")
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        return NotAllowedError(f"{url}: {detail}; {LOGIN} {url}")
    if kind is not None:
        return kind(detail)
    if answer.status_code == HTTPStatus.FORBIDDEN:
        return NotAllowedError(f"{url}: {detail}")
    if answer.status_code == HTTPStatus.GONE:
        return StudyOverError(detail)
    if not told:
        return ServiceError(f"{url}: {answer.status_code} {detail}: is a Hindsight service at this address?")
    refusal = ServiceError(detail)
    refusal.code = code
    return refusal


def is_passing(answer: httpx2.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    is_being_answered = answer.status_code == HTTPStatus.CONFLICT and "Retry-After" in answer.headers
    return answer.status_code in PASSING or is_being_answered


def is_trouble_of_service(error: Exception) -> bool:
    """Whether a refusal is of a mistake there, not of what was asked."""
    return type(error) is ServiceError and error.code in ("", "unforeseen")


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) and "code" in told else {}
