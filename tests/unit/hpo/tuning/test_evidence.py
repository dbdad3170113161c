"""What counts as evidence, and which way is down?"""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import relate
from hpo.tuning.evidence import gather, look_back, losses_of
from storage.summaries import StudySample

X = {"x": FloatDistribution(0.0, 1.0)}
ENCODING = Encoding(space=SearchSpace(distributions=X, conditions={}))
MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


def _trial(number: int, x: float | None, state: TrialState, value: float | None = None, reports: dict | None = None):
    trial = optuna.create_trial(
        params={} if x is None else {"x": x},
        distributions={} if x is None else X,
        state=state,
        value=value,
        intermediate_values=reports or {},
    )
    trial.number = number
    return trial


TRIALS: list[FrozenTrial] = [
    _trial(0, 0.1, TrialState.COMPLETE, 1.0),
    _trial(1, 0.2, TrialState.COMPLETE, 3.0),
    _trial(2, 0.3, TrialState.FAIL),
    _trial(3, 0.4, TrialState.PRUNED, reports={0: 9.0, 1: 0.5}),
    _trial(4, 0.5, TrialState.RUNNING),
    _trial(5, None, TrialState.RUNNING),
    _trial(6, None, TrialState.WAITING),
]


SAMPLE = StudySample(
    study_id=1,
    name="past",
    directions=("minimize",),
    names=("x",),
    distributions=(X["x"],),
    finished=3,
    values=np.array([1.0, 2.0, 3.0]),
    internal=np.array([[0.1], [0.4], [0.2]]),
    quantiles=np.array([1.0, 2.0, 3.0]),
)


def test_failed_is_the_worst_seen_and_pruned_no_better_than_the_median():
    _, losses = losses_of(TRIALS, MINIMIZE)
    assert losses.tolist() == [1.0, 3.0, 3.0, 2.0]
    _, losses = losses_of(TRIALS, MAXIMIZE)
    assert losses.tolist() == [-1.0, -3.0, -0.5, -0.5]


def test_an_infinite_value_is_a_failure():
    _, losses = losses_of([_trial(0, 0.1, TrialState.COMPLETE, np.inf), TRIALS[1]], MINIMIZE)
    assert losses.tolist() == [3.0, 3.0]


def test_nothing_but_failures_says_nothing():
    finished, losses = losses_of([TRIALS[2]], MINIMIZE)
    assert finished == []
    assert len(losses) == 0


def test_what_runs_side_by_side_is_known():
    evidence = gather(TRIALS, MINIMIZE, ENCODING, number=7)
    assert evidence.pending.ravel() == pytest.approx([0.5])
    assert evidence.tried.ravel() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (evidence.waiting, evidence.position) == (1, 6)
    assert gather(TRIALS, MINIMIZE, ENCODING, number=5).waiting == 0


def test_a_past_study_with_other_parameters_says_nothing():
    other = Encoding(space=SearchSpace(distributions={"y": FloatDistribution(0, 1)}, conditions={}))
    rng = np.random.default_rng(0)
    assert (
        look_back(SAMPLE, relate(ENCODING.space, other.space), other, most_trials=9, most_landmarks=9, rng=rng) is None
    )


def test_a_new_parameter_halves_the_share_and_gets_moderate_values():
    wider = Encoding(space=SearchSpace(distributions={**X, "y": FloatDistribution(0, 1)}, conditions={}))
    mapping, rng = relate(ENCODING.space, wider.space), np.random.default_rng(0)
    past = look_back(SAMPLE, mapping, wider, most_trials=9, most_landmarks=9, rng=rng)
    assert past is not None
    assert past.task.weight == pytest.approx(0.25)
    assert (np.abs(past.landmarks[:, 1] - 0.5) <= 0.25).all()
