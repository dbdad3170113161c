"""What goes with a study that is deleted, and is the rest left alone?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from sqlalchemy import insert, select

from hpo.errors import MlflowUnavailableError
from hpo.running import deletion
from hpo.running.attempts import study_folder
from hpo.running.deletion import delete_study
from hpo.studies.replicates import REPLICATE, SUFFIX, mark_of, replicates_of
from storage import audit, history, launches, studies
from storage.audit import Doer
from storage.database import Store
from storage.errors import LaunchError, StudyNotFoundError
from storage.history import StudySummary
from storage.late_results import LATE_RESULT_OF
from storage.mlflow_runs import study_run_key
from storage.models import mlflow_runs
from storage.models import studies as table
from storage.optuna_storage import HistoryStorage


@pytest.fixture
def store(sqlite_store: Store) -> Store:
    return sqlite_store


def make(store: Store, name: str, *, replicates: int = 0) -> StudySummary:
    """A study of one trial, and of replicates of that."""
    storage = HistoryStorage(store)
    study = optuna.create_study(study_name=name, storage=storage)
    study.add_trial(create_trial(params={}, value=0.5))
    made = history.get_study(store, name)
    if replicates:
        own = optuna.create_study(study_name=name + SUFFIX, storage=storage)
        for seed in range(replicates):
            own.add_trial(create_trial(value=0.1, user_attrs=mark_of(made, 0, seed, {})))
    return made


def names(store: Store) -> list[str]:
    return [study.name for study in history.list_studies(store)]


def test_replicates_go_with_their_study_and_so_do_the_files_of_both(store: Store, tmp_path: Path) -> None:
    study, runs = make(store, "churn", replicates=3), tmp_path / "runs"
    make(store, "other", replicates=1)
    held = history.get_study(store, "churn" + SUFFIX)
    folders = [study_folder(runs, each.name, store_url=store.url, created_at=each.created_at) for each in (study, held)]
    for folder in folders:
        (folder / "trial-0000").mkdir(parents=True)
    done = delete_study(store, study.study_id, runs=runs, with_files=True, doer=Doer(who="ann", action="study.delete"))
    assert (done.study, done.trials, done.replicates) == ("churn", 1, 3)
    assert done.folders == tuple(map(str, folders)) and done.are_folders_removed
    assert list(runs.iterdir()) == []
    assert names(store) == ["other", "other" + SUFFIX]
    told = {entry.subject: entry.details for entry in audit.list_entries(store)}
    assert told == {f"study {each.study_id}": {"name": each.name} for each in (study, held)}
    assert delete_study(store, make(store, "churn").study_id, runs=runs).folders == ()


def test_a_study_stays_while_its_replicates_are_trained(store: Store, tmp_path: Path) -> None:
    study = make(store, "churn", replicates=1)
    launches.request_launch(store, history.get_study(store, "churn" + SUFFIX).study_id, owner="ann", place="server")
    with pytest.raises(LaunchError, match="'churn/replicates' is in the queue: stop it first"):
        delete_study(store, study.study_id, runs=tmp_path)
    assert names(store) == ["churn", "churn" + SUFFIX]


def test_a_study_that_only_has_such_a_name_stays(store: Store, tmp_path: Path) -> None:
    for name in ("churn", "digits"):
        study = make(store, name)
        own = optuna.create_study(study_name=name + SUFFIX, storage=HistoryStorage(store))
        told = {REPLICATE: {"study": name, "trial": 7, "seed": 1, "params": {"lr": 0.1}}}  # of an earlier one
        own.add_trial(create_trial(value=0.1, user_attrs={} if name == "churn" else told))
        assert delete_study(store, study.study_id, runs=tmp_path).replicates == 0
    assert names(store) == ["churn" + SUFFIX, "digits" + SUFFIX]


def test_a_study_goes_after_its_runs_or_not_at_all(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(store, "churn", replicates=1)
    held = history.get_study(store, "churn" + SUFFIX)
    with store.write() as connection:
        for each in (study, held):
            made = connection.execute(select(table.c.created_at).where(table.c.id == each.study_id)).scalar_one()
            key = study_run_key(each.name, made)
            for number in range(2):
                row = {"mlflow_uri": "sqlite://", "run_key": f"{key}/{number}/1", "run_id": f"{each.name} {number}"}
                connection.execute(insert(mlflow_runs).values(**row))
    marked: list[str] = []

    def mark(client: object, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            assert names(store) == ["churn", "churn" + SUFFIX]
            marked.append(run_id)
            if len(marked) == 3:
                raise ConnectionError("reset by peer")

    monkeypatch.setattr(deletion, "clients_for", dict.fromkeys)
    monkeypatch.setattr(deletion, "mark_deleted", mark)
    with pytest.raises(MlflowUnavailableError, match="the study is as it was, though some of its runs may be marked"):
        delete_study(store, study.study_id, runs=tmp_path, with_mlflow_runs=True)
    done = delete_study(store, study.study_id, runs=tmp_path, with_mlflow_runs=True)
    assert marked[3:] == ["churn 0", "churn 1", "churn/replicates 0", "churn/replicates 1"]
    assert (done.mlflow_runs, done.are_runs_deleted, done.mlflow_uris) == (4, True, ("sqlite://",))
    assert names(store) == []


def test_a_study_that_runs_keeps_its_runs(store: Store, tmp_path: Path) -> None:
    study_id = studies.create_study(store, name="busy")
    launches.request_launch(store, study_id, owner="ann", place="server")
    asked: list[Sequence[int]] = []
    with pytest.raises(LaunchError):
        delete_study(store, study_id, runs=tmp_path, with_mlflow_runs=True, mark=asked.append)
    with pytest.raises(StudyNotFoundError):
        delete_study(store, study_id + 1, runs=tmp_path, with_mlflow_runs=True, mark=asked.append)
    assert asked == []


def test_replicates_of_an_earlier_study_of_that_name_are_not_its_own(store: Store) -> None:
    """Whoever deletes by Optuna leaves them."""
    first = make(store, "churn", replicates=2)
    own = optuna.load_study(study_name="churn" + SUFFIX, storage=HistoryStorage(store))
    assert len(replicates_of(store, first)) == 2
    optuna.delete_study(study_name="churn", storage=HistoryStorage(store))
    second = make(store, "churn")
    assert replicates_of(store, second) == []
    own.add_trial(create_trial(state=TrialState.FAIL, user_attrs=mark_of(second, 0, 0, {})))
    assert [trial.number for trial in replicates_of(store, second)] == [2]
    for trial, params in ((0, {"lr": 0.1}), (5, {}), (0, {})):  # marks that say nothing of when it was made
        told = {"study": "churn", "trial": trial, "seed": 9, "params": params}
        own.add_trial(create_trial(value=0.1, user_attrs={REPLICATE: told}))
    assert [trial.number for trial in replicates_of(store, second)] == [2, 5]
    marks = mark_of(second, 0, 0, {}) | {"note": "the first one failed, and its late value counts"}
    own.add_trial(create_trial(value=0.3, user_attrs=marks, system_attrs={LATE_RESULT_OF: {"trial": 2, "attempt": 1}}))
    assert [trial.value for trial in replicates_of(store, second)][:1] == [0.3]
    own.add_trial(create_trial(value=0.9, user_attrs=marks, system_attrs={LATE_RESULT_OF: {"trial": 2, "attempt": 1}}))
    assert [trial.value for trial in replicates_of(store, second)][:1] == [0.3], "one that is complete stays"
