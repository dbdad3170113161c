"""How does a request reach a service, once, although connections break and servers restart?

A request that changes something carries an `Idempotency-Key`: it is repeated with the same key until an answer comes,
and the service gives the answer of the first time. What may be done twice without harm needs none. Redirects are not
followed: the token goes to nobody else.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import httpx2

from hpo.client.refusals import refusal_of
from hpo.errors import ServiceError, ServiceUnavailableError, SettingsError
from storage.retries import patiently

PREFIX = "/api/v1"
TIMEOUT_SECONDS = 30.0  # without a sign of the server
CONNECT_SECONDS = 5.0
MOST_CONNECTIONS = 100


class Transport:
    """Connections to one service, kept open, for as many threads as like."""

    def __init__(self, url: str, token: str, *, patience_seconds: float, timeout_seconds: float) -> None:
        self.url = service_url(url)
        self._patience_seconds = patience_seconds
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {_plain(token)}", "User-Agent": f"hindsight/{version('hindsight-hpo')}"},
            timeout=_timeout(timeout_seconds),
            limits=httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, *, timeout_seconds: float | None = None, **query: Any) -> Any:
        """The JSON at a path below `/api/v1`; what is None in the query is left out."""
        return self.content_of(self.send("GET", path, query=query, timeout_seconds=timeout_seconds))

    def post(self, path: str, body: Any = None, *, key: str | None = None, timeout_seconds: float | None = None) -> Any:
        """The JSON that is answered; None where there is none. key: of a request that an earlier process sent."""
        return self.content_of(self.posted(path, body, key=key, timeout_seconds=timeout_seconds))

    def post_again(self, path: str, body: Any = None) -> Any:
        """As `post`, for what may be done twice without harm: no service keeps its answer."""
        return self.content_of(self.send("POST", path, body=body))

    def content_of(self, answer: httpx2.Response) -> Any:
        """The JSON of an answer; None where it is empty. Raises ServiceError for anything else, as of a login page."""
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise ServiceError(
                f"{self.url} answers with what is no JSON: is a Hindsight service at this address?"
            ) from error

    def posted(
        self, path: str, body: Any = None, *, key: str | None = None, timeout_seconds: float | None = None
    ) -> httpx2.Response:
        """As `post`; the whole answer."""
        key = key or secrets.token_urlsafe(16)
        return self.send("POST", path, body=body, key=key, timeout_seconds=timeout_seconds)

    def delete(self, path: str, *, timeout_seconds: float | None = None, **query: Any) -> Any:
        """Delete what is at a path; the JSON that is answered, None where there is none."""
        key = secrets.token_urlsafe(16)  # else what is deleted, but not answered, would be told to be unknown
        return self.content_of(self.send("DELETE", path, query=query, key=key, timeout_seconds=timeout_seconds))

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        key: str | None = None,
        files: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx2.Response:
        """A request, repeated until it is answered or the patience ends; its answer.

        Raises the error that the service tells of; ServiceUnavailableError where there is no answer.
        """
        request = self._http.build_request(
            method,
            PREFIX + path,
            params=_without_nothing(query),
            json=body,
            files=files,
            data=data,
            headers=None if key is None else {"Idempotency-Key": key},
            timeout=self._http.timeout if timeout_seconds is None else _timeout(timeout_seconds),
        )
        request.read()  # so that it can be sent again
        return patiently(lambda: self._once(request), self._patience_seconds)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """An answer that is read while it comes; it is not repeated. Raises as `send` does."""
        with (
            self._translated(),
            self._http.stream(
                "GET",
                PREFIX + path,
                params=_without_nothing(query),
                headers=None if headers is None else dict(headers),
                timeout=self._http.timeout if timeout_seconds is None else _timeout(timeout_seconds),
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise refusal_of(answer, self.url)
            yield answer

    def _once(self, request: httpx2.Request) -> httpx2.Response:
        with self._translated():
            answer = self._http.send(request)
        if not answer.is_success:
            raise refusal_of(answer, self.url)
        return answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise ServiceUnavailableError(f"{self.url} does not answer: {error or type(error).__name__}") from error
        except httpx2.HTTPError as error:
            raise ServiceError(f"{self.url} answers what no service would: {error}") from error


def _timeout(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def service_url(text: str) -> str:
    """The address of a service without anything behind it: of any of its pages, too. Raises SettingsError."""
    try:
        url = httpx2.URL(text.strip())
    except (httpx2.InvalidURL, TypeError, ValueError):
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or " " in text.strip():
        raise SettingsError(f"server {text!r} is no address; use http://127.0.0.1:8080 or https://host")
    if url.userinfo:
        raise SettingsError("the address of a server holds no user and no password; give the token by HPO_TOKEN")
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _plain(token: str) -> str:
    """The token, if it can be sent. Raises SettingsError without showing it."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            "the token is not one: it is a word like hpo_…, as `hpo serve` or `hpo tokens create` shows"
        )
    return token


def _without_nothing(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}
