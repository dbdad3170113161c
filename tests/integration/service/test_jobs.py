"""Background jobs: what they may reach, that they come to an end whatever dies, and what stays of them."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import optuna
import pyarrow
import pyarrow.parquet as parquet
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from hpo.api.app import create_api
from hpo.api.wire_jobs import Kind, Method, Regime, ReplayRequest
from hpo.cli.replay import replay
from hpo.errors import SettingsError
from hpo.replay.methods import METHODS
from hpo.replay.regimes import REGIMES
from hpo.replay.whole import DEFAULT_METHODS, ReplayOptions
from hpo.service import uploads
from hpo.service.allowed_places import Places, mlflow_place, optuna_place, path_of_projects
from hpo.service.jobs import LINES, Jobs, folder_of, sweep
from hpo.service.state import Service
from storage import audit, background_jobs, history, models, tokens
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from storage.queries import count_trials
from tests.integration.service.described import checks_answers

ROWS = "task,lr,val_loss\n" + "".join(f"t{i % 2},{10.0 ** -(1 + i / 20)},{0.3 + i / 100}\n" for i in range(40))


@pytest.fixture(scope="module")
def service(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(migrated_sqlite, folder / "history.db")
    (folder / "projects").mkdir()
    store = Store(f"sqlite:///{folder / 'history.db'}")
    hosts = frozenset({"mlflow.example.org", "db.example.org:5432"})
    projects, runs = folder / "projects", folder / "runs"
    yield Service(store=store, mlflow_uri=None, runs=runs, projects=projects, import_hosts=hosts)
    store.dispose()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    secret, _ = tokens.create_token(service.store, owner="ann", role="operator", created_by="a test")
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_api(service), headers=headers, raise_server_exceptions=False) as client:
        yield checks_answers(client)


@pytest.fixture(scope="module")
def working(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Started in a folder with a file of somebody's that is called like a module of Python."""
    folder = tmp_path_factory.mktemp("somebody's")
    (folder / "csv.py").write_text("raise RuntimeError('it is not to be imported')\n")
    jobs = Jobs(service)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        jobs.start()
        yield jobs
        jobs.stop()


def _ended(client: TestClient, job: dict[str, Any], seconds: float = 150.0) -> dict[str, Any]:
    return _until(client, job, lambda found: found["state"] not in ("queued", "running"), seconds)


def _until(
    client: TestClient, job: dict[str, Any], holds: Callable[[dict[str, Any]], bool], seconds: float = 150.0
) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found: dict[str, Any] = client.get(f"/api/v1/jobs/{job['id']}").json()
        if holds(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"it is still {found}")


def _post(client: TestClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_past_runs_come_in_go_out_and_are_tuned_again(client: TestClient, service: Service, working: Jobs) -> None:
    (service.projects / "runs.csv").write_text(ROWS)
    storage = f"sqlite:///{service.projects / 'optuna.db'}"
    study = optuna.create_study(storage=storage, study_name="theirs")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    table = {"kind": "table", "path": "runs.csv", "metric": "val_loss", "task": "task"}
    jobs = [_post(client, "imports", table), _post(client, "imports", {"kind": "optuna", "storage": "optuna.db"})]
    done, theirs = [_ended(client, job) for job in jobs]
    assert (done["state"], done["result"]["taken"], done["done"]) == ("done", 40, 40), done
    assert (theirs["state"], theirs["result"]["taken"]) == ("done", 3), theirs
    family = next(each.family for each in history.list_studies(service.store) if each.task == "t0")
    replay = {"methods": ["random", "portfolio"], "budget": 3, "seeds": 1, "family": family, "rows": 20}
    replayed = _ended(client, _post(client, "replays", replay))
    assert replayed["state"] == "done", replayed
    assert {each["method"] for each in replayed["result"]["overall"]} == {"random", "portfolio"}
    exported = _ended(client, _post(client, "exports", {"target": family}))
    archive = client.get(f"/api/v1/jobs/{exported['id']}/file")
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert "trials.parquet" in names and len(archive.content) == exported["result"]["bytes"]
    files = {"file": ("tables.zip", archive.content)}
    sent = client.post("/api/v1/imports/upload", files=files, data={"settings": '{"dry_run": true}'})
    assert sent.status_code == 202, sent.text
    back = _ended(client, sent.json())
    assert back["state"] == "done" and back["result"]["tasks"], back
    verified = _ended(client, _post(client, "history/verify", {}))
    assert verified["result"] == {"findings": [], "quarantine": {}}
    assert not folder_of(service.runs, sent.json()["id"]).exists()  # nothing is kept of an upload
    noted = {entry.action for entry in audit.list_entries(service.store)}
    assert {"import.start", "import.upload", "replay.start", "export.start", "verify.start"} <= noted
    assert client.get("/api/v1/jobs", params={"kind": "import", "limit": 2}).json()["next"] is not None


def test_a_job_whose_process_is_killed_is_begun_again(client: TestClient, service: Service, working: Jobs) -> None:
    before = count_trials(service.store)
    (service.projects / "more.csv").write_text(
        "task,lr,val_loss\n" + "".join(f"big,{10.0 ** -(1 + i / 5000)},{0.3 + i / 9000}\n" for i in range(2_000))
    )
    job = _post(client, "imports", {"kind": "table", "path": "more.csv", "metric": "val_loss", "task": "task"})
    _until(client, job, lambda found: found["state"] == "running" and bool(working._running))
    ((_, process),) = working._running
    os.killpg(process.pid, signal.SIGKILL)
    ended = _ended(client, job)
    assert (ended["state"], ended["attempt"]) == ("done", 2), ended
    assert count_trials(service.store) == before + 2_000


def test_a_job_is_cancelled_and_one_of_a_service_that_ends_goes_back(client: TestClient, service: Service) -> None:
    jobs = Jobs(service)
    (service.projects / "slow.csv").write_text(
        "task,lr,val_loss\n" + "".join(f"slow{i % 7},{1 + i / 9},{i}\n" for i in range(60_000))
    )
    table = {"kind": "table", "path": "slow.csv", "metric": "val_loss", "task": "task", "dry_run": True}
    waiting = _post(client, "imports", table)
    assert client.post(f"/api/v1/jobs/{waiting['id']}/cancel").json()["state"] == "cancelled"
    job = _post(client, "imports", table)
    begun = background_jobs.begin_job(service.store, worker="another", lease_seconds=0.0)
    assert begun is not None and begun.job_id == job["id"]
    time.sleep(0.01)
    mine = background_jobs.begin_job(service.store, worker="me", lease_seconds=60.0)  # the other one is gone
    assert mine is not None and mine.attempt == 2
    assert not background_jobs.end_job(service.store, begun, "done", result={})  # nobody hears it any more
    assert background_jobs.give_back_job(service.store, mine)
    for _ in range(background_jobs.MOST_ATTEMPTS - 1):
        assert background_jobs.begin_job(service.store, worker="another", lease_seconds=0.0) is not None
        time.sleep(0.01)
    assert background_jobs.begin_job(service.store, worker="me", lease_seconds=1.0) is None
    failed = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert failed["state"] == "failed" and "died 3 times" in failed["error"]
    last = _post(client, "imports", table)
    jobs.start()
    _until(client, last, lambda found: found["state"] == "running" and bool(jobs._running))
    jobs.stop()
    assert client.get(f"/api/v1/jobs/{last['id']}").json()["state"] == "queued"
    client.post(f"/api/v1/jobs/{last['id']}/cancel")


def test_what_cannot_be_imported_fails_with_its_reason(client: TestClient, service: Service, working: Jobs) -> None:
    sent = [
        client.post(
            "/api/v1/imports/upload",
            files={"file": ("sent.csv", ROWS.encode())},
            data={"settings": '{"metric": "val_loss", "task": "sent"}'},
        ).json()
        for _ in range(2)
    ]
    assert [_ended(client, job)["result"]["taken"] for job in sent] == [40, 0]  # sent again, nothing comes twice
    (service.projects / "bad.csv").write_text("a,b\n1,2\n")
    failed = _ended(client, _post(client, "imports", {"kind": "table", "path": "bad.csv"}))
    assert failed["state"] == "failed" and "metric" in failed["error"]
    missing = client.get("/api/v1/jobs/9999")
    assert (missing.status_code, missing.json()["code"]) == (404, "job-not-found")
    assert client.get(f"/api/v1/jobs/{failed['id']}/file").json()["code"] == "not-done"
    assert client.post("/api/v1/exports", json={"target": "nobody's"}).json()["code"] == "family-not-found"
    for body in ({"kind": "table"}, {"kind": "pickle", "path": "x"}, {"kind": "table", "path": "bad.csv", "x": 1}):
        assert client.post("/api/v1/imports", json=body).status_code == 422
    assert client.post("/api/v1/replays", json={"methods": ["os:system"]}).status_code == 422


def test_places_that_must_not_be_reached(service: Service, tmp_path: Path, client: TestClient) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text(ROWS)
    (service.projects / "link.csv").symlink_to(secret)
    (service.projects / "folder").mkdir()
    (service.projects / "folder" / "inner.csv").symlink_to(secret)
    for path in (
        "../history.db",
        str(secret),
        "link.csv",
        "folder",
        "/etc/passwd",
        "a\0b",
        "~/x",
        "no.csv",
        "file:/etc",
    ):
        refused = client.post("/api/v1/imports", json={"kind": "table", "path": path})
        assert refused.status_code == 422, path
    places = Places(projects=service.projects, hosts=service.import_hosts, own_mlflow="http://127.0.0.1:5999")
    for uri in (
        "http://127.0.0.1:8000", "http://localhost", "http://169.254.169.254/latest", "http://[::1]:5000",
        "http://mlflow.example.org@evil.org", "http://evil.org\\@mlflow.example.org", "http://evil.org/#mlflow.example.org",
        "http://mlflow.example.org.evil.org", "http://0x7f000001", "http://mlflow.example.org:99999999",
        "file:///etc", "file://evil.org/share", "file:../..", "sqlite:////etc/passwd", f"sqlite:///{secret}",
        "sqlite:///file:x?mode=rw&uri=true", "databricks", "databricks://x", "ftp://mlflow.example.org", "gopher://x",
        "postgresql://evil.org/db", "postgresql://mlflow.example.org/db?host=evil.org", "uc:x", "HTTP://evil.org",
        "http://user:pw@mlflow.example.org", "http:///", "http://mlflow.example.org\r\nHost: evil", "mysql://db.example.org",
    ):  # fmt: skip
        with pytest.raises(SettingsError):
            mlflow_place(uri, places)
        with pytest.raises(SettingsError):
            optuna_place(uri, places)
    assert mlflow_place(None, places) == mlflow_place("http://127.0.0.1:5999", places) == "http://127.0.0.1:5999"
    assert mlflow_place("http://mlflow.example.org:5000/x", places)
    assert optuna_place("postgresql://me@db.example.org:5432/optuna", places)
    with pytest.raises(SettingsError, match="give no password in it"):
        optuna_place("postgresql://me:pw@db.example.org:5432/optuna", places)
    (service.projects / "mine.csv").write_text(ROWS)
    assert path_of_projects("mine.csv", places) == (service.projects / "mine.csv").resolve()


def test_an_upload_that_never_came_or_was_cancelled_leaves_no_file_and_says_so(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel_and_copy(source: Any, target: Any, length: int) -> None:
        newest = background_jobs.list_jobs(service.store, limit=1)[0]
        assert client.post(f"/api/v1/jobs/{newest.job_id}/cancel").json()["state"] == "cancelled"
        target.write(source.read())

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", cancel_and_copy)
        sent = client.post("/api/v1/imports/upload", files={"file": ("runs.csv", ROWS.encode())})
    assert sent.json()["state"] == "cancelled"
    assert not folder_of(service.runs, sent.json()["id"]).exists()
    monkeypatch.setattr(background_jobs, "HELD_SECONDS", -1.0)
    job = background_jobs.add_job(service.store, kind="import", owner="ann", settings={}, is_held=True)
    assert background_jobs.begin_job(service.store, worker="w", lease_seconds=60.0) is None
    assert "what it needs did not come" in str(background_jobs.get_job(service.store, job.job_id).error)


def test_files_of_jobs_go_when_nobody_needs_them(sqlite_store: Store, tmp_path: Path) -> None:
    hour, day = 3_600.0, 86_400.0
    expected = {}
    for kind, age, stays in (("import", 2 * hour, False), ("import", 0.0, True), ("export", 6 * day, True),
                             ("export", 8 * day, False), ("export", None, True)):  # fmt: skip
        job = background_jobs.add_job(sqlite_store, kind=kind, owner="ann", settings={})
        ended = None if age is None else time.time() - age
        with sqlite_store.write() as connection:
            chosen = update(models.background_jobs).where(models.background_jobs.c.id == job.job_id)
            connection.execute(chosen.values(ended_at=ended))
        folder_of(tmp_path, job.job_id).mkdir(parents=True)
        expected[folder_of(tmp_path, job.job_id)] = stays
    expected[folder_of(tmp_path, 77)] = True  # of another history, as far as anybody knows
    folder_of(tmp_path, 77).mkdir()
    sweep(sqlite_store, tmp_path)
    assert {folder: folder.exists() for folder in expected} == expected


def test_uploads_that_claim_to_be_tables(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.pkl", "x.csv.gz", "x", ".csv", "..", "x.zip.exe"):
        refused = client.post("/api/v1/imports/upload", files={"file": (name, b"x")})
        assert refused.status_code == 422, name
    assert uploads.safe_name("../../etc/<b>ü.csv") == "_b_ü.csv"
    wrong = client.post("/api/v1/imports/upload", files={"file": ("x.csv", b"x")}, data={"settings": '{"metrc": 1}'})
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["place"] == "settings.metrc"
    monkeypatch.setattr(uploads, "MOST_UNPACKED_BYTES", 1_000_000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", b"0" * 3_000_000)
    outside, odd = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(outside, "w") as archive:
        archive.writestr("../../a.csv", ROWS)
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("a.pkl", b"x")
    for content in (bomb.getvalue(), outside.getvalue(), odd.getvalue(), b"PK", gzip.compress(b"x")):
        path = tmp_path / "x.zip"
        path.write_bytes(content)
        with pytest.raises(SettingsError):
            uploads.unpacked(path)
    assert not (tmp_path.parent / "a.csv").exists()
    table = pyarrow.table({"x": pyarrow.array([0.0] * 500_000)})
    parquet.write_table(table, tmp_path / "x.parquet", use_dictionary=False, compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    with pytest.raises(SettingsError, match="larger than"):
        uploads.unpacked(tmp_path / "x.parquet")


def test_the_words_of_a_replay_are_those_of_the_command() -> None:
    assert get_args(Method) == tuple(METHODS)
    assert get_args(Regime) == tuple(REGIMES)
    defaults = ReplayRequest().model_dump()
    options = asdict(ReplayOptions(source=""))
    assert defaults == {name: options[name] for name in defaults} | {"methods": list(DEFAULT_METHODS)}
    assert signature(replay).parameters["seeds"].default == defaults["seeds"]


def test_a_promotion_says_why_it_cannot_be(service: Service, client: TestClient, working: Jobs) -> None:
    study = optuna.create_study(storage=HistoryStorage(service.store), study_name="bare", direction="minimize")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=2)
    path = f"/api/v1/studies/{history.get_study(service.store, 'bare').study_id}/promote"
    assert "trial 1 of study 'bare' has no checkpoint" in client.post(path, json={"trial": 1}).json()["detail"]
    assert client.post(path, json={"trial": 7}).status_code == 404
    assert client.post("/api/v1/studies/99999/promote", json={}).status_code == 404
    refused = client.post(path, json={})
    assert (refused.status_code, refused.json()["code"]) == (422, "settings")
    assert "without one" in refused.json()["detail"]  # no MLflow
    settings = {"study_id": 99_999, "study": "gone", "trial": None, "name": None}
    lost = background_jobs.add_job(service.store, kind="promotion", owner="ann", settings=settings)
    ended = _ended(client, {"id": lost.job_id})
    assert (ended["state"], "99999" in ended["error"]) == ("failed", True)


def test_a_promotion_waits_for_no_import(sqlite_store: Store) -> None:
    assert {kind for kinds in LINES for kind in kinds} == set(get_args(Kind))
    for kind in ("import", "import", "promotion"):
        background_jobs.add_job(sqlite_store, kind=kind, owner="ann", settings={})
    begun = background_jobs.begin_job(sqlite_store, worker="here", lease_seconds=60.0, kinds=LINES[1])
    assert begun is not None and begun.kind == "promotion"
    assert background_jobs.begin_job(sqlite_store, worker="here", lease_seconds=60.0, kinds=LINES[1]) is None
