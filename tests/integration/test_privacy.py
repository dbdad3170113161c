"""Does anything that must not be stored get into the store, or into MLflow, by any of its ways in?"""

import json
import os
import sqlite3
import warnings
from contextlib import closing

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import select

from hpo import tune
from hpo.running.admission import admit
from hpo.studies.hidden_choices import hide_choices
from hpo.studies.provenance import may_be_alive, this_worker
from hpo.studies.study_file import parse_spec
from hpo.studies.teachers import config_of
from storage import audit, background_jobs, history, launches, tokens
from storage.errors import PrivacyError
from storage.importers.intake import Intake
from storage.importers.runs import PastRun, PastTask, RunColumns
from storage.importers.table import import_table
from storage.integrity import verify
from storage.models import metadata, studies
from storage.optuna_storage import HistoryStorage
from storage.outbox import deliver
from storage.privacy import HASH, MASK, Privacy, Rules, current, read_rules
from storage.schema import open_store
from storage.seals import find_broken
from storage.sources import Source, list_sources
from storage.studies import claim_trial, create_study, extend_leases, finish_trial, release_trial, report, start_trial

SECRET = "QZSECRET"  # in all that is planted
KEY = "a key that nobody guesses"
RULES = f"""
parameters: {{"patient*": drop, site: hash, remark: mask, depth: hash}}
attributes: {{"*token*": drop, who: hash, remark: mask}}
paths: hash
users: hash
texts: ["{SECRET}-\\\\d+"]
"""
SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "patient_age": {"type": "int", "low": 1, "high": 99},
    "depth": {"type": "int", "low": 1, "high": 9},
    "site": {"type": "categorical", "choices": [f"{SECRET} a", f"{SECRET} b"]},
    "remark": {"type": "categorical", "choices": [f"{SECRET} x", f"{SECRET} y"]},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"site": [f"{SECRET} a"]}},
    "beta": {"type": "float", "low": 0.0, "high": 1.0, "when": {"patient_age": [1]}},
}
PARAMS = {"lr": 0.01, "patient_age": 7, "depth": 3, "site": f"{SECRET} b", "remark": f"{SECRET} x"}
ATTRIBUTES = {"my_token": SECRET, "who": SECRET, "remark": SECRET, "fine": f"about {SECRET}-17", "kept": 3}
ERROR = f"FileNotFoundError: '/home/{SECRET}/data.csv' of {SECRET}-17, at C:\\Users\\{SECRET}\\x.csv"
PATH = f"/home/{SECRET}/runs/best.ckpt"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    path = tmp_path / "privacy.yaml"
    path.write_text(RULES)
    monkeypatch.setenv("HPO_PRIVACY", str(path))
    monkeypatch.setenv("HPO_PRIVACY_KEY", KEY)
    return read_rules(path, KEY)


def told(store):
    """Everything in every table, as one text."""
    with store.read() as connection:
        rows = [str(row) for table in metadata.tables.values() for row in connection.execute(select(table))]
    return "\n".join(rows)


def is_clean(store):
    return SECRET not in told(store) and not verify(store)


@pytest.fixture(scope="module")
def mlflow_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports and tables
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{path}").search_runs(["0"])
    return path


def test_live_work(store, rules, mlflow_file):
    study_id = create_study(
        store,
        name="s",
        space={"lr": SPACE["lr"]},
        spec={
            "study": "s",
            "space": {"lr": SPACE["lr"]},
            "trainer": {"data": {"init_args": {"site": SECRET, "patient_list": [SECRET], "root": PATH}}},
        },
        provenance={"folder": f"/home/{SECRET}", "who": SECRET, "hardware": f"{SECRET}-17"},
        mlflow_uri=f"sqlite:///{mlflow_file}",
    )
    for ending in ("complete", "fail", "release"):
        claim = claim_trial(store, study_id, worker=f"{SECRET}/1/2/3", lease_seconds=60, max_trials=None)
        assert extend_leases(store, [claim], worker=f"{SECRET}/1/2/3", lease_seconds=60) == {claim.trial_id}
        start_trial(store, claim, params=PARAMS, seed=1, code_version=f"{SECRET}-1", hardware=f"{SECRET}-2")
        report(store, claim, step=0, value=1.0, metrics={"loss": 1.0})
        if ending == "complete":
            outcome = {"value": 0.5, "checkpoint": PATH, "measured": {"who": 1.0}, "notes": [ERROR]}
            finish_trial(store, claim, state=TrialState.COMPLETE, **outcome)
        elif ending == "fail":
            finish_trial(store, claim, state=TrialState.FAIL, value=None, error=ERROR)
        else:
            release_trial(store, claim, reason=ERROR)
    assert is_clean(store)
    with store.read() as connection:
        kept = json.loads(connection.execute(select(studies.c.spec)).scalar_one())["trainer"]["data"]["init_args"]
    assert list(kept) == ["site", "root"] and HASH.fullmatch(kept["site"])
    assert deliver(store) > 0
    with closing(sqlite3.connect(mlflow_file)) as connection:
        dumped = "\n".join(connection.iterdump())
    assert SECRET not in dumped and "#" in dumped and "patient_age" not in dumped


def test_plain_optuna(store, rules):
    storage = HistoryStorage(store)
    study = optuna.create_study(storage=storage, study_name="plain")
    for name, value in ATTRIBUTES.items():
        study.set_user_attr(name, value)

    def objective(trial):
        for name, value in ATTRIBUTES.items():
            trial.set_user_attr(name, value)
        storage.set_trial_system_attr(trial._trial_id, "where", PATH)
        return trial.suggest_float("lr", 0.0, 1.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        study.optimize(objective, n_trials=2)
    drawn_from = {"lr": FloatDistribution(0.0, 1.0)}
    study.add_trial(create_trial(value=1.0, params={"lr": 0.5}, distributions=drawn_from, user_attrs=ATTRIBUTES))
    assert is_clean(store)
    assert study.user_attrs["remark"] == MASK and study.user_attrs["kept"] == 3
    assert "my_token" not in study.trials[0].user_attrs
    assert study.trials[0].user_attrs["who"] == study.trials[2].user_attrs["who"] == study.user_attrs["who"]


def test_what_is_searched_over_is_not_lost_silently(store, rules):
    study = optuna.create_study(storage=HistoryStorage(store))
    trial = study.ask()
    with pytest.raises(PrivacyError, match=r"patient_age is searched over, and HPO_PRIVACY says 'drop'"):
        trial.suggest_int("patient_age", 1, 99)
    with pytest.raises(PrivacyError, match="only choices can be hashed"):
        trial.suggest_int("depth", 1, 9)
    with pytest.raises(PrivacyError, match="with a study file"):
        trial.suggest_categorical("site", ["a", "b"])
    drawn_from = {"site": CategoricalDistribution(("a", "b"))}
    with pytest.raises(PrivacyError):
        study.add_trial(create_trial(value=1.0, params={"site": "a"}, distributions=drawn_from))
    with pytest.raises(PrivacyError, match="patient_age"):
        create_study(store, name="s", space=SPACE)


def intake(store):
    return Intake(store, source=Source(name="past", kind="table", location=PATH, settings={"folder": PATH}))


def past(study="digits"):
    facts = {"provenance": {"folder": PATH, "who": SECRET}, "user_attrs": ATTRIBUTES}
    return PastTask(name=study, study=study, metric="loss", direction="minimize", space=SPACE, **facts)


def past_run(key, **params):
    texts = {"code_version": f"{SECRET}-1", "hardware": f"{SECRET}-2", "checkpoint": PATH, "error": ERROR}
    return PastRun(key=f"/home/{SECRET}/{key}", params=PARAMS | params, value=0.5, user_attrs=ATTRIBUTES, **texts)


def check_imported(store):
    assert is_clean(store)
    study = history.get_study(store, "digits")
    assert set(study.space) == {"lr", "depth", "site", "remark", "momentum", "beta"}
    assert all(HASH.fullmatch(choice) for name in ("depth", "site") for choice in study.space[name]["choices"])
    assert study.space["remark"]["choices"] == [MASK]
    assert study.space["momentum"]["when"] == {"site": [study.space["site"]["choices"][0]]}
    assert "when" not in study.space["beta"]
    return [trial.params for trial in HistoryStorage(store).get_all_trials(study.study_id)]


def test_imported_runs(store, rules):
    one = intake(store)
    one.take(past(), [past_run("a"), past_run("b", site=f"{SECRET} a", momentum=0.5)])
    one.take(past(), [past_run("c", depth=5)])
    one.finish()
    params = check_imported(store)
    assert params[0]["site"] == params[2]["site"] != params[1]["site"]
    assert params[0]["depth"] == params[1]["depth"] != params[2]["depth"]
    again = intake(store)
    again.take(past(), [past_run("a")])
    assert again.finish().skipped == {"already here": 1}
    assert [source.name for source in list_sources(store)] == ["past"]


def test_imported_columns(store, rules):
    internal = np.array([[0.01, 7, 3, 1, 0, np.nan], [0.02, 8, 5, 0, 1, 0.5], [0.03, 9, 3, 1, 1, np.nan]])
    names = ("lr", "patient_age", "depth", "site", "remark", "momentum")
    columns = RunColumns(
        keys=["a", f"/home/{SECRET}", "c"],
        names=names,
        internal=internal,
        values=np.array([0.1, 0.2, 0.3]),
        user_attrs={0: ATTRIBUTES},
        errors={1: ERROR},
        code_versions={0: f"{SECRET}-1"},
        hardware={0: f"{SECRET}-2"},
        checkpoints={0: PATH},
    )
    one = intake(store)
    one.take_table(past(), columns)
    one.finish()
    params = check_imported(store)
    assert [set(each) for each in params] == [
        {"lr", "depth", "site", "remark"} | extra for extra in (set(), {"momentum"}, set())
    ]
    assert params[0]["depth"] == params[2]["depth"] != params[1]["depth"]


def test_a_table_of_runs(store, rules, tmp_path):
    folder = tmp_path / SECRET
    folder.mkdir()
    lines = [
        f"{number},{0.01 * (number + 1)},{SECRET} {'ab'[number % 2]},{number},{1.0 / (number + 1)}"
        for number in range(8)
    ]
    (folder / "runs.csv").write_text("\n".join(["run,lr,site,patient_age,loss", *lines]))
    import_table(store, folder / "runs.csv", task="t", metric="loss", direction="minimize", source="past")
    assert SECRET not in told(store)
    assert find_problems(store) == []


def find_problems(store):
    with store.read() as connection:
        return list(find_broken(connection, progress=lambda _share: None))


def test_accounts(store, rules):
    _, token = tokens.create_token(store, owner=SECRET, role="operator", created_by=f"{SECRET} admin")
    doer = audit.Doer(who=token.owner, action="study.pause", details={"folder": PATH})
    with store.write() as connection:
        audit.note_within(connection, doer, "study 1", details={"who": SECRET})
    assert SECRET not in told(store)
    assert audit.list_entries(store, who=token.owner)


def test_a_worker_is_known_by_its_own_machine(rules):
    worker = this_worker()
    assert os.uname().nodename not in worker
    assert may_be_alive(worker)
    host, _, start, rest = worker.split("/")
    assert not may_be_alive(f"{host}/999999999/{start}/{rest}")
    assert rules.worker(worker) == worker  # what is hidden is not hidden twice


def test_what_is_kept_of_jobs_and_launches(store, rules):
    begun = background_jobs.add_job(store, kind="import", owner="ann", settings={"path": PATH, "my_token": SECRET})
    job = background_jobs.begin_job(store, worker="w", lease_seconds=60.0)
    assert job.settings["path"] == PATH  # it is to be done yet
    assert background_jobs.end_job(store, job, "failed", error=ERROR, result={"rows": [PATH, f"{SECRET}-17"]})
    study_id = create_study(store, name="s", metric="loss")
    launches.request_launch(store, study_id, owner="ann", place="workers")
    assert launches.finish(store, study_id, state="failed", message=ERROR, worker=None)
    assert background_jobs.get_job(store, begun.job_id).error.startswith("FileNotFoundError")
    assert SECRET not in told(store)


@pytest.mark.parametrize("name", ["secret", "secret/12/345/0a1b2c3d", "a/b/secret", "a/b/c/secret"])
def test_a_worker_of_a_service_is_still_known_by_its_owner(rules, name):
    for privacy in (rules, Privacy(rules=Rules(users="mask"), key=b"k")):
        hidden = privacy.worker(f"ann/{name}")
        assert hidden.startswith(f"{privacy.user('ann')}/")
        assert privacy.worker(hidden) == hidden
        assert not {"ann", "secret"} & set(hidden.split("/"))


def test_a_hashed_choice_is_trained_with_what_it_stands_for(rules, tmp_path, monkeypatch):
    (tmp_path / "sites.py").write_text(
        "def train(config, report):\n"
        f"    assert config['site'] in ('{SECRET} a', '{SECRET} b'), config\n"
        "    report(loss=1.0 if config['site'].endswith('a') else 2.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    file = {
        "study": "s",
        "task": {"name": "t", "metric": "loss", "direction": "minimize"},
        "trainer": {"function": "sites.train"},
        "space": {"lr": SPACE["lr"], "site": SPACE["site"], "momentum": SPACE["momentum"]},
        "budget": {"trials": 4},
        "pruner": "none",
    }
    url = f"sqlite:///{tmp_path}/history.db"
    study = tune(file, storage=url, mlflow="none", runs=tmp_path / "runs")
    assert len({(trial.params["site"], trial.value) for trial in study.trials}) <= 2
    assert all(HASH.fullmatch(trial.params["site"]) for trial in study.trials)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    store = open_store(url)
    assert is_clean(store)
    again, _ = hide_choices(parse_spec(file, trials=9), current())
    assert admit(store, again, resume=True)  # it is the same study
    with pytest.raises(PrivacyError, match="its choices are hashed in this history"):
        hide_choices(again, current())
    store.dispose()


def test_a_study_whose_folder_is_hidden_is_looked_for_where_one_is(sqlite_store, rules):
    spec = {"study": "s", "task": {"name": "t", "metric": "m", "direction": "minimize"}, "budget": {"trials": 1}}
    spec |= {"trainer": {"function": "a.b"}, "space": {"lr": SPACE["lr"]}}
    create_study(sqlite_store, name="s", spec=spec, provenance={"folder": "/home/somebody/code"})
    config = config_of(history.get_study(sqlite_store, "s"), sqlite_store)
    assert config.python_path == (os.getcwd(),)  # noqa: PTH109


def test_rules_that_are_wrong(tmp_path, monkeypatch, sqlite_url):
    path = tmp_path / "rules.yaml"
    for text, reason in (
        ("parameters: {lr: forget}", "'drop', 'hash' or 'mask'"),
        ("paths: [", "no YAML"),
        ("texts: ['(']", "no regular expression"),
        ("people: hash", "people: Extra inputs"),
        ("users: hash", "HPO_PRIVACY_KEY must hold a key"),
    ):
        path.write_text(text)
        with pytest.raises(PrivacyError, match=reason):
            read_rules(path, "")
    monkeypatch.setenv("HPO_PRIVACY", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(PrivacyError, match="cannot be read"):
        open_store(sqlite_url)


def test_without_rules_everything_is_stored_as_it_is(monkeypatch):
    monkeypatch.delenv("HPO_PRIVACY", raising=False)
    assert current() == Privacy() and current().is_open
    assert current().text(ERROR) == ERROR and current().params(PARAMS) == PARAMS and current().path(PATH) == PATH
