"""Are near families found, and only those?"""

from __future__ import annotations

from typing import Any

from hpo.spaces.related_families import MAX_COMPARED, related
from storage.families import Family
from storage.overview import FamilyOverview

LR = {"type": "float", "low": 1e-5, "high": 0.1, "log": True}
UNIT = {"type": "float", "low": 0.0, "high": 1.0}


def family(number: int, space: dict[str, Any], *, metric: str = "loss", trials: int = 1) -> FamilyOverview:
    known = Family(
        family_id=number,
        name=f"{metric}-{number}",
        metric=metric,
        directions=("minimize",),
        space=space,
        revision=0,
        lost_at=0,
    )
    return FamilyOverview(family=known, tasks=1, studies=1, trials=trials, quarantined=0)


def test_the_nearest_come_first_and_the_older_is_the_past() -> None:
    base = {"lr": LR, "wd": UNIT, "momentum": UNIT}
    found = related(
        [
            family(3, {"lr": LR, "wd": UNIT}),
            family(1, base),
            family(2, {"learning_rate": LR, "weight_decay": UNIT, "momentum": UNIT}),
        ]
    )
    assert [(pair.past, pair.present) for pair in found] == [
        ("loss-1", "loss-2"),
        ("loss-1", "loss-3"),
        ("loss-2", "loss-3"),
    ]
    assert found[0].mapping.similarity == 1


def test_another_metric_or_space_is_not_near() -> None:
    assert related([family(1, {"lr": LR}), family(2, {"lr": LR}, metric="error")]) == []
    assert related([family(1, {"lr": LR}), family(2, {"dropout": UNIT})]) == []
    assert related([]) == []


def test_of_very_many_families_the_largest_are_compared() -> None:
    many = [family(number, {"lr": LR | {"high": 1.0 + number}}, trials=number) for number in range(MAX_COMPARED + 5)]
    found = related(many)
    assert len(found) == MAX_COMPARED * (MAX_COMPARED - 1) / 2
    assert "loss-4" not in {pair.past for pair in found}
