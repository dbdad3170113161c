"""Does halving by history save much where the past is like the present, and lose little where it is not?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.priors.curves import is_probe
from hpo.priors.foresight import PastCurves
from hpo.priors.rungs import at_rungs, compare, learn_rungs
from tests.learning_curves import ended, fast, late

TRIALS, SEEDS = 100, 12


def halved(rungs, curves):
    """As `HistoryHalving` does: the share of reports saved, and the median regret of the best that was kept."""
    shown = np.array([at_rungs(curve, rungs.steps, "last") for curve in curves])
    ends, spent, leader = np.array([curve.end("last") for curve in curves]), 0, None
    for number, curve in enumerate(curves):
        reports = len(curve.steps)
        for rung, step in enumerate(rungs.steps if not is_probe(number) else ()):
            best = None if leader is None else shown[leader, rung]
            if compare(rungs, rung, shown[number, rung], shown[:number, rung], best).is_lost:
                reports = int(np.searchsorted(curve.steps, step)) + 1
                shown[number, rung + 1 :] = np.inf
                break
        else:
            leader = number if leader is None or ends[number] < ends[leader] else leader
        spent += reports
    saved = 1.0 - spent / sum(len(curve.steps) for curve in curves)
    return saved, (ends[leader] - ends.min()) / (np.median(ends) - ends.min())


@pytest.fixture(scope="module")
def rungs():
    rng = np.random.default_rng(3)
    past = [PastCurves(name=f"past {t}", curves=ended(fast(rng, trials=32))) for t in range(12)]
    return learn_rungs(past, "last", false_prunes=0.1)


def measured(rungs, kind):
    studies = [ended(kind(np.random.default_rng(100 + seed), trials=TRIALS)) for seed in range(SEEDS)]
    return np.array([halved(rungs, study) for study in studies]).T


def test_much_is_saved_and_nothing_is_lost_where_the_past_is_like_the_present(rungs):
    saved, regrets = measured(rungs, fast)
    assert saved.mean() > 0.6
    assert regrets.mean() - 2.0 * regrets.std(ddof=1) / np.sqrt(SEEDS) < 0.01


def test_a_past_that_misleads_does_bounded_harm(rungs):
    """Half of the trials, the best among them, look hopeless at every rung: probes and the study's own best show it."""
    _, regrets = measured(rungs, late)
    assert np.median(regrets) < 0.2
    assert np.mean(regrets > 0.5) < 0.2
