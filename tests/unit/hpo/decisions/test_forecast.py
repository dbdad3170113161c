"""Is what is foretold of a study what past tasks say, and is nothing foretold where they say nothing?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo.decisions.forecast import MOST_TRIALS, USUAL_TRIALS, foretold
from hpo.decisions.past_progress import PastTask
from hpo.figures.forecast_figure import forecast_figure, save_figure
from hpo.studies.study_file import parse_spec

TRIALS = 12


def spec(direction="minimize", **budget):
    return parse_spec(
        {
            "study": "new",
            "task": {"name": "new", "metric": "val_loss", "direction": direction},
            "trainer": {"model": "my_models.Net", "max_epochs": 3},
            "space": {"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}},
            "budget": budget or {"trials": TRIALS},
        }
    )


def task(name, losses, *, seconds=60.0, states=None, **more):
    losses = np.asarray(losses, dtype=float)
    states = np.where(np.isnan(losses), TrialState.FAIL.value, TrialState.COMPLETE.value) if states is None else states
    return PastTask(
        name=str(name),
        losses=losses,
        median=float(np.nanmedian(losses)) if np.isfinite(losses).any() else np.nan,
        states=np.asarray(states),
        seconds=np.broadcast_to(np.asarray(seconds, dtype=float), losses.shape),
        is_ours=True,
        **more,
    )


def tasks(count, *, n=TRIALS, scale=1.0, **more):
    rng = np.random.default_rng(0)
    return [task(f"t{t}", scale * (1.0 + 0.2 * rng.random() + rng.random(n)), **more) for t in range(count)]


def test_without_history_it_says_what_would_be_enough():
    found = foretold(spec(), [])
    assert found.missing.startswith("not enough to say what val_loss will reach: the history has no past tasks")
    assert "5 would be enough for a band" in found.missing
    assert len(found.stages) == TRIALS
    assert all(stage.value is stage.way is stage.hours is stage.held is None for stage in found.stages)
    assert found.failed is None


def test_a_few_tasks_give_a_middle_and_no_band():
    found = foretold(spec(), tasks(3))
    assert "has 3 past tasks" in found.missing
    assert found.stages[-1].value.low is None
    assert found.stages[-1].hours.expected == pytest.approx(TRIALS / 60)


def test_enough_tasks_give_a_band_and_say_how_often_it_held():
    found = foretold(spec(), tasks(20), price_per_hour=3.0)
    assert found.missing is None and found.scale == "metric"
    last = found.stages[-1]
    assert last.value.low < last.value.expected < last.value.high
    assert last.way.expected == 1.0
    hits, cases = found.held
    assert cases == 20 * TRIALS and 0.85 * cases < hits <= cases
    assert last.money.expected == pytest.approx(3.0 * TRIALS / 60)


def test_what_is_maximised_is_the_mirror_image():
    down = foretold(spec(), tasks(12))
    up = foretold(spec("maximize"), tasks(12))
    for below, above in zip(down.stages, up.stages, strict=True):
        assert above.value.expected == -below.value.expected
        assert above.way == below.way


def test_an_accuracy_does_not_pass_one_and_a_loss_not_zero():
    accuracies = [task(t, -np.linspace(0.5, 0.8 + 0.02 * t, TRIALS)) for t in range(10)]
    assert foretold(spec("maximize"), accuracies).stages[-1].value.high <= 1.0
    percent = [task(t, -100 * np.linspace(0.5, 0.8 + 0.02 * t, TRIALS)) for t in range(10)]
    assert foretold(spec("maximize"), percent).stages[-1].value.high <= 100.0
    assert foretold(spec(), [task(t, [0.01 * t**2]) for t in range(8)]).stages[0].value.low >= 0.0


def test_tasks_of_other_sizes_are_spoken_of_in_shares_only():
    found = foretold(
        spec(),
        [dataclasses.replace(t, losses=t.losses * 10.0**k, median=t.median * 10.0**k) for k, t in enumerate(tasks(8))],
    )
    assert found.scale == "share"
    assert any("no scale of val_loss in common" in note for note in found.notes)
    assert all(stage.value is None for stage in found.stages)
    assert 0.0 <= found.stages[2].way.low <= found.stages[2].way.expected <= found.stages[2].way.high <= 1.0


def test_equal_tasks_give_no_false_band():
    found = foretold(spec(), [task(t, [0.5] * TRIALS) for t in range(12)])
    assert found.missing.startswith("not enough to say how a new task will differ")
    assert found.stages[-1].value.expected == 0.5 and found.stages[-1].value.low is None
    assert found.stages[-1].hours.low is None


def test_all_failed_is_no_task():
    failed = [task(t, [np.nan] * 5) for t in range(6)]
    found = foretold(spec(), failed)
    assert found.tasks == () and found.failed == 1.0
    assert found.missing is not None


@pytest.mark.parametrize("losses", [[1.0], [np.nan, 1.0], [np.inf, 1.0], [-np.inf, 2.0]])
def test_one_trial_gaps_and_infinities_do_no_harm(losses):
    clean = np.where(np.isfinite(losses), losses, np.nan)
    found = foretold(spec(), [*tasks(6), task("odd", clean)])
    assert found.stages[0].value is not None


def test_jobs_share_the_work():
    one, four = (foretold(spec(), tasks(8), jobs=jobs) for jobs in (1, 4))
    assert four.stages[-1].hours.expected == pytest.approx(one.stages[-1].hours.expected / 4)


def test_unknown_times_are_not_made_up():
    assert foretold(spec(), tasks(8, seconds=np.nan)).stages[-1].hours is None
    half = [task("known", np.ones(4), seconds=[60, np.nan, np.nan, 60]), *tasks(1, seconds=np.nan)]
    assert foretold(spec(trials=4), half).stages[-1].hours.expected == pytest.approx(4 / 60)


def test_a_budget_of_hours_ends_after_the_trials_that_they_hold():
    found = foretold(spec(hours=0.1), tasks(8))
    assert len(found.stages) == 6
    assert any("about 6 trials" in note for note in found.notes)
    assert len(foretold(spec(hours=0.1), []).stages) == USUAL_TRIALS
    both = foretold(spec(hours=1.0, trials=10), tasks(8))
    assert len(both.stages) == 10
    assert any("enough for 10 trials" in note for note in both.notes)


def test_hours_for_more_trials_than_are_foretold_are_not_said_to_end_there():
    many = foretold(spec(hours=100.0), tasks(3))  # 6000 trials of a minute
    assert len(many.stages) == MOST_TRIALS
    assert many.notes == ("the budget's 100 hours are likely to hold at least 1000 trials: no more are foretold",)
    fewer = foretold(spec(hours=999.5 / 60), tasks(3))
    assert any("end the study after about 999 trials" in note for note in fewer.notes)


def test_a_study_that_was_stopped_stays_where_it_was():
    short = [task(t, 1.0 + np.arange(4)[::-1] + t, has_converged=True) for t in range(8)]
    assert foretold(spec(), short).stages[-1].tasks == 8
    cut = [dataclasses.replace(each, has_converged=False) for each in short]
    assert foretold(spec(), cut).stages[-1].tasks == 0


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_the_figure_shows_what_is_known(count, tmp_path):
    found = foretold(spec(), tasks(count))
    axes = forecast_figure(found).axes
    assert len(axes) == (2 if count else 1)
    assert len(axes[0].collections) == (1 if count >= 5 else 0)  # the band
    save_figure(found, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000
