"""Is history trusted where its tasks explain each other, and only there?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.priors.beliefs import LEAST_DOUBT, RELATED, Shares, learn_shares, proportions
from hpo.priors.history import History
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import Kernel

KERNEL = Kernel(lengthscales=np.array([0.4, 0.4]), noise=0.01, categorical=np.array([False, False]))


def _history(loss, tasks=10, trials=40):
    rng, past = np.random.default_rng(1), []
    for task in range(tasks):
        X = rng.random((trials, 2))
        losses = loss(X, task, rng)
        scale = LossScale.of(losses)
        past.append(PastTask(X=X, y=scale.standardise(losses), weight=1.0, scale=scale))
    return History(tasks=past, kernel=KERNEL)


def _alike(X, task, rng):
    return ((X - 0.3) ** 2).sum(1) + 0.001 * task


def _strange(X, task, rng):
    return rng.standard_normal(len(X))  # what one task says of a point, no other says


def _moved(X, task, rng):
    return (X[:, 0] - task / 10.0) ** 2


def _share(shares, kinship):
    return sum(share for belief, share in zip(RELATED, shares.related, strict=True) if belief.kinship == kinship)


def test_alike_tasks_are_trusted_and_strange_ones_are_not():
    alike = learn_shares(_history(_alike), np.random.default_rng(0))
    strange = learn_shares(_history(_strange), np.random.default_rng(0))
    assert alike.unrelated < 0.15
    assert strange.unrelated > 2 * alike.unrelated
    assert alike.related.sum() + alike.unrelated == pytest.approx(1.0)


def test_tasks_that_move_in_one_direction_are_kin():
    shares = learn_shares(_history(_moved), np.random.default_rng(0))
    assert _share(shares, 1.0) > _share(shares, 0.0)


def test_a_single_task_says_nothing_of_how_tasks_differ():
    shares = learn_shares(_history(_alike, tasks=1), np.random.default_rng(0))
    assert shares.unrelated == Shares.unknown().unrelated == 0.5
    np.testing.assert_array_equal(shares.related, Shares.unknown().related)


def test_the_shares_do_not_depend_on_the_order_of_trials():
    history = _history(_alike, tasks=4, trials=20)
    turned = [PastTask(X=task.X[::-1], y=task.y[::-1], weight=1.0, scale=task.scale) for task in history.tasks]
    shares = [learn_shares(each, np.random.default_rng(0)) for each in (history, History(tasks=turned, kernel=KERNEL))]
    assert shares[0].unrelated == pytest.approx(shares[1].unrelated, abs=0.1)


def test_some_doubt_always_remains():
    assert learn_shares(_history(_alike, tasks=40), np.random.default_rng(0)).unrelated >= LEAST_DOUBT


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-50, 0), min_size=3, max_size=3), min_size=1, max_size=6))
def test_proportions_are_a_stationary_point_of_the_posterior(rows):
    log_evidence = np.array(rows)
    counts = np.full(3, 2.0)
    weights = np.ones(len(rows))
    shares = proportions(log_evidence, weights, counts)
    assert shares.sum() == pytest.approx(1.0)

    def log_posterior(p):
        return np.log(np.exp(log_evidence) @ p).sum() + counts @ np.log(p)

    for other in np.random.default_rng(0).dirichlet(np.ones(3) * 3, 20):
        assert log_posterior(shares) >= log_posterior(0.999 * shares + 0.001 * other) - 1e-9
