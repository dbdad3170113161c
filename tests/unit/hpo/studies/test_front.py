"""Is the front what no other trial beats, and is it drawn?"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from hpo.figures.front_figure import front_figure, save_figure
from hpo.studies.front import front_of, unbeaten
from storage.history import StudySummary, TrialRecord

DIRECTIONS = ("maximize", "minimize")


def summary(objectives=("accuracy", "size_bytes"), directions=DIRECTIONS):
    return StudySummary(
        study_id=1,
        name="small $\\alpha$",
        task="digits",
        metric=objectives[0],
        directions=directions,
        objectives=objectives,
        family="accuracy-1",
        source="hindsight",
        counts={},
        best=None,
        created_at=datetime.now(UTC),
        finished_at=None,
        space=None,
        spec=None,
        mlflow_uri=None,
        provenance=None,
    )


def trial(number, *values, state=TrialState.COMPLETE):
    fields = dict.fromkeys(TrialRecord.__dataclass_fields__)
    return TrialRecord(**fields | {"number": number, "state": state, "values": values, "params": {"x": number}})


def test_what_another_beats_is_not_on_it():
    values = [(0.9, 100.0), (0.8, 50.0), (0.8, 60.0), (0.95, 200.0), (0.9, 100.0)]
    assert unbeaten(values, DIRECTIONS) == [True, True, False, True, True]
    assert unbeaten([], DIRECTIONS) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_it_is_the_definition(values):
    signs = np.array([-1, 1, 1])
    losses = [signs * np.array(each) for each in values]
    expected = [not any((other <= mine).all() and (other < mine).any() for other in losses) for mine in losses]
    assert unbeaten(values, ("maximize", "minimize", "minimize")) == expected


def test_only_complete_trials_count_and_the_best_in_the_first_objective_leads():
    trials = [
        trial(0, 0.8, 50.0),
        trial(1, state=TrialState.FAIL),
        trial(2, 0.9, 100.0),
        trial(3, 0.7, 60.0),
        trial(4, 0.99, state=TrialState.PRUNED),
    ]
    found = front_of(summary(), trials)
    assert [point.number for point in found.points] == [2, 0]
    assert [point.number for point in found.beaten] == [3]
    assert found.left_out == 2


def test_a_study_without_complete_trials_has_an_empty_front():
    assert front_of(summary(), [trial(0, state=TrialState.RUNNING)]).points == ()


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_it_is_drawn(ending, tmp_path):
    trials = [trial(0, 0.8, 50.0), trial(1, 0.9, 1000.0), trial(2, 0.7, 60.0)]
    save_figure(front_of(summary(), trials), tmp_path / f"front.{ending}")
    assert (tmp_path / f"front.{ending}").stat().st_size > 1000


def test_each_further_objective_has_a_panel_and_wide_positive_ones_a_logarithm():
    directions = ("maximize", "minimize", "minimize")
    three = summary(("accuracy", "size_bytes", "latency_ms"), directions)
    trials = [trial(0, 0.8, 50.0, 1.0), trial(1, 0.9, 1000.0, 2.0), trial(2, 0.85, 70.0, 0.0)]
    panels = front_figure(front_of(three, trials)).axes
    assert [(panel.get_xscale(), panel.get_yscale()) for panel in panels] == [("log", "linear"), ("linear", "linear")]
    assert panels[0].get_ylabel() == "accuracy (larger is better)"
    assert panels[1].get_xlabel() == "latency_ms (smaller is better)"
