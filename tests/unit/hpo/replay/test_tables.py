"""Are recorded runs read as rows: once each, averaged, encoded as the tuner encodes them, and said where left out?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hpo.errors import NoHistoryError
from hpo.replay.tables import RecordedTask, chosen_tasks, points_of, read_source, recorded_task
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from storage.errors import FamilyNotFoundError
from storage.optuna_storage import HistoryStorage
from tests.unit.hpo.replay.recorded import SPACE, family

ENCODING = Encoding(space=SearchSpace.from_json(SPACE))
DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(1e-5, 0.3, log=True),
    FloatDistribution(-2.0, 3.0),
    FloatDistribution(0.0, 0.5, step=0.1),
    FloatDistribution(0.7, 0.7),
    IntDistribution(1, 9),
    IntDistribution(0, 100, step=10),
    IntDistribution(1, 512, log=True),
    CategoricalDistribution(["a", 2, None]),
]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_rows_are_encoded_as_configurations_are(seed: int) -> None:
    names = [f"x{j}" for j in range(len(DISTRIBUTIONS))]
    encoding = Encoding(space=SearchSpace(distributions=dict(zip(names, DISTRIBUTIONS, strict=True)), conditions={}))
    configurations = [encoding.decode(point) for point in encoding.uniform(np.random.default_rng(seed).random((5, 8)))]
    internal = np.array(
        [
            [of.to_internal_repr(params[name]) for name, of in encoding.space.distributions.items()]
            for params in configurations
        ]
    )
    np.testing.assert_allclose(points_of(internal, encoding), encoding.encode(configurations), atol=1e-12)


def test_inactive_parameters_are_at_rest() -> None:
    recorded = family(rows=30)
    task = recorded.tasks[0]
    np.testing.assert_allclose(task.points, recorded.encoding.encode(recorded.params(task.internal)), atol=1e-12)


def test_runs_of_one_configuration_are_one_row() -> None:
    internal = np.column_stack([np.geomspace(1e-4, 1, 12), np.full(12, 8.0), np.ones(12), np.full(12, np.nan)])
    again = np.vstack([internal, internal[::-1]])
    losses = np.concatenate([np.arange(12.0), np.arange(12.0)[::-1] + 1])
    task = recorded_task("t", again, losses, ENCODING, 100)
    assert isinstance(task, RecordedTask)
    assert len(task.losses) == task.rows_in_all == 12
    order = np.argsort(task.internal[:, 0])
    np.testing.assert_allclose(task.losses[order], np.arange(12.0) + 0.5)


def test_rows_are_drawn_at_random_and_always_the_same() -> None:
    rng = np.random.default_rng(0)
    internal = np.column_stack([rng.uniform(1e-4, 1, 200), np.full(200, 8.0), np.ones(200), np.full(200, np.nan)])
    one = recorded_task("t", internal, rng.random(200), ENCODING, 50)
    other = recorded_task("t", internal[::-1], rng.random(200), ENCODING, 50)
    assert isinstance(one, RecordedTask) and isinstance(other, RecordedTask)
    assert (len(one.losses), one.rows_in_all) == (50, 200)
    np.testing.assert_array_equal(one.internal, other.internal)  # in whatever order the runs came
    assert not (np.diff(one.internal[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("losses", "distinct", "reason"),
    [
        (np.ones(20), 20, "the same"),
        (np.arange(20.0), 9, "9 distinct"),
        (np.full(20, np.nan), 20, "no run has a value"),
    ],
)
def test_tasks_that_say_too_little_are_left_out(losses: Any, distinct: int, reason: str) -> None:
    lr = np.geomspace(1e-4, 1, distinct)[np.arange(20) % distinct]
    internal = np.column_stack([lr, np.full(20, 8.0), np.ones(20), np.full(20, np.nan)])
    found = recorded_task("t", internal, losses, ENCODING, 100)
    assert isinstance(found, str)
    assert reason in found


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Three studies of tasks of one family, one of another; a failed run, and one study with runs that say nothing."""
    url = f"sqlite:///{tmp_path / 'history.db'}"
    storage = HistoryStorage(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, names, values in (("a", "xy", 1.0), ("b", "xy", 2.0), ("c", "xy", 0.0), ("d", "z", 1.0)):
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        distributions = {key: FloatDistribution(0.0, 1.0) for key in names}
        for number in range(12):
            params = dict.fromkeys(names, number / 12)
            study.add_trial(create_trial(params=params, distributions=distributions, value=values * number))  # type: ignore[arg-type]
        failed = dict.fromkeys(names, 0.99)
        study.add_trial(create_trial(state=TrialState.FAIL, params=failed, distributions=distributions))  # type: ignore[arg-type]
    return url


def test_a_store_is_read_family_by_family(store: str) -> None:
    said: list[str] = []
    (found,) = read_source(store, family=None, rows=1000, say=said.append)
    assert [task.name for task in found.tasks] == ["a", "b"]
    assert found.maximize
    for task, factor in zip(found.tasks, (1.0, 2.0), strict=True):
        assert len(task.losses) == 13
        assert task.losses.min() == -11 * factor  # the best, as a loss
        failed = task.losses[task.internal[:, 0] == 0.99]
        assert failed == task.losses.max() == 0.0  # the worst that was seen
    assert any("task c" in line and "worth the same" in line for line in said)
    assert any("left out family" in line and "1 task" in line for line in said)


def test_a_store_is_named_by_url_or_file(store: str) -> None:
    path = store.removeprefix("sqlite:///")
    one, other = (read_source(source, family=None, rows=1000, say=lambda _: None)[0] for source in (store, path))
    assert one.fingerprint == other.fingerprint
    assert one.table == other.table == "history"


def test_what_is_not_there_is_said(store: str, tmp_path: Path) -> None:
    def read(source: str, name: str | None = None) -> None:
        read_source(source, family=name, rows=1000, say=lambda _: None)

    (replayable,) = read_source(store, family=None, rows=1000, say=lambda _: None)
    with pytest.raises(FamilyNotFoundError, match=f"Did you mean '{replayable.family.name}'"):
        read(store, replayable.family.name[:-1])
    with pytest.raises(NoHistoryError, match="no history"):
        read(f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(NoHistoryError, match="no history and no recorded table"):
        read(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoHistoryError, match=r"no recorded table .*hpo history import"):
        read(str(tmp_path / "empty"))


def test_a_single_task_cannot_be_replayed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'history.db'}"
    study = optuna.create_study(study_name="alone", storage=HistoryStorage(url))
    for number in range(12):
        study.add_trial(
            create_trial(params={"x": number / 12}, distributions={"x": FloatDistribution(0, 1)}, value=float(number))
        )
    with pytest.raises(NoHistoryError, match=r"2 tasks or more.*1 task with enough runs"):
        read_source(url, family=None, rows=1000, say=lambda _: None)


def test_tasks_are_chosen_by_number_or_name() -> None:
    recorded = family(tasks=6)

    def chosen(tasks: str | None) -> list[str]:
        return [task.name for _, task in chosen_tasks([recorded], tasks)]

    assert len(chosen(None)) == 6
    assert len(chosen("2")) == 2 and chosen("2") == chosen("2") and set(chosen("2")) < set(chosen("4"))
    assert chosen("t/3, 1") == ["t/1", "t/3"]  # the last part of a name will do
    with pytest.raises(NoHistoryError, match="Did you mean 't/3'"):
        chosen("t/33")
