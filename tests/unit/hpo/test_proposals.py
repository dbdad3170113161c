"""Is the best kept in sight, however many trials there are?"""

import numpy as np

from hpo.encoding import Encoding
from hpo.evidence import Evidence
from hpo.proposals import MODELLED_TRIALS, Ground, propose
from hpo.space import SearchSpace

ENCODING = Encoding(space=SearchSpace.from_json({name: {"type": "float", "low": 0, "high": 1} for name in "abc"}))


def test_the_best_feasible_trial_is_the_incumbent_beyond_what_is_modelled():
    rng = np.random.default_rng(0)
    X = rng.random((2 * MODELLED_TRIALS, 3))
    losses = ((X - 0.3) ** 2).sum(1)
    constraints = np.ones((len(X), 1))
    feasible = np.argsort(losses)[[300, 350]]
    constraints[feasible] = -1.0
    evidence = Evidence(X=X, losses=losses, pending=X[:0], tried=X, waiting=0, constraints=constraints)
    proposal = propose(Ground(encoding=ENCODING), [evidence], [None], design=rng, rng=rng)
    assert proposal.incumbent == losses[feasible].min()
    assert proposal.role != "feasible"


def test_who_asks_at_the_same_moment_gets_another_candidate():
    rng = np.random.default_rng(0)
    candidates, X = rng.random((30, 3)), rng.random((8, 3))
    points = {
        tuple(
            propose(
                Ground(encoding=ENCODING, candidates=candidates),
                [Evidence(X=X, losses=X.sum(1), pending=X[:0], tried=X, waiting=waiting)],
                [None],
                design=np.random.default_rng(0),
                rng=np.random.default_rng(1),
            ).point
        )
        for waiting in range(4)
    }
    assert len(points) == 4
