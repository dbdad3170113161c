"""Does the advised range hold a good value as often as it claims, and no more of the range than it must?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.statistics.range_advice import SHARE, TOLERANCE, TaskRuns, _choose, _promise, _regions, range_advice

LINE = {"x0": {"type": "float", "low": 0, "high": 1}, "x1": {"type": "float", "low": 0, "high": 1}}
MEDIAN_LOSS = 0.0625  # of (x - 0.5)^2 for x uniform in [0, 1]


def encoding(space):
    return Encoding(space=SearchSpace.from_json(space))


def runs(name, points, losses, uses=None):
    uses = np.ones(points.shape[1], dtype=bool) if uses is None else np.array(uses)
    return TaskRuns(name=name, X=points, losses=losses, uses=uses)


def parabolas(centres, rng, *, n=24):
    """Tasks whose loss is the squared distance of x0 from a centre of their own, whatever x1."""
    tasks = []
    for t, centre in enumerate(centres):
        points = rng.random((n, 2))
        tasks.append(runs(f"task {t}", points, (points[:, 0] - centre) ** 2 + 1e-4 * rng.normal(size=n)))
    return tasks


def test_the_range_is_where_the_optima_are_and_fresh_tasks_are_hit_as_promised():
    rng, rates = np.random.default_rng(0), []
    reach = np.sqrt(TOLERANCE * MEDIAN_LOSS)  # of a value that is good, from the centre
    for seed in range(6):
        advice = range_advice(parabolas(rng.normal(0.5, 0.05, 30), rng), encoding(LINE), seed=seed)
        first, second = advice.parameters
        low, high = first.values[first.inside][[0, -1]]
        assert 0.35 < low < high < 0.65
        assert first.promise == pytest.approx(SHARE)
        assert first.hit_rate >= 0.85
        assert second.indifference > 0.8  # x1 does nothing
        assert first.indifference < 0.3
        fresh = rng.normal(0.5, 0.05, 4000)
        rates.append(np.mean((fresh > low - reach) & (fresh < high + reach)))
    assert abs(np.mean(rates) - 0.93) < 3 * np.sqrt(0.9 * 0.1 / 31 / 6) + 0.03  # a bit above 0.9: the values are apart


@pytest.mark.parametrize(("tasks", "claimed"), [(3, 0.5), (10, 9 / 11), (19, 0.9), (40, 0.9), (70, 0.9)])
def test_regions_of_optima_that_are_points_keep_their_promise(tasks, claimed):
    rng, hit, promised = np.random.default_rng(1), [], []
    for _ in range(60):
        places = np.clip(np.round(rng.normal(20, 5, tasks + 100)), 0, 40).astype(int)
        good = (places[:, None] == np.arange(41))[:, None, :]
        regions = _regions(good[:tasks], is_choice=False)
        chosen, _ = _choose(regions)
        inside = regions.inside[chosen]
        hit.append(inside[places[tasks:]].mean())
        promised.append(_promise(regions, chosen, tasks))
    deviation = np.std(hit) / np.sqrt(len(hit))
    assert np.mean(promised) == pytest.approx(claimed, abs=0.02)
    assert np.mean(hit) > np.mean(promised) - 3 * deviation
    assert np.mean(hit) < claimed + 0.08  # and no wider than it must be


def test_a_region_of_choices_is_the_smallest_that_serves_nearly_all():
    rng = np.random.default_rng(0)
    space = {"kind": {"type": "categorical", "choices": ["a", "b", "c", "d"]}, "x": LINE["x0"]}
    tasks = []
    for t in range(32):
        points = np.column_stack([rng.integers(0, 4, 32), rng.random(32)])
        best = 3 if t == 0 else 1 if t % 2 else 2  # d is best for one task, b and c for the others
        tasks.append(runs(f"task {t}", points, np.where(points[:, 0] == best, 0.0, 1.0) + 0.1 * points[:, 1]))
    kind = range_advice(tasks, encoding(space)).parameters[0]
    assert kind.values[kind.inside].tolist() == [1.0, 2.0]
    assert kind.kept == 0.5
    assert kind.hits[1:] == pytest.approx(np.ones(31), abs=0.15)
    assert kind.hits[0] < 0.2
    assert kind.good[0].argmax() == 3


def test_many_choices_are_covered_greedily():
    good = np.zeros((30, 4, 14), dtype=bool)
    good[:15, :, 5] = good[15:, :, 9] = good[:, :2, 0] = True
    regions = _regions(good, is_choice=True)
    chosen, _ = _choose(regions)
    assert set(np.flatnonzero(regions.inside[chosen])) in ({5, 9}, {0, 5, 9})
    assert regions.met[:, chosen] == pytest.approx(np.ones(30))


def test_a_parameter_counts_for_the_tasks_that_used_it():
    rng = np.random.default_rng(0)
    space = {
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": ["sgd"]}},
    }
    codec, tasks = encoding(space), []
    for t in range(12):
        choices = ["adam"] * 20 if t < 4 else ["adam", "sgd"] * 15
        params = [{"optimizer": kind} | ({"momentum": rng.random()} if kind == "sgd" else {}) for kind in choices]
        losses = [0.1 if "momentum" not in of else 0.5 + (of["momentum"] - 0.8) ** 2 for of in params]
        tasks.append(runs(f"task {t}", codec.encode(params), np.array(losses), uses=[True, t >= 4]))
    optimizer, momentum = range_advice(tasks, codec).parameters
    assert len(optimizer.tasks) == 12
    assert momentum.tasks == tuple(f"task {t}" for t in range(4, 12))
    assert 0.5 < momentum.values[momentum.inside].mean() < 0.95  # good among those with sgd, though adam is better


def test_a_parameter_that_nobody_used_or_that_has_one_value_gets_no_advice():
    rng = np.random.default_rng(0)
    space = {"x": LINE["x0"], "fixed": {"type": "int", "low": 3, "high": 3}, "new": LINE["x1"]}
    points = np.column_stack([rng.random(12), np.full(12, 0.5), np.full(12, 0.5)])
    advice = range_advice([runs("only", points, points[:, 0], uses=[True, True, False])], encoding(space))
    assert [parameter.name for parameter in advice.parameters] == ["x"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_tasks_promise_little(count):
    rng = np.random.default_rng(0)
    advice = range_advice(parabolas([0.4, 0.6][:count], rng), encoding(LINE))
    first = advice.parameters[0]
    assert first.promise == pytest.approx([0.0, 1 / 3][count - 1], abs=1e-9)
    assert first.inside.sum() < len(first.inside) / 2


def test_few_runs_leave_the_range_open():
    rng = np.random.default_rng(0)
    many = range_advice(parabolas(np.full(8, 0.5), rng, n=40), encoding(LINE)).parameters[0]
    few = range_advice(parabolas(np.full(8, 0.5), rng, n=3), encoding(LINE)).parameters[0]
    assert few.kept > 2 * many.kept


def test_together_the_regions_hold_a_good_configuration():
    rng = np.random.default_rng(0)
    space, weights = {f"x{j}": LINE["x0"] for j in range(4)}, np.array([4, 2, 1, 1])
    tasks = []
    for t in range(40):
        centre, points = rng.normal(0.5, 0.1, 4), rng.random((60, 4))
        tasks.append(runs(f"task {t}", points, (points - centre) ** 2 @ weights))
    apart, together = (range_advice(tasks, encoding(space), together=together) for together in (False, True))
    assert apart.joint_hits.mean() < SHARE <= together.joint_hits.mean()
    assert sum(of.kept for of in together.parameters) > sum(of.kept for of in apart.parameters)
    again = range_advice(tasks, encoding(space), together=True)
    assert [of.inside.tolist() for of in again.parameters] == [of.inside.tolist() for of in together.parameters]
