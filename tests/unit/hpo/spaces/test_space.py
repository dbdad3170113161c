"""Does a search space keep what it was told, and know when a parameter matters?"""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import SpaceError
from hpo.spaces.space import SearchSpace

names = st.text(st.characters(categories=["L", "N"], include_characters="_.-"), min_size=1, max_size=8)
bounds = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(bounds)
    kind = draw(st.sampled_from(["float", "int", "categorical"]))
    if kind == "categorical":
        return {"type": kind, "choices": draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))}
    return {"type": kind, "low": low, "high": high, **draw(st.sampled_from([{}, {"log": True}, {"step": 1}]))}


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Spaces whose later parameters may depend on an earlier categorical one, in shuffled order."""
    space = draw(st.dictionaries(names, parameters(), min_size=1, max_size=6))
    for position, name in enumerate(space):
        parents = [other for other in list(space)[:position] if space[other]["type"] == "categorical"]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            space[name]["when"] = {parent: [draw(st.sampled_from(space[parent]["choices"]))]}
    return dict(draw(st.permutations(list(space.items()))))


@given(spaces())
def test_json_round_trip(fields: dict[str, dict[str, Any]]) -> None:
    space = SearchSpace.from_json(fields)
    assert SearchSpace.from_json(space.to_json()) == space
    assert set(space.distributions) == set(fields)


@given(spaces())
def test_parents_come_first_and_only_active_parameters_are_asked(fields: dict[str, dict[str, Any]]) -> None:
    space = SearchSpace.from_json(fields)
    order = list(space.distributions)
    assert all(order.index(condition.parent) < order.index(name) for name, condition in space.conditions.items())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = space.suggest(study.ask())
    assert set(params) == {name for name in order if space.is_active(name, params)}
    assert all(name in params for name in order if name not in space.conditions)


def test_a_condition_on_an_int_parent() -> None:
    fields = {
        "depth": {"type": "int", "low": 1, "high": 3},
        "skip": {"type": "categorical", "choices": [True, False], "when": {"depth": [2, 3]}},
    }
    space = SearchSpace.from_json(fields)
    assert space.is_active("skip", {"depth": 2})
    assert not space.is_active("skip", {"depth": 1})
    with pytest.raises(SpaceError, match="depth is never 4"):
        SearchSpace.from_json({**fields, "skip": {**fields["skip"], "when": {"depth": [4]}}})
