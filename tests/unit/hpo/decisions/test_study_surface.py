"""Does the surface of a study say what its trials say, and how sure that is?"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from hpo.decisions.study_surface import Surface, surface_of
from hpo.errors import NoHistoryError, SettingsError
from storage.history import StudySummary, TrialRecord

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"optimizer": ["sgd"]}},
}
DRAWN = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
    "momentum": FloatDistribution(0.0, 1.0),
}


def truth(params: dict[str, Any]) -> float:
    """The best is adam at lr = 0.01; with sgd the momentum is best at 0.8."""
    loss = (math.log10(params["lr"]) + 2.0) ** 2
    return loss + (0.3 + 2.0 * (params["momentum"] - 0.8) ** 2 if params["optimizer"] == "sgd" else 0.0)


def study(trials: int, *, maximize: bool = False, seed: int = 0) -> Surface:
    rng = np.random.default_rng(seed)
    records = []
    for number in range(trials):
        params: dict[str, Any] = {"lr": float(10 ** rng.uniform(-4, 0)), "optimizer": str(rng.choice(["sgd", "adam"]))}
        if params["optimizer"] == "sgd":
            params["momentum"] = float(rng.uniform())
        value = truth(params) + 0.02 * float(rng.standard_normal())
        records.append(trial(number, params, -value if maximize else value))
    return surface_of(summary(maximize=maximize), records)


def trial(number: int, params: dict[str, Any], value: float) -> TrialRecord:
    known = dict.fromkeys(TrialRecord.__dataclass_fields__)
    known |= {"trial_id": number, "number": number, "state": TrialState.COMPLETE, "value": value, "values": (value,)}
    known |= {"params": params, "distributions": {name: DRAWN[name] for name in params}, "attempt": 1}
    return TrialRecord(**known | {"intermediate_values": {}, "user_attrs": {}, "system_attrs": {}})


def summary(*, maximize: bool) -> StudySummary:
    known = dict.fromkeys(StudySummary.__dataclass_fields__)
    known |= {"study_id": 1, "name": "s", "directions": ("maximize" if maximize else "minimize",), "space": SPACE}
    known |= {"objectives": ("loss",), "counts": {}, "created_at": datetime.now(UTC), "family": "f", "source": "x"}
    return StudySummary(**known)


@pytest.mark.parametrize("maximize", [False, True])
def test_a_slice_is_best_where_the_truth_is(maximize: bool) -> None:
    found = study(60, maximize=maximize).along("lr")
    assert found.others["optimizer"] == "adam"
    best = np.argmax(found.expected) if maximize else np.argmin(found.expected)
    assert 0.003 < found.values[best] < 0.03
    assert all(low <= middle <= high for low, middle, high in zip(found.low, found.expected, found.high, strict=True))


def test_the_intervals_of_a_slice_hold_the_truth() -> None:
    held = []
    for seed in range(6):
        found = study(40, seed=seed).along("lr")
        real = [truth({**found.others, "lr": value}) for value in found.values]
        held += [low <= each <= high for low, each, high in zip(found.low, real, found.high, strict=True)]
    assert np.mean(held) > 0.85


def test_what_does_not_matter_at_the_best_is_shown_where_it_does() -> None:
    found = study(80).along("momentum")
    assert found.others["optimizer"] == "sgd"
    assert 0.6 < found.values[int(np.argmin(found.expected))] < 1.0


def test_a_plane_agrees_with_its_slices() -> None:
    surface = study(60)
    plane, along = surface.over("lr", "optimizer"), surface.along("lr")
    row = plane.expected[plane.values[1].index("adam")]
    assert np.interp(-2.0, np.log10(plane.values[0]), row) == pytest.approx(
        np.interp(-2.0, np.log10(along.values), along.expected), abs=0.05
    )


def test_what_cannot_be_told_says_why() -> None:
    with pytest.raises(NoHistoryError, match="3 complete trials"):
        study(3)
    surface = study(10)
    with pytest.raises(SettingsError, match=r"no hyperparameter 'width'; it has: lr, optimizer, momentum"):
        surface.along("width")
    with pytest.raises(SettingsError, match="name two"):
        surface.over("lr", "lr")
