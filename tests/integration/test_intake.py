"""Is each run taken once, whole, and with a reason where it is not?"""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState
from sqlalchemy import select, text

from storage import history
from storage.arrays import family_arrays
from storage.database import Store
from storage.errors import ImportFailedError, SourceNotFoundError
from storage.families import list_families
from storage.importers import intake as intake_module
from storage.importers.intake import Intake
from storage.importers.runs import PastRun, PastTask, RunColumns
from storage.models import metadata, studies
from storage.optuna_storage import HistoryStorage
from storage.sources import Source, forget, list_sources
from tests.lost_replies import lossy_way

SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"optimizer": ["sgd"]}},
}
SOURCE = Source(name="old runs", kind="table", location="runs.csv")


def task(name="digits", space=SPACE, **changes):
    fields = {"name": name, "study": name, "metric": "val_loss", "direction": "minimize", "space": space}
    return PastTask(**fields | changes)


def run(key, lr=0.01, value=0.5, **changes):
    return PastRun(key=key, params={"lr": lr, "optimizer": "adam"}, value=value, **changes)


def taken(store, *batches, source=SOURCE, **options):
    intake = Intake(store, source=source, **options)
    for one, runs in batches:
        intake.take(one, runs)
    return intake.finish()


def trials(store, study="digits"):
    return history.list_trials(store, history.get_study(store, study).study_id)


def test_a_run_becomes_a_trial_with_all_that_is_known_of_it(store):
    full = PastRun(
        key="a",
        params={"lr": 0.02, "optimizer": "sgd", "momentum": 0.9},
        value=0.25,
        curve=[(0, 0.5), (1, float("nan")), (2, 0.25)],
        started_at=1.7e9,
        finished_at=1.7e9 + 60,
        cost_seconds=59.5,
        epochs=3,
        seed=7,
        code_version="abc",
        data_fingerprint="def",
        hardware="cpu",
        user_attrs={"tags": {"team": "vision"}},
    )
    report = taken(store, (task(user_attrs={"owner": "me"}), [full]))
    (trial,) = trials(store)
    assert report.taken == 1
    assert trial.params == full.params
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.25)
    assert trial.intermediate_values == pytest.approx({0: 0.5, 1: float("nan"), 2: 0.25}, nan_ok=True)
    assert (trial.cost_seconds, trial.epochs, trial.seed, trial.code_version) == (59.5, 3, 7, "abc")
    assert (trial.finished_at - trial.started_at).total_seconds() == 60
    assert trial.user_attrs == {"tags": {"team": "vision"}}
    study = history.get_study(store, "digits")
    assert (study.source, study.space, study.task) == ("old runs", SPACE, "digits")
    assert report.tasks["digits"].family == study.family


def test_the_same_again_changes_nothing(store):
    batch = (task(), [run("a"), run("b", value=0.4)])
    taken(store, batch)
    again = taken(store, batch)
    assert (again.taken, dict(again.skipped)) == (0, {"already here": 2})
    assert [trial.number for trial in trials(store)] == [0, 1]


def test_only_what_is_new_is_added(store):
    taken(store, (task(), [run("a")]))
    report = taken(store, (task(), [run("a"), run("b")]))
    assert (report.taken, report.number_skipped) == (1, 1)
    assert [trial.number for trial in trials(store)] == [0, 1]


def test_what_differs_is_rejected_and_the_first_stays(store):
    taken(store, (task(), [run("a", value=0.5)]))
    report = taken(store, (task(), [run("a", value=0.75)]))
    assert dict(report.rejected) == {"differs from what was imported before": 1}
    assert report.rows[0].reason == "differs from what was imported before: value 0.5, now 0.75"
    assert [trial.value for trial in trials(store)] == [0.5]


def test_a_key_twice_in_one_batch_counts_once(store):
    report = taken(store, (task(), [run("a"), run("a"), run("a", value=0.1)]))
    assert (report.taken, report.number_skipped, report.number_rejected) == (1, 1, 1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (run("x", lr=3.0), "a value outside of the space: lr = 3.0"),
        (run("x", value=None), "no value: the run is complete but has none of the metric"),
        (PastRun(key="x", params={"width": 3}, value=1.0), "a parameter outside of the space: 'width'"),
        (PastRun(key="x", params={"optimizer": "lion"}, value=1.0), "a value outside of the space: optimizer = 'lion'"),
        (PastRun(key="x\0y", params={}, value=1.0), "a NUL character in a name: no database keeps it"),
    ],
)
def test_a_bad_run_is_rejected_alone(store, bad, reason):
    report = taken(store, (task(), [run("a"), bad, run("b")]))
    assert report.taken == 2
    assert [(row.row, row.reason) for row in report.rows] == [(bad.key, reason)]
    assert report.tasks["digits"].rejected == 1


def test_a_dry_run_tells_the_same_and_writes_nothing(store):
    taken(store, (task(), [run("a")]))
    batch = (task(), [run("a"), run("b"), run("b"), run("c", lr=7.0)])
    before = dump(store)
    dry = taken(store, batch, dry_run=True)
    assert dump(store) == before
    real = taken(store, batch)
    assert (dry.taken, dry.skipped, dry.rejected, dry.rows) == (real.taken, real.skipped, real.rejected, real.rows)


def test_a_wider_space_takes_the_old_trials_along(store):
    taken(store, (task(), [run("a")]))
    wider = {
        "lr": {"type": "float", "low": 1e-6, "high": 0.01, "log": True},
        "optimizer": {"type": "categorical", "choices": ["lion", "adam"]},
        "width": {"type": "int", "low": 1, "high": 8},
    }
    new = PastRun(key="b", params={"lr": 1e-6, "optimizer": "lion", "width": 4}, value=0.2)
    taken(store, (task(space=wider), [new]))
    first, second = trials(store)
    assert first.params == {"lr": 0.01, "optimizer": "adam"}
    assert second.params == new.params
    space = history.get_study(store, "digits").space
    assert (space["lr"]["low"], space["lr"]["high"]) == (1e-6, 0.1)
    assert space["optimizer"]["choices"] == ["sgd", "adam", "lion"]
    assert {trial.distributions["optimizer"].choices for trial in (first, second)} == {("sgd", "adam", "lion")}
    (family,) = list_families(store)
    assert len(family_arrays(store, family.name)) == 2
    assert len(HistoryStorage(store).get_all_trials(history.get_study(store, "digits").study_id)) == 2


def test_another_type_is_rejected(store):
    taken(store, (task(), [run("a")]))
    other = task(space={"lr": {"type": "categorical", "choices": ["low", "high"]}})
    report = taken(store, (other, [PastRun(key="b", params={"lr": "low"}, value=1.0)]))
    assert report.rows[0].reason.startswith("another type: lr was float")


def test_a_direction_that_turns_is_rejected(store):
    taken(store, (task(), [run("a")]))
    report = taken(store, (task(direction="maximize"), [run("b")]))
    assert report.rows[0].reason == "another direction: val_loss of task 'digits' is minimized so far"


def test_a_source_keeps_to_its_own_studies(store):
    taken(store, (task(), [run("a")]))
    report = taken(store, (task(), [run("b")]), source=Source(name="other", kind="table", location="b.csv"))
    assert report.rows[0].reason.startswith("the study's name is taken: 'digits' comes from 'old runs'")
    with pytest.raises(ImportFailedError, match=r"'old runs' stands for table runs from runs\.csv already"):
        Intake(store, source=Source(name="old runs", kind="mlflow", location="sqlite:///m.db"))
    with pytest.raises(ImportFailedError, match="'optuna' stands for studies that ran here"):
        Intake(store, source=Source(name="optuna", kind="optuna", location="x"))


def test_a_key_that_is_unique_in_the_world_is_known_from_another_source(store):
    taken(store, (task(), [run("0a1b")]), scope="store")
    server = Source(name="server", kind="mlflow", location="http://mlflow")
    report = taken(store, (task(study="digits on a server"), [run("0a1b"), run("ffff")]), source=server, scope="store")
    assert (report.taken, dict(report.skipped)) == (1, {"already here": 1})
    assert Intake(store, source=SOURCE).known_keys(["0a1b", "ffff", "none"]) == {"0a1b", "ffff"}


def test_a_table_goes_in_as_runs_do(store):
    rng = np.random.default_rng(0)
    n = 300
    internal = np.column_stack([10 ** rng.uniform(-5, -1, n), rng.integers(0, 2, n), rng.random(n)])
    internal[internal[:, 1] == 1, 2] = np.nan
    values = rng.random(n)
    values[3] = np.nan
    intake = Intake(store, source=SOURCE)
    keys = [str(number) for number in range(n)]
    intake.take_table(task(), RunColumns(keys=keys, names=tuple(SPACE), internal=internal, values=values))
    assert intake.finish().taken == n
    found = trials(store)
    assert found[3].state == TrialState.FAIL
    assert [trial.value for trial in found[:3]] == values[:3].tolist()
    assert all(("momentum" in trial.params) == (trial.params["optimizer"] == "sgd") for trial in found)
    arrays = family_arrays(store, list_families(store)[0].name)
    np.testing.assert_array_equal(arrays.internal, internal)
    np.testing.assert_array_equal(arrays.values, values)
    assert arrays.params(5) == found[5].params


def test_what_comes_in_slices_and_what_is_half_known_is_as_it_was(store, monkeypatch):
    monkeypatch.setattr(intake_module, "RUNS_PER_TRANSACTION", 7)
    n = 20
    columns = RunColumns(
        keys=[str(number) for number in range(n)],
        names=tuple(SPACE),
        internal=np.column_stack([np.full(n, 0.01), np.arange(n) % 2, np.where(np.arange(n) % 2, np.nan, 0.5)]),
        values=np.arange(n) / n,
        cost_seconds=np.where(np.arange(n) % 3, np.arange(n), np.nan),
        curves={row: [(1, row / n)] for row in range(0, n, 4)},
        user_attrs={row: {"row": row} for row in range(0, n, 5)},
        errors={19: "none really"},
    )
    half = replace(columns, keys=columns.keys[::3], internal=columns.internal[::3], values=columns.values[::3])
    half = replace(half, cost_seconds=columns.cost_seconds[::3], curves=None, user_attrs=None, errors=None)
    for some, number in ((half, 7), (columns, 13)):
        intake = Intake(store, source=SOURCE)
        intake.take_table(task(), some)
        assert intake.finish().taken == number
    found = sorted(trials(store), key=lambda trial: trial.value)
    assert [trial.value for trial in found] == columns.values.tolist()
    assert [trial.cost_seconds for trial in found] == [row if row % 3 else None for row in range(n)]
    assert [trial.params.get("momentum") for trial in found] == [None if row % 2 else 0.5 for row in range(n)]
    new = [row for row in range(n) if row % 3]
    assert [found[row].intermediate_values for row in new] == [{} if row % 4 else {1: row / n} for row in new]
    assert [found[row].user_attrs for row in new] == [{} if row % 5 else {"row": row} for row in new]
    assert found[19].error == "none really"
    assert len(history.list_trials(store, history.get_study(store, "digits").study_id)) == n


def test_what_became_of_each_run_is_told_while_others_come(store, monkeypatch):
    monkeypatch.setattr(intake_module, "RUNS_PER_TRANSACTION", 4)
    told = []
    intake = Intake(store, source=SOURCE, row_by_row=told.append)
    intake.reject("runs.csv line 4", "no value")
    assert told == []
    intake.take(task(), [run(str(line), label=f"runs.csv line {line}") for line in (2, 3, 5, 6)])
    assert [(row.row, row.verdict, row.trial) for row in told] == [
        ("runs.csv line 2", "taken", 0),
        ("runs.csv line 3", "taken", 1),
        ("runs.csv line 4", "rejected", None),
        ("runs.csv line 5", "taken", 2),
        ("runs.csv line 6", "taken", 3),
    ]
    intake.take(task(), [run("6", label="runs.csv line 7"), run("6", value=0.7), run("7", lr=9.0), run("8")])
    report = intake.finish()
    assert {row.row: (row.verdict, row.reason, row.study, row.trial) for row in told[5:]} == {
        "7": ("rejected", "a value outside of the space: lr = 9.0", "digits", None),
        "runs.csv line 7": ("skipped", "already here", "digits", None),
        "6": ("rejected", "differs from what was imported before: value 0.5, now 0.7", "digits", None),
        "8": ("taken", "", "digits", 4),
    }
    assert (report.taken, report.number_skipped, report.number_rejected) == (5, 1, 3)


def test_four_processes_import_the_same_runs(store, in_processes):
    runs = [run(str(number), value=number / 100) for number in range(100)]

    def work(index):
        return sum(taken(store, (task(), runs[start : start + 25])).taken for start in (0, 25, 50, 75))

    assert sum(in_processes(work, 4)) == 100
    assert [trial.number for trial in trials(store)] == list(range(100))


@pytest.mark.parametrize("message", [b"COMMIT", b"INSERT INTO studies"])
def test_a_lost_reply_doubles_nothing(postgresql_store, message):
    with lossy_way(postgresql_store.url) as way:
        lossy = Store(way.url)
        intake = Intake(lossy, source=SOURCE)
        way.lose_reply_to(message)
        intake.take(task(), [run("a"), run("b"), run("c")])
        report = intake.finish()
        lossy.dispose()
    assert way.lost == 1
    assert report.taken + report.number_skipped == 3
    assert [trial.number for trial in trials(postgresql_store)] == [0, 1, 2]


def test_forgetting_a_source_leaves_no_trace(store):
    taken(store, (task("kept"), [run("a")]), source=Source(name="kept", kind="table", location="kept.csv"))
    before = dump(store)
    curve = [(0, 1.0)]
    other = {"lr": {"type": "float", "low": 0.0, "high": 1.0}}
    taken(store, (task("gone", space=other), [PastRun(key="a", params={"lr": 0.5}, value=1.0, curve=curve)]))
    assert [(source.name, source.studies, source.trials) for source in list_sources(store)] == [
        ("kept", 1, 1),
        ("old runs", 1, 1),
    ]
    gone = forget(store, "old runs")
    assert (gone.studies, gone.trials) == (1, 1)
    assert dump(store) == before
    with pytest.raises(SourceNotFoundError, match="Did you mean 'kept'"):
        forget(store, "kepd")


INTERNED = ("distributions", "parameter_sets")  # definitions only: nothing of a run


def dump(store):
    with store.read() as connection:
        return {
            name: sorted(map(str, connection.execute(select(table)).all()))
            for name, table in metadata.tables.items()
            if name not in INTERNED and name not in {"chains", "seals"}  # those remember that there was one
        }


def study_of(store, name, values, *, reverse=False, scale=1.0):
    """A task whose value falls with the distance of the learning rate from 0.01."""
    rng = np.random.default_rng(len(name))
    lr = 10 ** rng.uniform(-5, -1, values)
    value = np.abs(np.log10(lr) + 2) / 4 + 0.02 * rng.random(values)
    accuracy = (value if reverse else 1 - value) * scale
    internal = np.column_stack([lr, np.ones(values), np.full(values, np.nan)])
    keys = [str(number) for number in range(values)]
    return task(name, metric="accuracy", direction="maximize"), RunColumns(
        keys=keys, names=tuple(SPACE), internal=internal, values=accuracy
    )


def imported(store, *tables):
    intake = Intake(store, source=SOURCE)
    for table in tables:
        intake.take_table(*table)
    return intake.finish()


def test_a_reversed_direction_is_flagged_by_disagreement(store):
    report = imported(store, *(study_of(store, "t" * length, 60) for length in (1, 2, 3, 4)))
    assert report.flags == []
    report = imported(store, study_of(store, "reversed", 60, reverse=True))
    (flag,) = report.flags
    assert (flag.study, flag.kind, flag.quarantined) == ("reversed", "reversed direction", True)
    assert "rank correlation of its 60 values" in flag.evidence
    (family,) = list_families(store)
    assert len(family_arrays(store, family.name)) == 4 * 60
    with store.read() as connection:
        isolated = connection.execute(select(studies.c.name).where(studies.c.quarantine.is_not(None))).scalars().all()
    assert isolated == ["reversed"]


def test_a_percentage_among_fractions_is_flagged(store):
    mixed, columns = study_of(store, "mixed", 50)
    columns.values[10:25] *= 100
    (flag,) = imported(store, (mixed, columns)).flags
    assert (flag.kind, flag.quarantined) == ("scale break", True)
    assert flag.evidence.startswith("35 values lie in ")


def test_a_study_in_percent_is_mentioned_only(store):
    imported(store, *(study_of(store, "t" * length, 60) for length in (1, 2, 3, 4)))
    (flag,) = imported(store, study_of(store, "percent", 60, scale=100)).flags
    assert (flag.kind, flag.quarantined) == ("scale break", False)


def test_a_metric_that_others_turn_round_is_flagged(store):
    imported(store, *(study_of(store, "t" * length, 30) for length in (1, 2)))
    other, columns = study_of(store, "other", 30)
    turned = PastTask(name="x", study="x", metric="accuracy", direction="minimize", space=other.space)
    (flag,) = imported(store, (turned, columns)).flags
    assert (flag.kind, flag.quarantined) == ("reversed direction", True)
    assert "accuracy is minimized here and maximized in 2 studies with the same space" in flag.evidence


def test_losses_over_many_decades_are_no_scale_break(store):
    rng = np.random.default_rng(0)
    losses, columns = study_of(store, "losses", 200)
    wide = RunColumns(
        keys=columns.keys, names=columns.names, internal=columns.internal, values=10 ** rng.uniform(-2, 2, 200)
    )
    losses = PastTask(name="l", study="l", metric="val_loss", direction="minimize", space=losses.space)
    assert imported(store, (losses, wide)).flags == []


def test_the_history_is_sound_afterwards(store):
    imported(store, *(study_of(store, "t" * length, 30) for length in (1, 2)))
    with store.read() as connection:
        query = "SELECT count(*) FROM studies s JOIN study_changes c ON c.study_id = s.id AND c.family_id = s.family_id"
        assert connection.execute(text(query)).scalar_one() == 2
