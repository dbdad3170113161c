"""`/history`, `/families`, `/tasks`, `/export`, `/recipes`: what there is, what is odd, mending and letting go."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from hpo.api.app import create_api
from hpo.service.state import Service
from storage import audit, history, launches, repairs, studies, tokens
from storage.database import Store
from storage.errors import StorageError
from storage.importers.table import import_table
from storage.integrity import verify
from storage.revisions import history_mark
from tests.integration.service.described import checks_answers


@pytest.fixture(scope="module")
def service(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Six tasks of one family: one of them mixes percentages with fractions, and one is the wrong way round."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(migrated_sqlite, folder / "history.db")
    store = Store(f"sqlite:///{folder / 'history.db'}")
    rng = np.random.default_rng(3)
    lines = ["task,lr,wd,val_acc"]
    for task in ("a", "b", "c", "d", "percent", "reversed"):
        for place in range(40):
            lr, wd = 10 ** rng.uniform(-4, 0), 10 ** rng.uniform(-6, -2)
            value = 0.9 - 0.05 * (np.log10(lr) + 2) ** 2 - 0.01 * (np.log10(wd) + 4) ** 2 + rng.normal(0, 0.01)
            value = 1 - value if task == "reversed" else 100 * value if task == "percent" and place % 2 else value
            lines.append(f"{task},{lr},{wd},{value}")
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    import_table(store, folder / "runs.csv", metric="val_acc", direction="maximize", task="task")
    service = Service(store=store, mlflow_uri=None, runs=folder / "runs", projects=folder)
    yield service
    service.calculations.close()
    store.dispose()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    secret, _ = tokens.create_token(service.store, owner="ann", role="operator", created_by="a test")
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_api(service), headers=headers, raise_server_exceptions=False) as client:
        yield checks_answers(client)


def _get(client: TestClient, path: str, **query: Any) -> Any:
    answer = client.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _study(service: Service, task: str) -> history.StudySummary:
    return next(study for study in history.list_studies(service.store) if study.task == task)


def test_what_there_is(client: TestClient, service: Service) -> None:
    overview = _get(client, "history")
    (family,) = overview["families"]
    assert (family["tasks"], family["trials"], family["quarantined"]) == (6, 240, 2)
    assert len(overview["quarantine"]) == 2
    assert [source["kind"] for source in _get(client, "sources")] == ["table"]
    assert [task["name"] for task in _get(client, "tasks")] == ["a", "b", "c", "d", "percent", "reversed"]
    first = _get(client, "tasks", search="percent")[0]
    assert _get(client, f"tasks/{first['task_id']}") == first
    assert client.get("/api/v1/tasks/999").json()["code"] == "task-not-found"
    assert len(_get(client, f"families/{family['name']}")["members"]) == 6
    assert client.get("/api/v1/families/nobodys").json()["code"] == "family-not-found"
    assert [each["name"] for each in _get(client, "families", search="LR")] == [family["name"]]
    about = _get(client, "history/about", name="a")
    assert (about["kind"], about["trials"], about["best"]["task"]) == ("task", 40, "a")
    near = client.get("/api/v1/history/about", params={"name": "percen"})
    assert (near.status_code, near.json()["code"]) == (404, "no-history") and "percent" in near.json()["detail"]
    assert _get(client, "history/totals", where="task = a")["trials"] == 40
    assert _get(client, "history/spaces")["relations"] == []
    assert "digits_mlp" in [recipe["name"] for recipe in _get(client, "recipes")]


def test_what_is_odd_is_shown_with_its_evidence_and_mended(client: TestClient, service: Service) -> None:
    family = _study(service, "a").family
    odd = {each["study"]: each for each in _get(client, f"families/{family}/quality")["oddities"]}
    percent, turned = _study(service, "percent"), _study(service, "reversed")
    assert set(odd) == {percent.name, turned.name}
    assert odd[percent.name]["remedy"]["sentence"] == "the 20 values above 1 are divided by 100"
    assert odd[turned.name]["remedy"]["sentence"] == "all 40 values become 1 - value"
    mark = history_mark(service.store)
    for study, kind in ((percent, "scale break"), (turned, "reversed direction")):
        done = client.post("/api/v1/history/repair", json={"study": study.name, "kind": kind})
        assert done.status_code == 200, done.text
    assert history_mark(service.store) != mark
    assert _get(client, "history")["quarantine"] == {}
    assert _get(client, f"families/{family}/quality")["oddities"] == []
    after = _study(service, "percent")
    assert after.best is not None and after.best < 1.0  # what was remembered of it is told anew
    values = [trial.value for trial in history.list_trials(service.store, turned.study_id)]
    assert all(0.0 <= (value or 0.0) <= 1.0 for value in values)
    assert verify(service.store) == []  # and sealed
    again = client.post("/api/v1/history/repair", json={"study": percent.name, "kind": "scale break"})
    assert (again.status_code, again.json()["code"]) == (422, "storage")
    assert [entry.action for entry in audit.list_entries(service.store, action="study.repair")] == ["study.repair"] * 2


def test_quarantine_trust_and_who_may(client: TestClient, service: Service) -> None:
    study = _study(service, "d")
    body = {"study": study.name, "reason": "its <b>data</b> was wrong"}
    assert client.post("/api/v1/history/quarantine", json=body).status_code == 200
    assert _get(client, "history")["quarantine"] == {study.name: "ann: its <b>data</b> was wrong"}
    quality = _get(client, f"families/{study.family}/quality")["oddities"]
    assert [(each["kind"], each["remedy"]) for each in quality if each["study"] == study.name] == [("quarantine", None)]
    trusted = client.post("/api/v1/history/trust", json={"study": study.name}).json()
    assert trusted["was_in_quarantine"] and _get(client, "history")["quarantine"] == {}
    assert client.post("/api/v1/history/trust", json={"study": "nobody's"}).json()["code"] == "study-not-found"
    secret, _ = tokens.create_token(service.store, owner="eve", role="viewer", created_by="a test")
    for path in ("quarantine", "trust", "repair", "forget", "verify", "summarize"):
        headers = {"Authorization": f"Bearer {secret}"}
        assert client.post(f"/api/v1/history/{path}", json={}, headers=headers).status_code == 403


def test_runs_leave_as_a_table_or_as_recorded_tables(client: TestClient, service: Service) -> None:
    family = _study(service, "a").family
    rows = client.get("/api/v1/export", params={"format": "csv", "where": "task = a"})
    read = list(csv.DictReader(io.StringIO(rows.text)))
    assert len(read) == 40 and float(read[0]["params.lr"]) > 0
    objects = json.loads(client.get("/api/v1/export", params={"format": "json", "family": "b"}).text)
    assert {each["task"] for each in objects} == {"b"}
    tables = client.get("/api/v1/export", params={"family": family})
    assert "trials.parquet" in zipfile.ZipFile(io.BytesIO(tables.content)).namelist()
    parquet = client.get("/api/v1/export", params={"format": "parquet", "where": "task = a"})
    assert parquet.content[:4] == b"PAR1"
    for query, code in (({}, "settings"), ({"family": "nobody's"}, "family-not-found"), ({"where": "("}, "settings"),
                        ({"format": "csv", "where": "("}, "query")):  # fmt: skip
        assert client.get("/api/v1/export", params=query).json()["code"] == code, query


def test_a_source_is_forgotten_with_all_of_it(client: TestClient, service: Service) -> None:
    (source,) = (each["name"] for each in _get(client, "sources"))
    told = client.post("/api/v1/history/forget", json={"source": source, "dry_run": True}).json()
    assert (told["studies"], told["trials"], told["dry_run"]) == (6, 240, True)
    assert client.post("/api/v1/history/forget", json={"source": "nobody's"}).json()["code"] == "source-not-found"
    assert client.post("/api/v1/history/forget", json={"source": source}).json()["trials"] == 240
    assert _get(client, "history")["families"] == [] and _get(client, "tasks") == []


def test_the_studies_that_ran_here_are_forgotten_by_an_admin_only_and_not_while_one_is_to_run(
    client: TestClient, service: Service
) -> None:
    study_id = studies.create_study(service.store, name="precious", metric="loss")
    refused = client.post("/api/v1/history/forget", json={"source": "hindsight"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")
    assert "it takes an admin" in refused.json()["detail"]
    assert client.post("/api/v1/history/forget", json={"source": "hindsight", "dry_run": True}).json()["studies"] == 1
    secret, _ = tokens.create_token(service.store, owner="root", role="admin", created_by="a test")
    of_admin: Any = {"json": {"source": "hindsight"}, "headers": {"Authorization": f"Bearer {secret}"}}
    launches.request_launch(service.store, study_id, owner="ann", place="workers")
    for state in ("running", "paused"):
        running = client.post("/api/v1/history/forget", **of_admin)
        assert (running.status_code, running.json()["code"]) == (409, "launch")
        assert f"study 'precious' is {state} on the service: stop it first" in running.json()["detail"]
        launches.want(service.store, study_id, "pause")
    launches.want(service.store, study_id, "stop")
    assert client.post("/api/v1/history/forget", **of_admin).json()["studies"] == 1


def test_two_who_mend_a_study_at_once_mend_it_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["task,lr,acc"]
    for task in ("a", "b", "c", "percent"):
        lines += [f"{task},{0.01 + 0.02 * k},{(100 if task == 'percent' else 1) * (0.5 + 0.01 * k)}" for k in range(25)]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    import_table(store, tmp_path / "runs.csv", metric="acc", direction="maximize", task="task")
    study = next(each for each in history.list_studies(store) if each.task == "percent")
    both, look = threading.Barrier(2), repairs.oddities

    def look_at_once(*args: Any) -> Any:
        found = look(*args)
        both.wait(20)
        return found

    monkeypatch.setattr(repairs, "oddities", look_at_once)
    told: list[str] = []

    def mend() -> None:
        try:
            told.append(repairs.repair(store, study.name, kind="scale break", who="ann").sentence)
        except StorageError as error:
            told.append(str(error))

    threads = [threading.Thread(target=mend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused, done = sorted(told)
    assert refused.startswith(f"Study {study.name!r} was changed or mended meanwhile")
    assert done == "all 25 values are divided by 100"
    values = [trial.value for trial in history.list_trials(store, study.study_id)]
    assert values == pytest.approx([0.5 + 0.01 * k for k in range(25)])
