"""Is a good value found in less time where past tasks tell what trials cost, and in not much more where they lie?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.priors.costs import TaskCosts
from hpo.priors.portfolio import PastTask
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.statistics.allocation import student_interval
from hpo.statistics.loss_scale import LossScale
from hpo.tuning.evidence import Evidence, PastStudy
from hpo.tuning.past import learn
from hpo.tuning.proposals import Ground, propose

ENCODING = Encoding(space=SearchSpace.from_json({f"x{j}": {"type": "float", "low": 0, "high": 1} for j in range(2)}))
CENTRE = np.array([0.5, 0.7])
STEEPNESS = np.array([0.05, 4.0])  # a large model (x0) is dear, and hardly better
GOOD = (0.1, 0.05, 0.02, 0.01)  # losses above the least
TRIALS, TASKS, SEEDS = 8, 3, 12


def loss(X, centre):
    return (X - centre) ** 2 @ STEEPNESS


def cost(X, level, sign=1.0):
    """Ten times as much at one end of x0 as at the other."""
    return np.exp(level + sign * np.log(10.0) * X[:, 0])


def past_of(centres, sign, rng):
    """sign: of the costs against those of the task to come; None where they are not known."""
    studies = []
    for number, centre in enumerate(centres):
        X, level = rng.random((20, 2)), rng.normal()
        losses = loss(X, centre)
        scale = LossScale.of(losses)
        task = PastTask(X=X, y=scale.standardise(losses), weight=1.0, scale=scale)
        costs = None if sign is None else TaskCosts.of(X[:12], cost(X[:12], level, sign))
        landmarks = X[np.argsort(losses)]
        studies.append(PastStudy(study_id=number, name=str(number), task=task, landmarks=landmarks, costs=costs))
    return learn(studies, ENCODING)


def time_to_good(centre, past, seed, *, counts):
    """The mean log of what trials have cost until one is so good; twice all of it where none is."""
    X = np.empty((0, 2))
    for number in range(TRIALS):
        costs = cost(X, 0.0) if counts else None
        evidence = Evidence(X=X, losses=loss(X, centre), pending=X[:0], tried=X, waiting=0, costs=costs)
        design, rng = np.random.default_rng(seed), np.random.default_rng([seed, number])
        X = np.vstack([X, propose(Ground(encoding=ENCODING), [evidence], [past], design=design, rng=rng).point])
    spent, losses = np.cumsum(cost(X, 0.0)), loss(X, centre)
    found = [losses <= good for good in GOOD]
    return np.mean([np.log(spent[np.argmax(good)] if good.any() else 2.0 * spent[-1]) for good in found])


@pytest.fixture(scope="module")
def times():
    """Log times by arm, shape (SEEDS,)."""
    arms = {"not counted": (False, None), "past": (True, 1.0), "contradicting": (True, -1.0)}
    found = {arm: [] for arm in arms}
    for seed in range(SEEDS):
        centre, *others = CENTRE + 0.1 * np.random.default_rng(seed).standard_normal((TASKS + 1, 2))
        for arm, (counts, sign) in arms.items():
            past = past_of(others, sign, np.random.default_rng([seed, 1]))
            found[arm].append(time_to_good(centre, past, seed, counts=counts))
    return {arm: np.array(logs) for arm, logs in found.items()}


def test_time_is_saved_where_costs_count(times):
    assert student_interval(times["past"] - times["not counted"])[1] < 0.0


def test_costs_that_contradict_do_bounded_harm(times):
    """At most twice the time, within two standard errors: the first trials are at the dear end, where history sends."""
    harm = times["contradicting"] - times["not counted"]
    assert harm.mean() - 2.0 * harm.std(ddof=1) / np.sqrt(SEEDS) < np.log(2.0)
    assert harm.mean() + 2.0 * harm.std(ddof=1) / np.sqrt(SEEDS) < np.log(3.0)
