"""Is each answer as the API's own description says? Clients of the tests ask so of all that they get."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
from fastapi.testclient import TestClient

OF_TESTS = frozenset({"/api/v1/count"})  # routes that are added by tests


class Description:
    """What the API says of its answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = [
            (re.compile(re.sub(r"\{name\}", ".+", re.sub(r"\{(?!name\})\w+\}", "[^/]+", path)) + "$"), path)
            for path in sorted(document["paths"], key=lambda path: (path.count("{"), -len(path)))
        ]
        self._validators: dict[tuple[str, str, str, str], Any] = {}

    def check(self, response: Any) -> None:
        """Raises AssertionError for an answer that is not as it was promised."""
        method, path, status = response.request.method.lower(), response.request.url.path, str(response.status_code)
        known = [template for pattern, template in self._paths if pattern.match(path)]
        template = next((each for each in known if method in self._document["paths"][each]), None)
        if template is None:
            is_refused = status in ("404", "405")  # there is no such path, or nothing of that kind at it
            is_of_all = method in ("head", "options")  # which say of a path what GET would, and what it allows
            assert is_refused or is_of_all or path in OF_TESTS, f"{method} {path} answers {status}; nobody describes it"
            return
        if status == "204":
            return
        responses = self._document["paths"][template][method]["responses"]
        content = responses.get(status, responses["default"]).get("content", {})
        kind = response.headers.get("content-type", "").partition(";")[0]
        assert any(each.partition(";")[0] == kind for each in content), f"{method} {path} answers {status} with {kind}"
        if kind.endswith("json") and "schema" in content.get(kind, {}):
            response.read()
            validator = self._validator(template, method, status, kind, content[kind]["schema"])
            found = json.loads(response.content)
            errors = [f"{list(each.instance_path)}: {each.message[-200:]}" for each in validator.iter_errors(found)]
            assert not errors, f"{method} {path}: {status} is not as described: {errors[:3]}"

    def _validator(self, path: str, method: str, status: str, kind: str, schema: Any) -> Any:
        key = path, method, status, kind
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole)
        return self._validators[key]


_known: list[Description] = []


def checks_answers(client: TestClient) -> TestClient:
    """The same client; what it is answered is checked."""
    if not _known:  # every application of ours says the same
        _known.append(Description(client.app.openapi()))  # type: ignore[attr-defined]
    client.event_hooks["response"].append(_known[0].check)
    return client
