import numpy as np
import pytest

from hpo.priors.curves import Curve, standing
from hpo.priors.foresight import (
    GENERATED_LOSSES,
    SHARES,
    PastCurves,
    _largest_that_keeps,
    _lost_of,
    _Replayed,
    _Way,
    learn,
)
from tests.learning_curves import ended, fast


@pytest.fixture(scope="module")
def cold():
    return learn([], "last", false_prunes=0.05)


def test_the_same_past_teaches_the_same(cold):
    again = learn([], "last", false_prunes=0.05)
    assert again.least_share == cold.least_share
    assert np.array_equal(again.chances(cold.looks[:50]), cold.chances(cold.looks[:50]))


def test_without_a_past_nothing_is_proven(cold):
    assert cold.proven_rate == 1.0
    assert cold.past == []
    assert 0 < cold.least_share < 0.3
    assert cold.estimated_rate <= 0.05


def test_past_tasks_that_lose_nothing_allow_more_and_prove_more():
    shares = []
    for tasks in (0, 1, 5, 20, 100):
        place, rate = _largest_that_keeps(np.zeros((tasks, len(SHARES))), 0.05)
        shares.append(SHARES[place])
        assert rate <= 0.05
    assert shares == sorted(shares)
    assert shares[-1] > 2 * shares[0]


def test_past_tasks_that_lose_their_best_at_once_forbid_everything():
    assert _largest_that_keeps(np.ones((10, len(SHARES))), 0.05) == (None, 0.0)


def test_a_larger_rate_allows_more():
    nothing = np.zeros((0, len(SHARES)))
    places = [_largest_that_keeps(nothing, rate)[0] for rate in (0.01, 0.05, 0.2)]
    assert places == sorted(set(places))


def test_the_measured_losses_of_generated_tasks_rise():
    shares, losses = np.array(GENERATED_LOSSES).T
    assert (np.diff(shares) > 0).all() and (np.diff(losses) > 0).all()


def test_too_few_complete_curves_teach_nothing(cold):
    rng = np.random.default_rng(0)
    short = PastCurves(name="short", curves=ended(fast(rng, trials=5)))
    assert learn([short], "last", false_prunes=0.05).past == []


def test_curves_that_were_stopped_have_no_end_to_teach():
    """A past of which only the good half went on: whatever the others are said to have ended with, nothing changes."""
    rng = np.random.default_rng(1)
    tasks, changed = [], []
    for number in range(3):
        losses = fast(rng)
        good = losses[:, -1] < np.median(losses[:, -1])
        curves = [
            Curve(
                steps=np.arange(1.0, (20 if is_good else 4) + 1),
                losses=row[: 20 if is_good else 4],
                is_ended=bool(is_good),
            )
            for row, is_good in zip(losses, good, strict=True)
        ]
        tasks.append(PastCurves(name=str(number), curves=curves))
        only = [curve for curve in curves if curve.is_ended]
        changed.append(PastCurves(name=str(number), curves=only))
    censored, complete = (learn(past, "last", false_prunes=0.05) for past in (tasks, changed))
    assert censored.past == complete.past == ["0", "1", "2"]
    assert censored.least_share == pytest.approx(complete.least_share, rel=0.3)


@pytest.mark.parametrize("is_best", [True, False])
def test_a_stopped_trial_counts_as_lost_with_the_chance_that_it_was_the_best_of_all(cold, is_best):
    look = cold.looks[np.argsort(cold.chances(cold.looks))[1000:1001]]
    way = _Way(replay=0, features=look, finished=9, is_best=is_best)
    nothing = {"looks": look[:0], "gains": look[:0, 0], "beats": look[:0, 0] > 0}
    lost = _lost_of(_Replayed(name="", trials=40, replays=1, ways=[way], **nothing), cold.classifier)
    share = 10 * float(cold.chances(look)[0])  # of the chance that the tenth of ten trials has
    assert SHARES[0] < share < SHARES[-1]
    assert lost == pytest.approx(np.where(share < SHARES, 1.0 if is_best else share / 40, 0.0))


def test_the_outlook_of_a_curve_is_around_where_it_leads(cold):
    rng = np.random.default_rng(2)
    curves = ended(fast(rng))
    now = standing(curves[:8], "last")
    inside = []
    for curve in curves[8:]:
        part = Curve(steps=curve.steps[:10], losses=curve.losses[:10], is_ended=False)
        outlook = cold.outlook(now, part, 8)
        assert outlook.interval90[0] <= outlook.predicted <= outlook.interval90[1]
        inside.append(outlook.interval90[0] <= curve.losses[-1] <= outlook.interval90[1])
    assert np.mean(inside) > 0.8


def test_the_more_trials_there_are_the_less_chance_one_needs_as_any_trial_has_less(cold):
    assert cold.threshold_after(0) == cold.least_share
    assert cold.threshold_after(9) == pytest.approx(10 * cold.threshold_after(99))


def test_where_curves_differ_in_length_less_is_stopped(cold):
    assert 0 < cold.threshold_after(30, uneven=True) < 0.5 * cold.threshold_after(30)
    curves = ended(fast(np.random.default_rng(0), trials=6))
    assert not standing(curves, "last").is_uneven
    short = Curve(steps=curves[0].steps[:8], losses=curves[0].losses[:8], is_ended=True)
    assert standing([short, *curves[1:]], "last").is_uneven
