"""Is `likely` read, checked, kept, and without effect on which studies belong together?"""

from __future__ import annotations

import pytest

from hpo.errors import SpaceError, SpecError
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import relate
from hpo.studies.study_file import load_spec, parse_spec
from storage.families import family_of

SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 9},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam", True]},
}
LIKELY = {"lr": (1e-4, 1e-2), "layers": (3, 3), "optimizer": ("sgd",)}


def with_likely(**likely):
    return {name: fields | ({"likely": likely[name]} if name in likely else {}) for name, fields in SPACE.items()}


def study(space):
    return {
        "study": "a",
        "task": {"name": "a", "metric": "loss", "direction": "minimize"},
        "trainer": {"model": "their.Model", "max_epochs": 1},
        "space": space,
        "budget": {"trials": 1},
    }


def test_is_kept_with_the_space():
    space = parse_spec(study(with_likely(**{name: list(of) for name, of in LIKELY.items()}))).search_space()
    assert space.likely == LIKELY
    assert SearchSpace.from_json(space.to_json()) == space
    assert space.to_json()["lr"]["likely"] == [1e-4, 1e-2]
    assert parse_spec(study(SPACE)).search_space().likely == {}
    assert "likely" not in str(parse_spec(study(SPACE)).space_json())


@pytest.mark.parametrize(
    ("likely", "message"),
    [
        ({"lr": [1e-2, 1e-4]}, "the lower end comes first"),
        ({"lr": [1e-3, 1e-3]}, "the upper one is greater"),
        ({"lr": [1e-3]}, "needs two numbers"),
        ({"lr": []}, "needs two numbers"),
        ({"lr": [1e-6, 1e-3]}, "not within the range 1e-05 … 0.1 (log)"),
        ({"lr": [1e-3, float("nan")]}, "not within the range"),
        ({"layers": [3, 10]}, "not within the range 1 … 9"),
        ({"optimizer": ["adamw"]}, "'adamw' is no choice; it is one of sgd, adam, True"),
        ({"optimizer": [1]}, "1 is no choice"),
        ({"optimizer": []}, "names no choice"),
    ],
)
def test_must_lie_in_the_range(likely, message):
    with pytest.raises(SpaceError) as space_error:
        SearchSpace.from_json(with_likely(**likely))
    with pytest.raises(SpecError) as spec_error:
        parse_spec(study(with_likely(**likely)))
    for error in (space_error, spec_error):
        assert message in str(error.value)
        assert f"space.{next(iter(likely))}: likely" in str(error.value)


@pytest.mark.parametrize("likely", [{"layers": [3.5, 4]}, {"layers": [True, 4]}])
def test_ends_of_whole_numbers_are_whole(likely):
    with pytest.raises(SpaceError, match="layers"):
        SearchSpace.from_json(with_likely(**likely))


def test_an_error_names_the_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "task: {name: a, metric: loss, direction: minimize}\ntrainer: {model: their.Model, max_epochs: 1}\n"
        "space:\n  lr: {type: float, low: 1e-4, high: 1, likely: [1e-5, 1e-2]}\nbudget: {trials: 1}\n"
    )
    with pytest.raises(SpecError, match=r"study.yaml:4: space.lr: likely = \[1e-05, 0.01\] is not within the range"):
        load_spec(file)


def test_changes_neither_family_nor_mapping():
    hopeful = with_likely(**LIKELY)
    assert family_of(hopeful, "loss", ["minimize"]) == family_of(SPACE, "loss", ["minimize"])
    mapping = relate(SearchSpace.from_json(hopeful), SearchSpace.from_json(SPACE))
    assert mapping.similarity == 1.0
    assert {change.kind for change in mapping.changes} == {"same"}
    back = relate(SearchSpace.from_json(SPACE), SearchSpace.from_json(hopeful))
    assert back.translate({"lr": 0.09, "layers": 9, "optimizer": "adam"}) == {
        "lr": 0.09,
        "layers": 9,
        "optimizer": "adam",
    }
