"""Trials over HTTP: what a trainer in any language sends, and what it is answered."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from optuna.trial import TrialState
from sqlalchemy import update

from hpo.api.app import create_api
from hpo.service import checkpoints
from hpo.service.checkpoints import _is_quiet
from hpo.service.jobs import Jobs
from hpo.service.state import Service
from storage import history, launches, tokens
from storage.database import Store
from storage.models import trials
from storage.schema import open_store
from storage.studies import LATE_RESULTS_ATTRIBUTE, running_attempts
from tests.integration.service.test_desk import create
from tests.servers import served

NOT_ME = "somebody else"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path_factory.mktemp('remote')}/history.db")
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def service(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("service")
    made = Service(store=store, mlflow_uri=None, runs=folder / "runs", projects=folder)
    yield made
    made.desk.close()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with worker(service, "gpu-box") as made:
        yield made


def worker(service: Service, owner: str, role: Any = "worker") -> TestClient:
    secret, _ = tokens.create_token(service.store, owner=owner, role=role, created_by="a test")
    headers = {"Authorization": f"Bearer {secret}"}
    return TestClient(create_api(service), base_url="http://localhost", headers=headers, raise_server_exceptions=False)


def post(client: TestClient, path: str, key: str | None = None, **body: Any) -> Any:
    return client.post(f"/api/v1{path}", json=body, headers={} if key is None else {"Idempotency-Key": key})


def ask(client: TestClient, study_id: int) -> dict[str, Any]:
    answer = post(client, f"/studies/{study_id}/ask", worker="w")
    assert answer.status_code == 200, answer.text
    given: dict[str, Any] = answer.json()
    return given


def test_a_study_that_cannot_succeed_is_ended_by_who_finds_out_and_its_data_are_noted(
    client: TestClient, store: Store
) -> None:
    trainer = {
        "max_epochs": 1,
        "model": {"class_path": "code.Net"},
        "data": {"class_path": "code.Data", "init_args": {"size": 9}},
    }
    study_id = create(store, trainer=trainer)
    launches.request_launch(store, study_id, owner="ann", place="workers", priority=99)
    given = post(client, "/work", worker="w").json()
    assert given["study"]["id"] == study_id
    assert history.list_trials(store, study_id)[0].data_fingerprint
    why = "task.metric: loss was never logged"
    path = f"/studies/{study_id}/trials/{given['trial']}/tell"
    told = post(client, path, attempt=1, state="fail", error="missing_metric: loss", study_error=why)
    assert told.status_code == 200, told.text
    launch = launches.find_launch(store, study_id)
    assert launch is not None
    assert (launch.state, launch.message) == ("failed", why)


def test_a_study_is_trained_by_requests_alone(client: TestClient, store: Store) -> None:
    study_id = create(store, budget={"trials": 2})
    for number in range(2):
        given = ask(client, study_id)
        assert {**given, "params": None} == {
            **{"trial": number, "attempt": 1, "params": None, "seed": 0, "lease_seconds": 60.0},
            **{"halve_batch": False, "earlier": []},
        }
        trial = f"/studies/{study_id}/trials/{number}"
        told = post(client, f"{trial}/report", attempt=1, step=0, value=0.5, metrics={"accuracy": 0.8})
        assert told.json() == {"prune": False}
        assert post(client, f"{trial}/should-prune", attempt=1).json() == {"prune": False}
        ended = post(client, f"{trial}/tell", attempt=1, state="complete", value=0.25, cost_seconds=3.0, epochs=1)
        assert (ended.json()["state"], ended.json()["value"], ended.json()["params"]) == (
            "complete",
            0.25,
            given["params"],
        )
    over = post(client, f"/studies/{study_id}/ask", worker="w")
    assert (over.status_code, over.json()["code"]) == (410, "study-over")
    assert "its 2 trials are finished" in over.json()["detail"]


def test_with_all_trials_under_way_there_is_nothing_now_but_may_be_later(client: TestClient, store: Store) -> None:
    study_id = create(store, budget={"trials": 1})
    ask(client, study_id)
    later = post(client, f"/studies/{study_id}/ask", worker="w")
    assert (later.status_code, later.content, int(later.headers["retry-after"])) == (204, b"", 5)


def test_stale_attempts_unknown_and_paused_studies_have_their_codes(client: TestClient, store: Store) -> None:
    study_id = create(store)
    given = ask(client, study_id)
    trial = f"/studies/{study_id}/trials/{given['trial']}"
    assert post(client, f"{trial}/release", attempt=1, reason="interrupted").json() == {"is_tried_again": True}
    for verb, body in {
        "report": {"step": 0, "value": 1.0},
        "should-prune": {},
        "tell": {"state": "complete", "value": 1.0},
        "release": {},
    }.items():
        stale = post(client, f"{trial}/{verb}", attempt=1, **body)
        assert (stale.status_code, stale.json()["code"]) == (409, "stale-attempt"), verb
    for path in ("/studies/999999/ask", "/studies/999999/trials/0/report", f"/studies/{study_id}/trials/77/report"):
        body = {"worker": "w"} if path.endswith("ask") else {"attempt": 1, "step": 0}
        missing = post(client, path, **body)
        assert missing.status_code == 404
        assert missing.json()["code"] in ("study-not-found", "trial-not-found")
    launches.request_launch(store, study_id, owner="ann", place="workers")
    launches.want(store, study_id, "pause")
    paused = post(client, f"/studies/{study_id}/ask", worker="w")
    assert (paused.status_code, paused.json()["code"]) == (409, "study-paused")


@pytest.mark.parametrize(
    ("verb", "body", "place"),
    [
        ("tell", {"state": "complete"}, "value"),
        ("tell", {"state": "done", "value": 1.0}, "body.state"),
        ("tell", {"state": "complete", "value": 1.0, "values": [1.0]}, "not both"),
        ("tell", {"state": "complete", "values": [1.0, 2.0]}, "wants a value of loss, and 2 were told"),
        ("tell", {"state": "complete", "value": 1.0, "cost_seconds": -1}, "body.cost_seconds"),
        ("tell", {"state": "complete", "value": "low"}, "body.value"),
        ("report", {"step": -1}, "body.step"),
        ("report", {"step": 0, "value": 1.0, "metric": "x"}, "body.metric"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_and_nothing_is_lost(
    client: TestClient, store: Store, verb: str, body: dict[str, Any], place: str
) -> None:
    study_id = create(store)
    given = ask(client, study_id)
    answer = post(client, f"/studies/{study_id}/trials/{given['trial']}/{verb}", attempt=1, **body)
    assert answer.status_code == 422
    assert place in answer.json()["detail"]
    told = post(client, f"/studies/{study_id}/trials/{given['trial']}/tell", attempt=1, state="complete", value=1.0)
    assert told.status_code == 200


def test_a_value_that_is_no_number_is_a_failure(client: TestClient, store: Store) -> None:
    study_id = create(store)
    given = ask(client, study_id)
    trial = f"/studies/{study_id}/trials/{given['trial']}"
    told = post(client, f"{trial}/tell", attempt=1, state="complete", value="nan").json()
    assert (told["state"], told["error"]) == ("fail", "nan: loss is nan, which is no finite number")


def test_trials_and_leases_are_the_workers_own(client: TestClient, service: Service, store: Store) -> None:
    study_id = create(store, budget={"trials": 1})
    launches.request_launch(store, study_id, owner="ann", place="workers")
    given = ask(client, study_id)
    claim = {"study": study_id, "trial": given["trial"], "attempt": 1}
    gone = {"study": study_id, "trial": 55, "attempt": 1}
    assert post(client, "/leases", worker="w", claims=[claim, gone]).json() == {"held": [claim]}
    with worker(service, NOT_ME) as other:
        assert post(other, "/leases", worker="w", claims=[claim]).json() == {"held": []}
        trial = f"/studies/{study_id}/trials/{given['trial']}"
        for verb, body in {"report": {"step": 0}, "tell": {"state": "fail"}, "release": {}, "should-prune": {}}.items():
            refused = post(other, f"{trial}/{verb}", attempt=1, **body)
            assert (refused.status_code, refused.json()["code"]) == (409, "stale-attempt"), verb
    with worker(service, NOT_ME, "operator") as operator:
        assert post(operator, f"{trial}/release", attempt=1).status_code == 200
        assert ask(operator, study_id)["attempt"] == 2
        late = post(client, f"{trial}/tell", attempt=1, state="complete", value=0.5, cost_seconds=4.0)
        assert (late.status_code, late.json()["code"]) == (409, "stale-attempt")
        (lost,) = history.list_trials(store, study_id)
        assert [each["value"] for each in lost.system_attrs[LATE_RESULTS_ATTRIBUTE]] == [0.5]
        assert post(operator, f"{trial}/release", attempt=2).status_code == 200
        counts = operator.post(f"/api/v1{trial}/accept-late").json()  # without a body
        assert (counts["number"], counts["state"], counts["value"], counts["cost_seconds"]) == (0, "complete", 0.5, 4.0)
        launch = launches.find_launch(store, study_id)
        assert launch is not None and launch.message == "its 1 trials are finished"


def test_no_worker_of_a_service_is_named_as_if_no_service_knew_it(client: TestClient, store: Store) -> None:
    study_id = create(store)
    given = ask(client, study_id)
    claim = {"study": study_id, "trial": given["trial"], "attempt": 1}
    for name in ("0//deadbeef", "12/345/0a1b2c3d"):
        for path, body in {
            f"/studies/{study_id}/ask": {},
            "/work": {},
            "/leases": {"claims": [claim]},
            "/machines": {"host": "box"},
            "/machines/leave": {},
        }.items():
            refused = post(client, path, worker=name, **body)
            assert refused.status_code == 422, path
            assert "is reserved" in refused.json()["detail"]
    taken = post(client, f"/studies/{study_id}/ask", worker="box/12/345/0a1b2c3d")  # as our own workers are called
    assert taken.status_code == 200


@pytest.mark.parametrize("action", ["hash", "mask"])
def test_under_rules_of_privacy_workers_speak_of_their_own_trials(
    service: Service, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    study_id = create(store, budget={"trials": 5})
    early = worker(service, "ann")  # whose token is older than the rules
    (tmp_path / "rules.yaml").write_text(f"users: {action}\n")
    monkeypatch.setenv("HPO_PRIVACY", str(tmp_path / "rules.yaml"))
    monkeypatch.setenv("HPO_PRIVACY_KEY", "a key that nobody guesses")
    for client in (early, worker(service, "bob")):
        for name in ("w", "box/12/345/0a1b2c3d"):
            given = post(client, f"/studies/{study_id}/ask", worker=name).json()
            trial = f"/studies/{study_id}/trials/{given['trial']}"
            assert post(client, f"{trial}/report", attempt=1, step=0, value=0.5).status_code == 200
            assert post(client, f"{trial}/tell", attempt=1, state="complete", value=0.5).status_code == 200
            assert history.list_trials(store, study_id)[given["trial"]].value == 0.5
    if action == "hash":
        given = ask(worker(service, "bob"), study_id)
        told = post(early, f"/studies/{study_id}/trials/{given['trial']}/release", attempt=1)
        assert (told.status_code, told.json()["code"]) == (409, "stale-attempt")


def test_work_comes_with_what_is_to_be_trained(client: TestClient, store: Store) -> None:
    study_id = create(store, budget={"trials": 1}, trainer={"function": "my_code.train"})
    assert post(client, "/work", worker="w").status_code == 204
    launches.request_launch(store, study_id, owner="ann", place="workers")
    given = post(client, "/work", worker="w", devices=2).json()
    assert (given["study"]["id"], given["study"]["spec"]["trainer"]) == (study_id, {"function": "my_code.train"})
    trial = f"/studies/{study_id}/trials/0"
    assert post(client, f"{trial}/tell", attempt=1, state="pruned").status_code == 200
    launch = launches.find_launch(store, study_id)
    assert launch is not None
    assert launch.state == "done"


def test_many_who_ask_at_once_do_not_keep_readers_waiting(client: TestClient, service: Service, store: Store) -> None:
    study_id = create(store, budget={"trials": 100})
    with worker(service, "ann", "viewer") as reader, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(ask, client, study_id) for _ in range(50)]
        assert reader.get(f"/api/v1/studies/{study_id}").status_code == 200
        assert sorted(each.result()["trial"] for each in asked) == list(range(50))


def test_a_viewer_may_not_ask(service: Service, store: Store) -> None:
    with worker(service, "ann", "viewer") as reader:
        refused = post(reader, f"/studies/{create(store)}/ask", worker="w")
    assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")


@pytest.mark.parametrize("script", ["remote_worker.py", "remote_worker_plain.py"])
def test_a_script_without_torch_trains_a_whole_study(service: Service, store: Store, script: str) -> None:
    study_id = create(store, budget={"trials": 2})
    secret, _ = tokens.create_token(store, owner="ann", role="worker", created_by="a test")
    path = Path("tests/examples", script).resolve()
    run = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__'); print('torch' in sys.modules)"
    with served(create_api(service)) as url:
        command = [sys.executable, "-c", f"import sys; sys.argv = {[str(path), url, str(study_id)]!r}; {run}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "HPO_TOKEN": secret}, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trial 0: ")
    assert done.stdout.splitlines()[-1] == "False"
    trials = history.list_trials(store, study_id)
    assert [(trial.state.name, len(trial.intermediate_values)) for trial in trials] == [("COMPLETE", 5)] * 2


def test_a_checkpoint_is_sent_in_parts_before_its_trial_is_told_of(
    client: TestClient, store: Store, service: Service
) -> None:
    study_id, content = create(store, budget={"trials": 3}), os.urandom(5_000)
    for _ in range(2):
        ask(client, study_id)
    trial = f"/studies/{study_id}/trials/0"
    about = {"attempt": 1, "size": len(content), "digest": hashlib.sha256(content).hexdigest()}

    def send(part: bytes, by: TestClient = client, **changed: Any) -> Any:
        return by.post(f"/api/v1{trial}/checkpoint", data={**about, **changed}, files={"part": ("part", part)})

    assert send(b"").json() == {"received": 0}
    assert send(content[:3_000]).json() == {"received": 3_000}
    assert send(b"").json() == {"received": 3_000}  # where to go on
    assert send(content[4_000:], offset=4_000).json() == {"received": 3_000}  # nothing is left out
    for _ in range(2):  # the answer to the last part may be lost
        assert send(content[3_000:], offset=3_000).json() == {"received": 5_000}
    wrong = send(content, size=5_000, digest="0" * 64, file="compressed")
    assert (wrong.status_code, "is not what its digest says" in wrong.json()["detail"]) == (422, True)
    too_large = send(b"", size=3 * 2**30)
    assert (too_large.status_code, "at most 2,147,483,648" in too_large.json()["detail"]) == (422, True)
    assert send(b"", attempt=2).json()["code"] == "stale-attempt"
    with worker(service, NOT_ME) as other:
        assert send(b"", other).json()["code"] == "stale-attempt"
    ended = post(client, f"{trial}/tell", attempt=1, state="complete", value=0.25, checkpoint="box:/there/best.ckpt")
    kept = Path(ended.json()["checkpoint"])
    assert (kept.name, kept.is_relative_to(service.runs), kept.read_bytes()) == ("uploaded.ckpt", True, content)
    assert not list(service.runs.rglob("*.part"))
    assert send(content).json()["code"] == "stale-attempt"  # nothing is changed of what has ended


def test_what_was_sent_of_attempts_that_came_to_nothing_is_removed(
    client: TestClient, store: Store, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id, content = create(store, budget={"trials": 3}), os.urandom(5_000)
    about = {"size": len(content), "digest": hashlib.sha256(content).hexdigest()}

    def send(attempt: int, part: bytes, **changed: Any) -> Any:
        path = f"/api/v1/studies/{study_id}/trials/0/checkpoint"
        return client.post(path, data={**about, "attempt": attempt, **changed}, files={"part": ("part", part)})

    def sent() -> list[str]:
        paths = [path for path in service.runs.rglob("*.ckpt*") if path.relative_to(service.runs).parts[0] == folder]
        return sorted(f"{path.parent.name}/{path.name[:13]}" for path in paths)

    ask(client, study_id)
    send(1, content)
    send(1, b"half", file="compressed")
    (whole,) = [path for path in service.runs.rglob("uploaded.ckpt") if path.read_bytes() == content]
    folder = whole.relative_to(service.runs).parts[0]
    assert sent() == ["attempt-1/compressed.ck", "attempt-1/uploaded.ckpt"]
    post(client, f"/studies/{study_id}/trials/0/release", attempt=1)
    ask(client, study_id)
    send(2, content[:9])
    send(2, b"half", file="compressed")
    assert sent() == ["attempt-2/compressed.ck", "attempt-2/uploaded.ckpt"]
    with monkeypatch.context() as patched:
        patched.setattr("hpo.service.checkpoints.LEFT_FREE_BYTES", 2**60)
        refused = send(2, content[9:], offset=9)
        assert (refused.status_code, "would be left free on its disk" in refused.json()["detail"]) == (422, True)
    for part in service.runs.rglob("*.part"):
        os.utime(part, (0, 0))
    another = service.runs / "another-study-0123" / "trial-0000" / "attempt-1" / f"uploaded.ckpt.{'0' * 16}.part"
    another.parent.mkdir(parents=True)
    another.write_bytes(b"half")
    os.utime(another, (0, 0))

    def stands(**columns: Any) -> None:
        with store.write() as connection:
            connection.execute(update(trials).where(trials.c.study_id == study_id).values(lease_until=0.0, **columns))

    def part_comes(*about: Any) -> set[tuple[int, int]]:
        found = running_attempts(*about)
        for part in (service.runs / folder).rglob("*.part"):
            os.utime(part)
        return found

    def goes(draft: Path, since: float) -> bool:
        shutil.rmtree(service.runs / folder, ignore_errors=True)
        return _is_quiet(draft, since)

    stands()
    checkpoints.sweep(service)
    assert sent() == ["attempt-2/compressed.ck", "attempt-2/uploaded.ckpt"], "it runs, and its worker may be back"
    stands(state=TrialState.WAITING.value)
    with monkeypatch.context() as patched:
        patched.setattr("hpo.service.checkpoints.QUIET_SECONDS", 1e12)
        checkpoints.sweep(service)
        assert len(sent()) == 2, "a part came lately"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "running_attempts", part_comes)
        checkpoints.sweep(service)
        assert len(sent()) == 2, "a part has just come"
    for part in service.runs.rglob("*.part"):
        os.utime(part, (0, 0))
    monkeypatch.setattr("hpo.service.jobs.SWEEP_SECONDS", 0.0)
    jobs = Jobs(service)
    jobs._sweep()
    assert len(sent()) == 2, "the service has only begun"
    with monkeypatch.context() as patched:
        patched.setattr(service.runs.__class__, "glob", _is_away)
        jobs._sweep()
    jobs._sweep()
    assert (sent(), another.exists()) == ([], True)
    stands(state=TrialState.RUNNING.value)
    for name in ("trial-0000", "trial-0001"):
        (service.runs / folder / name / "attempt-1").mkdir(parents=True, exist_ok=True)
        (service.runs / folder / name / "attempt-1" / another.name).touch()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_is_quiet", goes)
        checkpoints.sweep(service)
    send(2, content)
    assert sent() == ["attempt-2/uploaded.ckpt"], "while nobody else has the trial, it is sent anew"
    post(client, f"/studies/{study_id}/trials/0/tell", attempt=2, state="complete", value=0.25)
    assert sent() == ["attempt-2/uploaded.ckpt"]


def _is_away(*_: Any) -> Any:
    raise OSError("Input/output error")


def test_a_place_that_a_worker_tells_of_opens_no_file_of_the_server_but_a_checkpoint_in_a_shared_folder(
    client: TestClient, store: Store, service: Service, tmp_path: Path
) -> None:
    study_id = create(store, budget={"trials": 99})
    name = history.study_of_id(store, study_id).name.replace(" ", "-")
    (tmp_path / "best.ckpt").write_bytes(b"not theirs")

    def best(number: int, study: str = f"{name}-0123", attempt: int = 1, inner: str = "") -> Path:
        path: Path = service.runs / study / f"trial-{number:04d}" / f"attempt-{attempt}" / inner / "best.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return path

    shared, in_fold = best(0), best(1, inner="fold-2")
    (shared.parent.parent / "best.ckpt").symlink_to(tmp_path / "best.ckpt")
    others = [best(0, study="another-study-0123"), best(2), best(99), best(6, attempt=2)]
    for told, kept in (
        (f"box:{shared}", str(shared)),
        (f"box:{in_fold}", str(in_fold)),
        ("box:/data/best.ckpt", "box:/data/best.ckpt"),
        ("/etc/passwd", "elsewhere:/etc/passwd"),
        (str(shared), f"elsewhere:{shared}"),
        (f"box:{tmp_path}/best.ckpt", f"box:{tmp_path}/best.ckpt"),
        (f"box:{shared.parent.parent}/best.ckpt", f"box:{shared.parent.parent}/best.ckpt"),
        (f"box:{service.runs}/../x/best.ckpt", f"box:{service.runs}/../x/best.ckpt"),
        (f"box:{service.runs}/{'x' * 300}/best.ckpt", f"box:{service.runs}/{'x' * 300}/best.ckpt"),
        *((f"box:{other}", f"box:{other}") for other in others),
    ):
        given = ask(client, study_id)
        trial = f"/studies/{study_id}/trials/{given['trial']}"
        ended = post(client, f"{trial}/tell", attempt=1, state="complete", value=0.25, checkpoint=told)
        assert ended.json()["checkpoint"] == kept, told
    given = ask(client, study_id)
    path = f"/api/v1/studies/{study_id}/trials/{given['trial']}/checkpoint"
    for place, received in ((best(given["trial"]), 10**6), (shared, 0)):  # what is seen is not sent
        sent = {"attempt": 1, "size": 10**6, "digest": "0" * 64, "place": f"box:{place}"}
        assert client.post(path, data=sent, files={"part": ("part", b"")}).json() == {"received": received}
