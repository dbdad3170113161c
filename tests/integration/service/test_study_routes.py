"""`/api/v1/studies`: which there are."""

from hpo.service.state import Service
from storage import studies
from tests.integration.service.conftest import ClientAs


def test_studies_are_listed_in_pages_newest_first(client_as: ClientAs, service: Service) -> None:
    for number in range(5):
        studies.create_study(service.store, name=f"study/{number}", task="digits", metric="val_loss")
    client = client_as("viewer")
    first = client.get("/api/v1/studies", params={"limit": 3}).json()
    assert [study["name"] for study in first["items"]] == ["study/4", "study/3", "study/2"]
    second = client.get("/api/v1/studies", params={"limit": 3, "cursor": first["next"]}).json()
    assert [study["name"] for study in second["items"]] == ["study/1", "study/0"]
    assert second["next"] is None


def test_a_study_is_found_by_its_name_and_told_by_its_id(client_as: ClientAs, service: Service) -> None:
    made = studies.create_study(service.store, name="a/b <i>", task="digits", metric="val_loss")
    studies.create_study(service.store, name="a/b", task="digits", metric="val_loss")
    client = client_as("viewer")
    (found,) = client.get("/api/v1/studies", params={"name": "a/b <i>"}).json()["items"]
    assert found["id"] == made
    told = client.get(f"/api/v1/studies/{made}").json()
    assert {name: told[name] for name in found} == found
    assert (told["spec"], told["stopped"]) == (None, None)


def test_an_unknown_study_and_a_cursor_of_nobodys_are_told_so(client_as: ClientAs) -> None:
    client = client_as("viewer")
    missing = client.get("/api/v1/studies/77")
    assert (missing.status_code, missing.json()["code"]) == (404, "study-not-found")
    for cursor in ("%%%", "bm9uc2Vuc2U", "e30"):
        answer = client.get("/api/v1/studies", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-cursor")


def test_studies_are_searched_by_name_task_and_family_page_by_page(client_as: ClientAs, service: Service) -> None:
    space = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    for number in range(6):
        studies.create_study(service.store, name=f"Ünit {number}", task=f"t{number % 2}", metric="m", space=space)
    client = client_as("viewer")
    assert len(client.get("/api/v1/studies", params={"search": "ünit"}).json()["items"]) == 6
    first = client.get("/api/v1/studies", params={"search": "T1", "limit": 2}).json()
    assert [study["name"] for study in first["items"]] == ["Ünit 5", "Ünit 3"]
    rest = client.get("/api/v1/studies", params={"search": "T1", "limit": 2, "cursor": first["next"]}).json()
    assert ([study["name"] for study in rest["items"]], rest["next"]) == (["Ünit 1"], None)
    family = first["items"][0]["family"]  # which no trial has told yet
    assert len(client.get("/api/v1/studies", params={"search": family}).json()["items"]) == 6
