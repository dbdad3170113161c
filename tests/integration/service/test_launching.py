"""Studies by the API: what is wrong with a file is told at once; created, started, paused, stopped, deleted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import insert, select

from hpo.running.attempts import study_folder
from hpo.running.executors import Placement
from hpo.service import launching
from hpo.service.launching import LaunchOptions
from hpo.service.limits import Limits
from hpo.service.run_folders import study_log, trial_log
from hpo.service.state import Service
from storage import audit, history, launches, studies
from storage.database import Store
from storage.mlflow_runs import study_run_key
from storage.models import mlflow_runs
from storage.models import studies as table
from storage.trial_pages import trial_numbered
from tests.integration.service.conftest import ClientAs

FILE: dict[str, Any] = {
    "study": "para",
    "task": {"name": "para", "metric": "loss", "direction": "minimize"},
    "trainer": {"function": "parabola.train"},
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    "budget": {"trials": 4},
}
ASKED = {name: value for name, value in FILE.items() if name != "trainer"}


@pytest.fixture
def service(sqlite_store: Store, tmp_path: Path) -> Iterator[Service]:
    projects = tmp_path / "projects"
    projects.mkdir()
    (projects / "parabola.py").write_text("def train(config, report): ...\n")
    limits = Limits(trials=8, trials_per_owner=4, trials_on_server=2)
    service = Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=projects, limits=limits)
    yield service
    service.desk.close()
    service.calculations.close()


def test_a_study_is_there_as_soon_as_it_is_accepted(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator", owner="ann")
    made = client.post("/api/v1/studies", json={"file": FILE, "launch": {"jobs": 2, "priority": 5}})
    assert made.status_code == 201
    study = made.json()
    assert made.headers["location"] == f"/api/v1/studies/{study['id']}"
    launch = study["launch"]
    assert (launch["state"], launch["owner"], launch["place"], launch["priority"]) == ("queued", "ann", "server", 5)
    assert client.get(f"/api/v1/studies/{study['id']}").json()["launch"] == launch
    assert [each["launch"] for each in client.get("/api/v1/studies").json()["items"]] == [launch]
    assert service.called.is_set()  # the supervisor hears of it at once
    assert [entry.action for entry in audit.list_entries(service.store)][:2] == ["study.start", "study.create"]


def test_a_study_file_as_text_says_what_is_wrong_line_by_line(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator")
    text = "task: {name: para, metric: loss, direction: down}\nspace: {}\nbudget: {trials: 0}\nbudgett: 3\n"
    refused = client.post("/api/v1/studies", json={"yaml": text})
    assert (refused.status_code, refused.json()["code"]) == (422, "spec")
    places = {each["place"]: each["message"] for each in refused.json()["errors"]}
    assert set(places) == {"task.direction", "space", "budget.trials", "budgett"}
    assert "did you mean `budget`?" in places["budgett"]
    assert client.post("/api/v1/studies/check", json={"yaml": text}).json() == {
        "errors": refused.json()["errors"],
        "plan": None,
    }
    assert history.list_studies(service.store) == []


@pytest.mark.parametrize("body", [{}, {"file": FILE, "yaml": "a: 1"}, {"yaml": "- 1"}, {"yaml": "a: [1"}, {"yaml": ""}])
def test_what_is_no_study_file_is_told_so(client_as: ClientAs, body: dict[str, Any]) -> None:
    refused = client_as("operator").post("/api/v1/studies", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "spec")


BAD_TRAINERS: list[tuple[dict[str, Any], str]] = [
    ({"function": "os.system"}, "trainer.function"),
    ({"function": "subprocess.Popen"}, "trainer.function"),
    ({"model": "shutil.rmtree", "max_epochs": 1}, "trainer.model.class_path"),
    ({"model": "parabola.Net", "data": "pickle.loads", "max_epochs": 1}, "trainer.data.class_path"),
    (
        {"model": {"class_path": "parabola.Net", "init_args": {"a": [{"class_path": "os.system"}]}}, "max_epochs": 1},
        "trainer.model.init_args.a.0.class_path",
    ),
    (
        {"model": "parabola.Net", "max_epochs": 1, "arguments": {"callbacks": [{"class_path": "os.system"}]}},
        "trainer.arguments.callbacks.0.class_path",
    ),
    ({"model": "parabola.Net", "max_epochs": 1, "arguments": {"logger": "os.system"}}, "trainer.arguments.logger"),
    (
        {"model": "parabola.Net", "max_epochs": 1, "arguments": {"default_root_dir": "/etc"}},
        "trainer.arguments.default_root_dir",
    ),
    (
        {
            "model": "parabola.Net",
            "max_epochs": 1,
            "arguments": {"logger": {"init_args": {"uri": "http://169.254.0.1"}}},
        },
        "trainer.arguments.logger.init_args.uri",
    ),
    ({"cli": "../../etc/passwd"}, "trainer.cli.config"),
    (
        {"model": "parabola.Net", "max_epochs": 1, "compress": {"distil": {"teacher": "/root/secret.ckpt"}}},
        "trainer.compress.distil.teacher",
    ),
]


@pytest.mark.parametrize(("trainer", "place"), BAD_TRAINERS, ids=[place for _, place in BAD_TRAINERS])
def test_no_code_and_no_file_from_outside_the_projects(
    client_as: ClientAs, service: Service, trainer: dict[str, Any], place: str
) -> None:
    refused = client_as("operator").post("/api/v1/studies", json={"file": {**FILE, "trainer": trainer}})
    assert refused.status_code == 422, refused.json()
    assert place in {each["place"] for each in refused.json()["errors"]}, refused.json()
    assert history.list_studies(service.store) == []


GOOD_TRAINERS: dict[str, dict[str, Any]] = {
    "a recipe": {"recipe": "digits_mlp/all", "max_epochs": 1},
    "a model of the projects": {"model": "parabola.Net", "data": "parabola.Data", "max_epochs": 1},
    "a package that the settings allow": {"model": "timm.models.Net", "max_epochs": 1},
    "parts of Lightning": {
        "model": "parabola.Net",
        "max_epochs": 1,
        "arguments": {
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "loss"}}
            ],
            "logger": "CSVLogger",
        },
    },
    "a LightningCLI project": {"cli": "config.yaml"},
    "a function with an address": {"function": "parabola.train", "arguments": {"data": "s3://bucket/data"}},
}


@pytest.mark.parametrize("trainer", GOOD_TRAINERS.values(), ids=list(GOOD_TRAINERS))
def test_code_of_the_projects_and_parts_of_lightning_are_allowed(service: Service, trainer: dict[str, Any]) -> None:
    (service.projects / "config.yaml").write_text("trainer: {max_epochs: 1}\n")
    spec = launching.read_file(file={**FILE, "trainer": trainer})
    launching.check_study(replace(service, packages=frozenset({"timm"})), spec, LaunchOptions())


def test_a_config_that_is_not_there_is_told_with_its_key(client_as: ClientAs) -> None:
    (error,) = (
        client_as("operator")
        .post("/api/v1/studies", json={"file": {**FILE, "trainer": {"cli": "absent.yaml"}}})
        .json()["errors"]
    )
    assert error["place"] == "trainer.cli.config"
    assert "there is no file absent.yaml" in error["message"]


def test_a_space_cannot_choose_foreign_classes(client_as: ClientAs) -> None:
    space = {"model.net.class_path": {"type": "categorical", "choices": ["parabola.Net", "os.system"]}}
    body = {"file": {**FILE, "trainer": {"model": "parabola.Net", "max_epochs": 1}, "space": space}}
    (error,) = client_as("operator").post("/api/v1/studies", json=body).json()["errors"]
    assert "'os.system' is not allowed" in error["message"]


def test_how_it_is_to_run_is_checked_with_the_file(client_as: ClientAs) -> None:
    body = {"file": FILE, "launch": {"jobs": 3, "executor": "ray", "ray_address": "ray://elsewhere:10001"}}
    places = {each["place"] for each in client_as("operator").post("/api/v1/studies", json=body).json()["errors"]}
    assert places == {"launch.executor", "launch.ray_address"}
    too_many = client_as("operator").post("/api/v1/studies", json={"file": FILE, "launch": {"jobs": 3}}).json()
    assert "the limit of trials on the server itself is 2" in too_many["errors"][0]["message"]
    nobody = client_as("operator").post("/api/v1/studies", json={"file": ASKED, "launch": {"place": "server"}}).json()
    assert nobody["errors"][0]["place"] == "launch.place"
    assert "use the place `workers`" in nobody["errors"][0]["message"]


def test_a_name_that_is_taken_and_a_direction_against_history_are_refused(client_as: ClientAs) -> None:
    client = client_as("operator")
    assert client.post("/api/v1/studies", json={"file": FILE}).json()["launch"] is None
    taken = client.post("/api/v1/studies", json={"file": FILE})
    assert (taken.status_code, taken.json()["code"]) == (409, "study-exists")
    assert client.post("/api/v1/studies/check", json={"file": FILE}).json()["errors"][0]["place"] == "study"
    contrary = {**FILE, "study": "other", "task": {**FILE["task"], "direction": "maximize"}}
    refused = client.post("/api/v1/studies", json={"file": contrary})
    assert (refused.status_code, refused.json()["code"]) == (422, "direction")
    assert (
        client.post("/api/v1/studies/check", json={"file": contrary}).json()["errors"][0]["place"] == "task.direction"
    )


def test_a_study_is_not_replaced_even_if_nothing_of_it_has_succeeded(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator")
    study_id = client.post("/api/v1/studies", json={"file": FILE}).json()["id"]
    claim = studies.claim_trial(service.store, study_id, worker="w", lease_seconds=60, max_trials=None)
    assert claim is not None
    studies.finish_trial(service.store, claim, state=TrialState.FAIL, value=None, error="no luck")
    assert client.post("/api/v1/studies", json={"file": FILE}).json()["code"] == "study-exists"
    assert client.post("/api/v1/studies/check", json={"file": FILE}).json()["errors"][0]["place"] == "study"
    assert client.get(f"/api/v1/studies/{study_id}").status_code == 200
    client.delete(f"/api/v1/studies/{study_id}")  # as somebody has to say, and it is logged who
    assert client.post("/api/v1/studies", json={"file": FILE}).json()["id"] > study_id


def test_a_good_file_is_checked_with_its_plan(client_as: ClientAs, service: Service) -> None:
    checked = client_as("viewer").post("/api/v1/studies/check", json={"file": FILE, "launch": {"jobs": 2}}).json()
    assert checked["errors"] == []
    assert (checked["plan"]["study"], checked["plan"]["jobs"]) == ("para", 2)
    assert history.list_studies(service.store) == []
    service.calculations.close()


def test_a_study_is_paused_resumed_stopped_and_deleted(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator")
    study_id = client.post("/api/v1/studies", json={"file": ASKED, "launch": {"place": "workers"}}).json()["id"]
    path = f"/api/v1/studies/{study_id}"
    assert client.post(f"{path}/pause").json()["launch"]["state"] == "paused"
    assert client.post(f"{path}/resume").json()["launch"]["state"] == "running"
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "launch")
    assert client.post(f"{path}/stop").json()["launch"]["state"] == "stopped"
    for verb in ("pause", "resume", "start"):
        again = client.post(f"{path}/{verb}")
        assert (again.status_code, again.json()["code"]) == (409, "launch"), verb
    study = history.study_of_id(service.store, study_id)
    folder = study_folder(service.runs, study.name, store_url=service.store.url, created_at=study.created_at)
    (folder / "trial-0000").mkdir(parents=True)
    (folder / "outside").symlink_to(service.projects)
    gone = client.delete(path, params={"files": True})
    assert gone.status_code == 200, gone.text
    assert gone.json() == {
        "study": study.name,
        "trials": 0,
        "replicates": 0,
        "folders": [str(folder)],
        "are_folders_removed": True,
        "mlflow_uris": [],
        "mlflow_runs": 0,
        "are_runs_deleted": False,
    }
    assert not folder.exists() and service.projects.is_dir()
    assert client.get(path).status_code == 404
    assert client.post(f"{path}/stop").status_code == 404
    assert client_as("viewer").post(f"{path}/stop").status_code == 403


def test_a_study_whose_runs_cannot_be_deleted_stays(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator")
    study_id = client.post("/api/v1/studies", json={"file": FILE}).json()["id"]
    row = {"mlflow_uri": "http://me:secret@127.0.0.1:9", "run_id": "1"}
    with service.store.write() as connection:
        made = connection.execute(select(table.c.created_at)).scalar_one()
        connection.execute(insert(mlflow_runs).values(run_key=study_run_key("para", made), **row))
    refused = client.delete(f"/api/v1/studies/{study_id}", params={"mlflow_runs": True})
    assert (refused.status_code, refused.json()["code"]) == (503, "mlflow-unavailable")
    assert "secret" not in refused.text
    gone = client.delete(f"/api/v1/studies/{study_id}").json()
    assert (gone["mlflow_runs"], gone["are_runs_deleted"]) == (1, False)


def test_a_study_is_started_later_and_imported_ones_never(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator", owner="bob")
    study_id = client.post("/api/v1/studies", json={"file": FILE}).json()["id"]
    path = f"/api/v1/studies/{study_id}"
    assert client.post(f"{path}/pause").json()["code"] == "launch"
    started = client.post(f"{path}/start", json={"launch": {"priority": 2}}).json()["launch"]
    assert (started["state"], started["owner"], started["priority"]) == ("queued", "bob", 2)
    foreign = studies.create_study(service.store, name="foreign", task="digits", metric="val_loss")
    refused = client.post(f"/api/v1/studies/{foreign}/start")
    assert (refused.status_code, "has no study file" in refused.json()["detail"]) == (409, True)


def test_the_queue_says_what_waits_and_why(client_as: ClientAs, service: Service) -> None:
    client = client_as("operator", owner="ann")
    for name, launch in (("small", {"jobs": 1}), ("large", {"jobs": 2}), ("urgent", {"jobs": 2, "priority": 9})):
        client.post("/api/v1/studies", json={"file": {**FILE, "study": name}, "launch": launch})
    (first,) = [each for each in launches.list_launches(service.store) if each.study == "urgent"]
    launches.take_up(service.store, first.study_id, worker="server", lease_seconds=60)
    large = next(each for each in launches.list_launches(service.store) if each.study == "large")
    assert client.post(f"/api/v1/studies/{large.study_id}/priority", json={"priority": -1}).status_code == 200
    own = client.post("/api/v1/studies", json={"file": {**FILE, "study": "own"}}).json()
    client_as("worker", owner="bob").post(f"/api/v1/studies/{own['id']}/ask", json={"worker": "w"})
    queue = client_as("viewer").get("/api/v1/queue").json()
    told = [(each["owner"], each["trials"], each["studies"]) for each in queue["shares"]]
    assert told == [("ann", 2, 3), ("bob", 1, 0)], "whoever asks without a launch has a share, too"
    assert [(each["study"], each["places"]) for each in queue["items"]] == [("urgent", 2), ("small", 0), ("large", 0)]
    reason = "the limit of 2 trials at once on the server itself is reached"
    assert [each["waits"] for each in queue["items"]][1:] == [reason, reason]
    assert queue["limits"]["trials_on_server"] == 2


def test_logs_are_those_of_the_runs_folder_and_of_no_other(client_as: ClientAs, service: Service) -> None:
    client = client_as("viewer")
    made = client_as("operator").post("/api/v1/studies", json={"file": {**FILE, "study": "../../<b>"}}).json()
    path = f"/api/v1/studies/{made['id']}"
    assert client.get(f"{path}/log").json()["code"] == "no-log"
    study = history.study_of_id(service.store, made["id"])
    said = study_log(service.runs, service.store, study)
    assert said.parent.parent == service.runs
    said.parent.mkdir(parents=True)
    said.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert client.get(f"{path}/log", params={"lines": 2}).json()["lines"] == ["line 49998", "line 49999"]
    claim = studies.claim_trial(service.store, made["id"], worker="w", lease_seconds=60, max_trials=None)
    assert claim is not None
    assert client.get(f"{path}/trials/0/log").json()["code"] == "no-log"
    printed = trial_log(service.runs, service.store, study, trial_numbered(service.store, made["id"], 0))
    printed.parent.mkdir(parents=True)
    printed.write_bytes(b"epoch 1\n\xff\xfe\n")
    assert client.get(f"{path}/trials/0/log").json()["lines"] == ["epoch 1", "\ufffd\ufffd"]
    printed.unlink()
    printed.symlink_to("/etc/passwd")
    assert client.get(f"{path}/trials/0/log").json()["code"] == "no-log"
    assert client.get(f"{path}/trials/7/log").json()["code"] == "trial-not-found"


def test_a_service_with_a_cluster_launches_on_it(client_as: ClientAs, service: Service) -> None:
    object.__setattr__(service, "placement", Placement(executor="ray", ray_address="auto"))
    body = {"file": FILE, "launch": {"jobs": 4, "executor": "ray", "ray_address": "auto"}}
    made = client_as("operator").post("/api/v1/studies", json=body).json()
    found = launches.find_launch(service.store, made["id"])
    assert found is not None
    assert found.settings == {"executor": "ray"}
