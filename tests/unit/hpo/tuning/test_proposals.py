"""Is the best kept in sight, and does a past that misleads cost little?"""

import numpy as np

from hpo.priors.portfolio import PastTask
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.statistics.loss_scale import LossScale
from hpo.tuning.evidence import Evidence, PastStudy
from hpo.tuning.past import FIRST_POINTS, learn
from hpo.tuning.proposals import MODELLED_TRIALS, Ground, propose

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


def tuned(past, centre, n):
    """Points and roles of a study whose losses are a bowl around a centre."""
    X, roles, ground = np.empty((0, 3)), [], Ground(encoding=ENCODING)
    for number in range(n):
        losses = ((X - centre) ** 2).sum(1)
        evidence = Evidence(X=X, losses=losses, pending=X[:0], tried=X, waiting=0)
        proposal = propose(
            ground, [evidence], [past], design=np.random.default_rng(7), rng=np.random.default_rng(number)
        )
        X, roles = np.vstack([X, proposal.point]), [*roles, proposal.role]
    return X, roles


def past_of(centre, sign):
    rng, studies = np.random.default_rng(0), []
    for number in range(5):
        X = rng.random((40, 3))
        losses = sign * ((X - centre - 0.05 * rng.standard_normal(3)) ** 2).sum(1)
        scale = LossScale.of(losses)
        task = PastTask(X=X, y=scale.standardise(losses), weight=1.0, scale=scale)
        studies.append(PastStudy(study_id=number, name=f"past {number}", task=task, landmarks=X[np.argsort(losses)]))
    return learn(studies, ENCODING)


def test_where_the_past_misleads_the_start_without_one_is_made_up_for():
    centre = np.array([0.2, 0.7, 0.4])
    cold, _ = tuned(None, centre, FIRST_POINTS)
    misled, roles = tuned(past_of(centre, sign=-1.0), centre, 2 * FIRST_POINTS - 1)
    assert roles == ["portfolio"] * 3 + ["safety"] * 4
    np.testing.assert_array_equal(misled[[4, 5, 6, 3]], cold)


def test_with_one_parameter_the_fourth_point_is_the_starts_too():
    line = Encoding(space=SearchSpace.from_json({"a": {"type": "float", "low": 0, "high": 1}}))
    rng = np.random.default_rng(0)
    X = rng.random((30, 1))
    scale = LossScale.of(X[:, 0])
    task = PastTask(X=X, y=scale.standardise(X[:, 0]), weight=1.0, scale=scale)
    past = learn([PastStudy(study_id=0, name="past", task=task, landmarks=np.sort(X, axis=0))], line)
    tried = np.array([pick.point for pick in past.picks[:3]])
    evidence = Evidence(X=tried, losses=-tried[:, 0], pending=X[:0], tried=tried, waiting=0)
    proposal = propose(Ground(encoding=line), [evidence], [past], design=np.random.default_rng(7), rng=rng)
    assert proposal.role == "safety" and abs(proposal.point - tried).min() > 0.05


def test_where_the_past_leads_well_it_is_followed_after_the_first_points():
    centre = np.array([0.2, 0.7, 0.4])
    cold, _ = tuned(None, centre, FIRST_POINTS)
    led, roles = tuned(past_of(centre, sign=1.0), centre, FIRST_POINTS + 3)
    assert roles[:4] == ["portfolio"] * 3 + ["safety"]
    assert not {tuple(point) for point in cold[:3]} & {tuple(point) for point in led}
