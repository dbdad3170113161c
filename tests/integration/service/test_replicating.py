"""The contenders of a study are trained again on the server: by its limits, over a restart, and once more."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from fastapi.testclient import TestClient

from dashboards.app import create_app
from hpo.service.state import Service
from hpo.service.supervisor import Supervisor
from hpo.service.turns import Round
from hpo.studies.replicates import SUFFIX
from storage import audit, history, launches
from storage.database import Store
from storage.load import current_load
from storage.optuna_storage import HistoryStorage
from tests.integration.service.test_supervisor import PARABOLA, file_of, found, launch, wait_until


@pytest.fixture
def store(sqlite_store: Store) -> Store:
    """Of one kind: what differs between databases is tested with launches."""
    return sqlite_store


@pytest.fixture
def study_id(service: Service, tmp_path: Path) -> int:
    """A study of four trials that were trained elsewhere, with the code that is among the projects here."""
    (service.projects / "parabola.py").write_text(PARABOLA)
    made = launch(service, file_of("para", trials=4, pause=0.2))
    launches.want(service.store, made, "stop")
    study = optuna.load_study(study_name="para", storage=HistoryStorage(service.store))
    for x in (0.1, 0.3, 0.5, 0.9):
        study.enqueue_trial({"x": x})
        trial = study.ask()
        study.tell(trial, (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2)
    return made


def test_replicates_are_trained_within_the_limits_over_a_restart_and_once_more(
    service: Service, client_as: Callable[..., TestClient], study_id: int
) -> None:
    operator, path = client_as("operator", "ann"), f"/api/v1/studies/{study_id}/replicates"
    assert client_as("viewer").post(path, json={"replicates": 3}).status_code == 403
    told = operator.post(path, json={"replicates": 3}).json()
    assert (told["name"], told["launch"]["state"], told["launch"]["owner"]) == ("para" + SUFFIX, "queued", "ann")
    again = operator.post(path, json={"replicates": 5})
    assert (again.status_code, again.json()["code"]) == (409, "launch")
    waiting = launch(service, file_of("behind"))  # the server has room for one of them at a time
    tight = Round(current_load(service.store), type(service.limits)(trials_on_server=1))
    assert tight.why_waiting(told["id"]) is None
    assert "is first" in (tight.why_waiting(waiting) or "")
    launches.want(service.store, waiting, "stop")

    for is_last in (False, True):
        supervisor = Supervisor(service)
        supervisor.start()
        try:
            if is_last:
                wait_until(lambda: found(service, told["id"]).state == "done", "they do not end")
            else:
                wait_until(lambda: found(service, told["id"]).trials, "none is trained")
        finally:
            supervisor.stop()
        assert is_last or found(service, told["id"]).state == "queued"
    message = found(service, told["id"]).message or ""
    assert message.startswith("3 replicates are finished: of ")
    best = operator.get("/api/v1/statistics/best", params={"study": "para"}).json()
    assert best["replication"]["spent"] == 3
    assert len(history.list_trials(service.store, told["id"])) == 3  # what was interrupted went on: none is doubled

    with TestClient(create_app(service), headers=operator.headers, follow_redirects=False) as browser:
        shown = browser.get(f"/studies/{study_id}/best").text
        assert "3 replicates finished of at most 3" in shown
        assert 'value="15"' in shown
        asked = browser.post(f"/studies/{study_id}/replicates", data={"most": "4", "jobs": "2"})
        assert (asked.status_code, asked.headers["location"]) == (303, f"/studies/{study_id}/best")
        assert "Stop them" in browser.get(f"/studies/{study_id}/best").text
    assert (found(service, told["id"]).state, found(service, told["id"]).jobs) == ("queued", 2)
    actions = [entry.action for entry in audit.list_entries(service.store, limit=20)]
    assert actions.count("study.replicate") == 2


def test_what_cannot_be_replicated_is_refused_before_anything_is_made(
    service: Service, client_as: Callable[..., TestClient], study_id: int
) -> None:
    operator = client_as("operator")
    optuna.create_study(storage=HistoryStorage(service.store), study_name="by hand")
    by_hand, empty = history.get_study(service.store, "by hand").study_id, launch(service, file_of("empty"))
    asked = {key: value for key, value in file_of("asked").items() if key != "trainer"}
    by_programs = launch(service, asked, place="workers")
    for number, body, words in (
        (by_hand, {"replicates": 3}, "was not run by `hpo tune`"),
        (by_programs, {"replicates": 3}, "names no trainer"),
        (empty, {"replicates": 3}, "no complete trial yet"),
        (study_id, {"replicates": 3, "against": 99}, "99"),
        (study_id, {"replicates": 3, "jobs": 900}, "the limit of trials on the server itself"),
        (study_id, {"replicates": 3, "executor": "ray"}, "no Ray cluster"),
        (study_id, {"replicates": 0}, "greater than or equal to 1"),
        (2**30, {"replicates": 3}, "no study"),
    ):
        answer = operator.post(f"/api/v1/studies/{number}/replicates", json=body)
        assert answer.status_code in (404, 422), answer.text
        assert words in answer.text
    assert all(SUFFIX not in study.name for study in history.list_studies(service.store))
