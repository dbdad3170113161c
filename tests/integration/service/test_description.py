"""Does the API describe itself so that programs can read it, and are breaches of it seen?"""

from collections.abc import Callable
from types import SimpleNamespace

import jsonschema_rs
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from schemathesis.specs.openapi.definitions import OPENAPI_31  # as the specification publishes it

from storage.database import Store
from tests.integration.service.described import Description


@pytest.fixture
def store(sqlite_store: Store) -> Store:
    """Of one kind: the description is the same."""
    return sqlite_store


def test_every_operation_has_a_short_name_and_says_what_it_answers_with(app: FastAPI) -> None:
    document = app.openapi()
    assert list(jsonschema_rs.validator_for(OPENAPI_31).iter_errors(document)) == []
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and "api_v1" not in name for name in names)
    for operation in operations:
        for status, response in operation["responses"].items():
            assert status == "204" or response["content"], operation["operationId"]
            assert all(said.get("schema") for said in response["content"].values()) if status != "204" else True
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_an_answer_that_is_not_as_described_is_seen(app: FastAPI, client_as: Callable[..., TestClient]) -> None:
    answer = client_as("viewer").get("/api/v1/recipes")  # which is checked as it comes
    told = Description(app.openapi())
    told.check(answer)
    changed = SimpleNamespace(
        request=answer.request,
        status_code=200,
        headers=answer.headers,
        content=answer.content.replace(b'"metric":', b'"matric":'),
        read=lambda: None,
    )
    with pytest.raises(AssertionError, match="is not as described"):
        told.check(changed)


def test_a_route_that_nobody_describes_is_seen(app: FastAPI, client_as: Callable[..., TestClient]) -> None:
    client = client_as("viewer")

    @app.get("/api/v1/secret", include_in_schema=False)
    @app.post("/api/v1/recipes", include_in_schema=False)
    def hidden() -> dict[str, int]:
        return {}

    assert client.get("/api/v1/nowhere").status_code == 404
    assert client.post("/api/v1/families").status_code == 405
    for ask, path in ((client.get, "/api/v1/secret"), (client.post, "/api/v1/recipes")):
        with pytest.raises(AssertionError, match="answers 200; nobody describes it"):
            ask(path)
