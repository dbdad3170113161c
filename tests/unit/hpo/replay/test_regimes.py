"""Does each regime change what it says, and nothing else? And is a task never in its own past?"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from hpo.cli.replay import Regime
from hpo.replay.regimes import REGIMES, Problems
from tests.unit.hpo.replay.recorded import SPACE, family, past_of, problem


def test_the_command_offers_all_regimes() -> None:
    assert set(get_args(Regime)) == set(REGIMES)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("task", [0, 3])
def test_a_task_is_never_in_its_own_past(regime: str, task: int) -> None:
    recorded = family(tasks=6)
    target = recorded.tasks[task]
    for seed in range(3):
        found = problem(regime, of=recorded, task=task, seed=seed)
        assert found.name == target.name
        assert target.name not in {past.name for past in found.past} | {past.sample.name for past in found.past}
        for past in found.past:
            if not regime.startswith("shifted"):
                assert not (past.X[:, None, :] == target.points[None, :, :]).all(axis=2).any()


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_is_always_the_same(regime: str) -> None:
    for one, other in zip(past_of(regime, seed=1), past_of(regime, seed=1), strict=True):
        np.testing.assert_array_equal(one.X, other.X)
        np.testing.assert_array_equal(one.losses, other.losses)
        np.testing.assert_array_equal(one.sample.internal, other.sample.internal)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_sample_says_what_the_runs_say(direction: str) -> None:
    recorded = family(direction=direction)
    sign = -1.0 if direction == "maximize" else 1.0
    for regime in REGIMES:
        for past in past_of(regime, of=recorded):
            best = np.argmin(past.losses)
            assert sign * past.sample.values[0] == pytest.approx(past.losses[best])
            said = past.mapping.translate(past.sample.params(0))
            np.testing.assert_allclose(recorded.encoding.encode([said or {}])[0], past.X[best], atol=1e-9)
            assert past.sample.finished == len(past.losses)
            assert past.sample.directions == (direction,)


def test_the_rows_are_the_targets_own() -> None:
    recorded = family()
    found = problem(of=recorded)
    np.testing.assert_allclose(found.points, recorded.encoding.encode(found.configurations), atol=1e-9)
    assert all(("momentum" in params) == (params["optimizer"] == "sgd") for params in found.configurations)


def test_full_is_all_others_as_they_are() -> None:
    recorded = family()
    past = past_of("full", of=recorded)
    assert [each.name for each in past] == [task.name for task in recorded.tasks[1:]]
    for each, task in zip(past, recorded.tasks[1:], strict=True):
        np.testing.assert_array_equal(each.X, task.points)
        np.testing.assert_array_equal(each.losses, task.losses)
        assert each.mapping.similarity == 1.0


def test_full_shares_past_runs_between_targets() -> None:
    recorded = family()
    problems = Problems(recorded, "full")
    first, second = problems.of(recorded.tasks[0], 0), problems.of(recorded.tasks[1], 0)
    assert first.past[1] is second.past[1]  # task 2
    assert problems.of(recorded.tasks[1], 7) is second


@pytest.mark.parametrize(("regime", "tasks"), [("thin", 3), ("few", 10)])
def test_thin_and_few_draw_tasks_and_runs_by_the_seed(regime: str, tasks: int) -> None:
    recorded = family(tasks=14)
    draws = [past_of(regime, seed, of=recorded) for seed in range(4)]
    assert {len(past) for past in draws} == {tasks}
    assert {len(each.losses) for past in draws for each in past} == {30}
    assert len({tuple(each.name for each in past) for past in draws}) > 1
    by_name = {task.name: task for task in recorded.tasks}
    for each in draws[0]:
        pairs = {
            (*point, loss) for point, loss in zip(by_name[each.name].points, by_name[each.name].losses, strict=True)
        }
        assert {(*point, loss) for point, loss in zip(each.X, each.losses, strict=True)} <= pairs


def test_few_takes_all_there_are_where_they_are_fewer() -> None:
    assert len(past_of("few")) == 4


def test_permuted_keeps_values_and_loses_their_places() -> None:
    for before, after in zip(past_of("full"), past_of("permuted"), strict=True):
        np.testing.assert_array_equal(before.X, after.X)
        assert sorted(before.losses) == sorted(after.losses)
        assert abs(np.corrcoef(before.losses, after.losses)[0, 1]) < 0.6


def test_reversed_turns_the_order_and_keeps_the_range() -> None:
    for before, after in zip(past_of("full"), past_of("reversed"), strict=True):
        np.testing.assert_array_equal(np.argsort(before.losses), np.argsort(-after.losses))
        assert (after.losses.min(), after.losses.max()) == pytest.approx((before.losses.min(), before.losses.max()))


def test_junk_reverses_three_of_ten() -> None:
    recorded = family(tasks=11)
    full, junk = past_of("full", of=recorded), past_of("junk", of=recorded)
    changed = [not np.array_equal(one.losses, other.losses) for one, other in zip(full, junk, strict=True)]
    assert sum(changed) == 3


def test_rescaled_is_fifty_times_as_large_and_three_more() -> None:
    for before, after in zip(past_of("full"), past_of("rescaled"), strict=True):
        np.testing.assert_allclose(after.losses, 50 * before.losses + 3)


def test_none_is_nothing() -> None:
    assert past_of("none") == []


@pytest.mark.parametrize("task", range(5))
def test_the_shifted_space_has_a_cut_range_a_wider_one_and_a_missing_parameter(task: int) -> None:
    for past in problem("shifted-space", task=task).past:
        changes = {change.kind: change for change in past.mapping.changes if change.kind != "same"}
        assert set(changes) == {"widened", "cut", "added"}  # as the present space differs from the past one
        assert len({change.present for change in changes.values()}) == 3
        assert set(past.sample.names) == set(SPACE) - {changes["added"].present}


def test_targets_meet_several_shifted_spaces() -> None:
    recorded = family(tasks=6)
    spaces = {past.sample.names for task in range(6) for past in problem("shifted-space", of=recorded, task=task).past}
    assert len(spaces) > 1


def test_a_missing_parameter_is_at_rest() -> None:
    recorded = family()
    for past in past_of("shifted-space", of=recorded):
        (missing,) = [change.present for change in past.mapping.changes if change.kind == "added"]
        column = recorded.encoding.names.index(str(missing))
        assert set(past.X[:, column]) == {recorded.encoding.resting[column]}


def test_runs_outside_the_cut_range_are_dropped() -> None:
    recorded = family(rows=200)
    for past in past_of("shifted-space", of=recorded):
        task = next(task for task in recorded.tasks if task.name == past.name)
        name = next(str(change.present) for change in past.mapping.changes if change.kind == "widened")  # cut then
        distribution = dict(zip(past.sample.names, past.sample.distributions, strict=True))[name]
        column = recorded.encoding.names.index(name)
        inside = (task.internal[:, column] >= distribution.low) & (task.internal[:, column] <= distribution.high)  # type: ignore[attr-defined]
        kept = inside | np.isnan(task.internal[:, column])
        assert len(past.losses) == kept.sum() < len(task.losses)


@pytest.mark.parametrize("parameters", [1, 2, 3])
def test_a_small_space_is_shifted_as_far_as_it_goes(parameters: int) -> None:
    space = {f"x{j}": {"type": "float", "low": 0.0, "high": 1.0} for j in range(parameters)}
    for past in past_of("shifted-space", of=family(space=space)):
        assert len(past.sample.names) == max(1, parameters - 1)
        assert 10 < len(past.losses) < 40
