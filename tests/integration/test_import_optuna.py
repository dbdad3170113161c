"""Do the studies of other Optuna storages come into the history, and do those storages stay as they are?"""

import hashlib
import json
import math
import sqlite3
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from sqlalchemy import NullPool, create_engine, inspect, text

from storage.errors import ImportFailedError
from storage.history import get_study, list_studies, list_trials
from storage.importers.optuna import import_optuna
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.sources import list_sources
from storage.studies import claim_trial, create_study, finish_trial, report, start_trial

KERNELS = CategoricalDistribution(("rbf", None, 3, True))
X = FloatDistribution(1e-5, 1.0, log=True)


class Other:
    """A storage of somebody else's."""

    def __init__(self, name, storage):
        self.name, self.storage = name, storage

    def study(self, name="svm", **options):
        return optuna.create_study(storage=self.storage, study_name=name, **options)

    def close(self):
        """Let go of the files, so that whoever writes to them shows."""
        if isinstance(self.storage, RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()


@pytest.fixture
def rdb():
    """Makes storages in databases, and closes them."""
    opened = []

    def made(url, name=None):
        opened.append(Other(name or url, RDBStorage(url)))
        return opened[-1]

    yield made
    for other in opened:
        other.close()


def journal(path):
    return Other(str(path), JournalStorage(JournalFileBackend(str(path))))


@pytest.fixture(params=["sqlite", "postgresql", "journal", "history"])
def other(request, tmp_path, rdb):
    if request.param == "postgresql":
        return rdb(request.getfixturevalue("postgresql_url"))
    folder = tmp_path / "other"
    folder.mkdir()
    url = f"sqlite:///{folder / 'o.db'}"
    if request.param == "sqlite":
        return rdb(url)
    return journal(folder / "o.log") if request.param == "journal" else Other(url, HistoryStorage(url))


def fill(study):
    """A trial of each kind; two of them have not ended."""
    for params, options in (
        ({"kernel": "rbf", "x": 0.5, "n": 5}, {"value": 0.25, "intermediate_values": {0: 1.0, 2: math.nan, 3: 0.25}}),
        ({"kernel": None, "x": 1e-5}, {"state": TrialState.PRUNED, "intermediate_values": {1: 0.5, 4: 0.75}}),
        ({"kernel": True, "x": 1.0}, {"state": TrialState.FAIL, "user_attrs": {"note": {"of": ["any", "kind"]}}}),
        ({"kernel": 3, "x": 0.1}, {"value": math.inf, "system_attrs": {"constraints": [1.0], "tpe:x": 3}}),
    ):  # fmt: skip
        distributions = {"kernel": KERNELS, "x": X, "n": IntDistribution(1, 9, step=2)}
        study.add_trial(
            create_trial(params=params, distributions={name: distributions[name] for name in params}, **options)
        )
    study.ask()
    study.enqueue_trial({"x": 0.2})


def taken(store, study):
    return list_trials(store, get_study(store, study).study_id)


def test_trials_come_with_distributions_values_curves_and_attributes(store, other):
    study = other.study(direction="maximize")
    study.set_user_attr("team", "vision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["val_acc"])
    fill(study)
    other.close()
    done = []
    report = import_optuna(store, storage=other.name, source="theirs", progress=done.append)
    assert (report.taken, dict(report.skipped), dict(report.rejected)) == (4, {"not finished yet": 2}, {})
    assert sum(done) == 6
    found = get_study(store, "theirs/svm")
    assert (found.task, found.metric, found.directions) == ("svm", "val_acc", ("maximize",))
    assert found.space == {
        "kernel": {"type": "categorical", "choices": ["rbf", None, 3, True]},
        "x": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "n": {"type": "int", "low": 1, "high": 9, "step": 2},
    }
    assert HistoryStorage(store).get_study_user_attrs(found.study_id) == {"team": "vision"}
    complete, pruned, failed, infinite = taken(store, "theirs/svm")
    assert (complete.params, complete.value) == ({"kernel": "rbf", "x": 0.5, "n": 5}, 0.25)
    assert json.dumps(complete.intermediate_values) == '{"0": 1.0, "2": NaN, "3": 0.25}'
    assert (pruned.state, pruned.value, pruned.params["kernel"]) == (TrialState.PRUNED, 0.75, None)
    assert (failed.state, failed.value) == (TrialState.FAIL, None)
    assert failed.user_attrs == {"note": {"of": ["any", "kind"]}}
    assert (infinite.state, infinite.value, infinite.error) == (TrialState.FAIL, None, "the value is inf")
    original = study.trials[0]
    assert complete.started_at.timestamp() == pytest.approx(original.datetime_start.timestamp())
    assert complete.finished_at.timestamp() == pytest.approx(original.datetime_complete.timestamp())


def test_telling_system_attributes_are_kept_and_samplers_notes_are_not(sqlite_store, tmp_path, rdb):
    study = rdb(f"sqlite:///{tmp_path / 'o.db'}").study()
    fill(study)
    import_optuna(sqlite_store, storage=str(tmp_path / "o.db"), source="theirs")
    assert taken(sqlite_store, "theirs/svm")[3].user_attrs == {"optuna:system": {"constraints": [1.0]}}


def test_only_what_is_new_comes_again(store, other):
    study = other.study()
    fill(study)
    assert import_optuna(store, storage=other.name).taken == 4
    running = next(trial for trial in study.trials if trial.state == TrialState.RUNNING)
    study.tell(running.number, 0.5)
    study.add_trial(create_trial(params={"x": 0.3}, distributions={"x": X}, value=0.1))
    again = import_optuna(store, storage=other.name)
    assert (again.taken, again.skipped["already here"], dict(again.rejected)) == (2, 4, {})
    assert len(list_studies(store)) == 1


def test_a_study_that_was_made_anew_under_its_name_adds_to_the_old_one(store, other):
    for value in (0.1, 0.2):
        if value > 0.1:
            optuna.delete_study(storage=other.storage, study_name="svm")
        other.study().add_trial(create_trial(params={"x": 0.3}, distributions={"x": X}, value=value))
        assert import_optuna(store, storage=other.name).taken == 1
    assert sorted(trial.value for trial in taken(store, list_studies(store)[0].name)) == [0.1, 0.2]


def test_ranges_that_move_are_united(store, other):
    study = other.study()
    for low, high in ((0.0, 1.0), (5.0, 8.0), (-3.0, 0.5)):
        study.add_trial(create_trial(params={"y": high}, distributions={"y": FloatDistribution(low, high)}, value=low))
    report = import_optuna(store, storage=other.name)
    assert (report.taken, report.rows) == (3, [])
    (found,) = list_studies(store)
    assert found.space == {"y": {"type": "float", "low": -3.0, "high": 8.0}}


def test_studies_with_several_objectives_are_left_out(store, other):
    several = other.study("several", directions=["minimize", "maximize"])
    several.add_trial(create_trial(params={"x": 0.3}, distributions={"x": X}, values=[1.0, 2.0]))
    other.study("empty")
    fill(other.study("single"))
    report = import_optuna(store, storage=other.name, source="theirs")
    assert report.taken == 4
    assert report.skipped["several objectives"] == 1
    assert [study.name for study in list_studies(store)] == ["theirs/single"]


def test_studies_can_be_chosen(store, other):
    for name in ("one", "two"):
        fill(other.study(name))
    import_optuna(store, storage=other.name, studies=["two"], source="theirs")
    assert [study.name for study in list_studies(store)] == ["theirs/two"]
    with pytest.raises(ImportFailedError, match=r"There is no study 'tow' in .*\. Did you mean 'two'\?"):
        import_optuna(store, storage=other.name, studies=["tow"])


def test_a_dry_run_writes_nothing(store, other):
    fill(other.study())
    report = import_optuna(store, storage=other.name, dry_run=True)
    assert (report.taken, list_studies(store), list_sources(store)) == (4, [], [])


def test_a_mapping_renames_scales_drops_and_sorts(store, other):
    fill(other.study())
    mapping = {
        "rename": {"x": "lr", "value": "error"},
        "scale": {"lr": 10, "error": 100},
        "drop": ["n"],
        "direction": "maximize",
        "task": "{study}/{param:kernel}",
    }
    report = import_optuna(store, storage=other.name, source="theirs", mapping=mapping)
    assert (report.taken, report.number_rejected) == (4, 0)
    found = get_study(store, "theirs/svm/rbf")
    assert (found.metric, found.directions, set(found.space)) == ("error", ("maximize",), {"kernel", "lr"})
    assert found.space["lr"] == {"type": "float", "low": 1e-4, "high": 10.0, "log": True}
    (trial,) = taken(store, "theirs/svm/rbf")
    assert (trial.params, trial.value) == ({"kernel": "rbf", "lr": 5.0}, 25.0)
    assert trial.intermediate_values[3] == 25.0


def test_the_best_value_of_a_curve_can_be_asked_for(store, tmp_path, rdb):
    study = rdb(f"sqlite:///{tmp_path / 'o.db'}").study()
    points = {0: 0.5, 1: math.nan, 2: 0.125, 3: 0.25}
    study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": X}, value=0.25, intermediate_values=points))
    import_optuna(store, storage=str(tmp_path / "o.db"), source="theirs", mapping={"value": "best"})
    assert [trial.value for trial in taken(store, "theirs/svm")] == [0.125]


def test_a_history_comes_with_what_only_it_knows(store, tmp_path):
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    space = {
        "kernel": {"type": "categorical", "choices": ["rbf", "linear"]},
        "gamma": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kernel": ["rbf"]}},
    }
    study_id = create_study(other, name="s", task="churn", metric="val_loss", space=space, provenance={"host": "a"})
    claim = claim_trial(other, study_id, worker="w", lease_seconds=60, max_trials=None)
    storage = HistoryStorage(other)
    storage.set_trial_param(claim.trial_id, "kernel", 1.0, CategoricalDistribution(("rbf", "linear")))
    start_trial(other, claim, params={}, seed=2**60 + 1, code_version="abc", data_fingerprint="d", hardware="gpu")
    report(other, claim, step=1, value=0.5)
    finish_trial(other, claim, state=TrialState.COMPLETE, value=0.5, cost_seconds=3.5, epochs=1, checkpoint="best.ckpt")
    import_optuna(store, storage=str(tmp_path / "other.db"), source="theirs")
    found = get_study(store, "theirs/churn")
    assert (found.task, found.metric, found.space, found.provenance) == ("churn", "val_loss", space, {"host": "a"})
    (trial,) = taken(store, "theirs/churn")
    assert (trial.seed, trial.code_version, trial.data_fingerprint, trial.hardware) == (2**60 + 1, "abc", "d", "gpu")
    assert (trial.cost_seconds, trial.epochs, trial.checkpoint) == (3.5, 1, "best.ckpt")


def test_a_history_is_not_imported_into_itself(store):
    with pytest.raises(ImportFailedError, match="is the history itself"):
        import_optuna(store, storage=store.url)


# The other storage stays as it is


def state_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_no_byte_of_another_storage_changes(sqlite_store, tmp_path, kind, rdb):
    folder = tmp_path / "other"
    folder.mkdir()
    if kind == "sqlite":
        other = rdb(f"sqlite:///{folder / 'plain.db'}", str(folder / "{o}?#.db"))
    else:
        other = journal(folder / "plain.log")
    fill(other.study())
    other.close()
    if kind == "sqlite":
        (folder / "plain.db").rename(folder / "{o}?#.db")
    before = state_of(folder)
    folder.chmod(0o500)
    try:
        assert import_optuna(sqlite_store, storage=other.name).taken == 4
    finally:
        folder.chmod(0o700)
    assert state_of(folder) == before


def test_a_server_is_read_in_read_only_transactions(sqlite_store, postgresql_url, rdb):
    fill(rdb(postgresql_url).study())
    engine = create_engine(postgresql_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))  # Optuna would stamp it
    with pytest.raises(ImportFailedError, match="read-only transaction"):
        import_optuna(sqlite_store, storage=postgresql_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 0


def test_the_password_stays_out_of_the_history(sqlite_store, postgresql_url, rdb):
    fill(rdb(postgresql_url).study())
    with_password = postgresql_url.replace("://postgres", "://postgres:secret", 1)
    assert "secret" in with_password
    import_optuna(sqlite_store, storage=with_password)
    (source,) = list_sources(sqlite_store)
    assert "secret" not in source.location and "***" in source.location


def test_an_empty_database_stays_empty(sqlite_store, postgresql_url, tmp_path):
    with pytest.raises(ImportFailedError, match="There are no studies of Optuna in"):
        import_optuna(sqlite_store, storage=postgresql_url)
    assert inspect(create_engine(postgresql_url, poolclass=NullPool)).get_table_names() == []
    with sqlite3.connect(tmp_path / "else.db") as connection:
        connection.execute("CREATE TABLE users (id INTEGER)")
    with pytest.raises(ImportFailedError, match="There are no studies of Optuna in"):
        import_optuna(sqlite_store, storage=str(tmp_path / "else.db"))


@pytest.mark.parametrize("storage", ["{}/nothing.db", "sqlite:///{}/nothing.db", "{}/journal.log"])
def test_a_file_that_is_not_there_is_not_made(sqlite_store, tmp_path, storage):
    before = set(tmp_path.iterdir())
    with pytest.raises(ImportFailedError, match="cannot be read: No such file"):
        import_optuna(sqlite_store, storage=storage.format(tmp_path))
    assert set(tmp_path.iterdir()) == before


# What cannot be read


def test_a_torn_database_is_refused_before_anything_is_taken(sqlite_store, tmp_path, rdb):
    other = rdb(f"sqlite:///{tmp_path / 'o.db'}")
    study = other.study()
    attributes = {f"a{number}": "b" * 2_000 for number in range(40)}  # pages enough
    study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": X}, value=0.5, user_attrs=attributes))
    other.close()
    whole = (tmp_path / "o.db").read_bytes()
    for keep in (len(whole) // 2, len(whole) - 8192):
        (tmp_path / "o.db").write_bytes(whole[:keep])
        with pytest.raises(ImportFailedError, match=r"is damaged|cannot be read"):
            import_optuna(sqlite_store, storage=str(tmp_path / "o.db"))
    assert list_studies(sqlite_store) == []


def test_a_journal_loses_no_more_than_the_line_that_was_cut_off(store, tmp_path):
    path = tmp_path / "o.log"
    fill(journal(path).study())
    path.write_bytes(path.read_bytes()[:-5])
    report = import_optuna(store, storage=str(path))
    assert report.taken == 4


@pytest.mark.parametrize(
    "content", [b"{", b"no journal\nat all\n", b'{"op_code": 99}\n', b"[1]\n", b"\xff\xfe\n", b'{"op_code": 0}\n']
)
def test_what_is_no_journal_is_refused(sqlite_store, tmp_path, content):
    (tmp_path / "o.log").write_bytes(content + b'{"op_code": 4, "worker_id": "w", "study_id": 7}\n')
    with pytest.raises(ImportFailedError, match=r"neither a database nor the log of an Optuna journal|cannot be read"):
        import_optuna(sqlite_store, storage=str(tmp_path / "o.log"))


def test_a_damaged_line_in_a_journal_is_refused(sqlite_store, tmp_path):
    path = tmp_path / "o.log"
    fill(journal(path).study())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5][:10] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ImportFailedError, match="or it is damaged"):
        import_optuna(sqlite_store, storage=str(path))


def test_an_older_version_of_optunas_tables_is_refused_with_its_advice(sqlite_store, tmp_path, rdb):
    other = rdb(f"sqlite:///{tmp_path / 'o.db'}")
    fill(other.study())
    other.close()
    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(ImportFailedError, match=r"no longer compatible.*optuna storage upgrade"):
        import_optuna(sqlite_store, storage=str(tmp_path / "o.db"))


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sqlite://", "A storage in memory cannot be read"),
        ("redis://localhost/0", "is no database URL|cannot be read"),
        ("postgresql://127.0.0.1:1/optuna", "cannot be read: .*refused"),
    ],
)
def test_other_places_are_refused_with_a_reason(sqlite_store, storage, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImportFailedError, match=reason):
            import_optuna(sqlite_store, storage=storage)
