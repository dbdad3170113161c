"""Are two spaces related as a person would, and is a past configuration the same in the words of the present?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hpo.errors import SpaceError
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import SYNONYMS, SpaceMapping, relate

LR = {"type": "float", "low": 1e-5, "high": 0.1, "log": True}
UNIT = {"type": "float", "low": 0.0, "high": 1.0}
OPTIMIZER = {"type": "categorical", "choices": ["sgd", "adam"]}


def mapping(past: dict[str, Any], present: dict[str, Any], **options: Any) -> SpaceMapping:
    return relate(SearchSpace.from_json(past), SearchSpace.from_json(present), **options)


def kinds(found: SpaceMapping) -> list[str]:
    return [change.kind for change in found.changes]


# Laws

names = st.sampled_from(
    ["lr", "learning_rate", "optimizer.lr", "log_lr", "log10_lr", "wd", "momentum", "one_minus_momentum", "depth",
     "optimizer", "bs", "batchSize", "log2_batch_size", "layers", "x", "1-y"]
)  # fmt: skip
bounds = st.tuples(st.integers(-3, 50), st.integers(0, 50)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(bounds)
    kind = draw(st.sampled_from(["float", "int", "categorical"]))
    if kind == "categorical":
        choices = st.sampled_from(["a", "A", "b", "1", 1, 2.0, 16, "16", True, False, "true", None])
        return {"type": kind, "choices": draw(st.lists(choices, min_size=1, max_size=4, unique_by=repr))}
    scale: dict[str, Any] = draw(st.sampled_from([{}, {"log": True}] if low > 0 else [{}]))
    return {"type": kind, "low": low, "high": high, **scale}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    space = draw(st.dictionaries(names, parameters(), max_size=6))
    for position, name in enumerate(space):
        parents = [other for other in list(space)[:position] if space[other]["type"] == "categorical"]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            space[name]["when"] = {parent: [draw(st.sampled_from(space[parent]["choices"]))]}
    return SearchSpace.from_json(space)


@st.composite
def configurations(draw: st.DrawFn, space: SearchSpace) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        if not space.is_active(name, params):
            continue
        if isinstance(distribution, CategoricalDistribution):
            params[name] = draw(st.sampled_from(distribution.choices))
        elif isinstance(distribution, FloatDistribution):
            params[name] = draw(st.floats(distribution.low, distribution.high))
        else:
            params[name] = draw(st.integers(distribution.low, distribution.high))
    return params


@given(st.data(), spaces())
def test_a_space_is_itself(data: st.DataObject, space: SearchSpace) -> None:
    found = relate(space, space)
    assert kinds(found) == ["same"] * len(space.distributions)
    assert found.similarity == 1
    params = data.draw(configurations(space))
    assert found.translate(params) == params


MIRRORED = {"added": "removed", "removed": "added", "widened": "cut", "cut": "widened"}


@given(spaces(), spaces())
def test_the_way_back_is_the_mirror_image(past: SearchSpace, present: SearchSpace) -> None:
    there, back = relate(past, present), relate(present, past)
    assert 0 <= there.similarity <= 1
    assert there.similarity == pytest.approx(back.similarity)

    def told(found: SpaceMapping) -> list[tuple[str, ...]]:
        return sorted((change.kind, str(change.past), str(change.present)) for change in found.changes)

    assert told(there) == sorted(
        (MIRRORED.get(change.kind, change.kind), str(change.present), str(change.past)) for change in back.changes
    )


@given(spaces(), spaces())
def test_every_parameter_is_accounted_for_once(past: SearchSpace, present: SearchSpace) -> None:
    changes = relate(past, present).changes
    pairs = {(change.past, change.present) for change in changes}
    assert sorted(before for before, _ in pairs if before is not None) == sorted(past.distributions)
    assert sorted(now for _, now in pairs if now is not None) == sorted(present.distributions)
    alone = [change.kind for change in changes if change.kind in ("same", "added", "removed")]
    assert len(pairs) == len({(change.past, change.present) for change in changes if change.kind not in alone}) + len(
        alone
    )


@given(spaces(), spaces(), st.randoms())
def test_the_order_of_parameters_does_not_matter(past: SearchSpace, present: SearchSpace, random: Any) -> None:
    def shuffled(space: SearchSpace) -> SearchSpace:
        content = list(space.to_json().items())
        random.shuffle(content)
        return SearchSpace.from_json(dict(content))

    one, other = relate(past, present), relate(shuffled(past), shuffled(present))
    assert set(one.changes) == set(other.changes)
    assert one.similarity == pytest.approx(other.similarity)


@given(st.data(), spaces(), spaces())
def test_what_is_translated_can_be_said_in_the_present(
    data: st.DataObject, past: SearchSpace, present: SearchSpace
) -> None:
    found = relate(past, present)
    translated = found.translate(data.draw(configurations(past)))
    if translated is None:
        return
    added = {change.present for change in found.changes if change.kind == "added"}
    for name, value in translated.items():
        distribution = present.distributions[name]
        internal = distribution.to_internal_repr(value)  # raises for what is no choice and no number
        assert distribution.to_external_repr(internal) == value
        condition = present.conditions.get(name)
        assert condition is None or condition.parent in added or present.is_active(name, translated)


@given(st.data(), spaces())
def test_renames_that_are_told_are_followed(data: st.DataObject, space: SearchSpace) -> None:
    renames = {name: f"new {number}" for number, name in enumerate(space.distributions)}
    content = {renames[name]: fields for name, fields in space.to_json().items()}
    for fields in content.values():
        if "when" in fields:
            ((parent, values),) = fields["when"].items()
            fields["when"] = {renames[parent]: values}
    found = relate(space, SearchSpace.from_json(content), renames=renames)
    assert set(kinds(found)) <= {"renamed"}
    assert found.similarity == 1
    params = data.draw(configurations(space))
    assert found.translate(params) == {renames[name]: value for name, value in params.items()}


@pytest.mark.parametrize(
    ("form", "fields", "plain", "low", "high"),
    [
        ("log10_lr", {"low": -5.0, "high": -1.0}, "lr", 1e-5, 0.1),
        ("lr_log10", {"low": -5.0, "high": -1.0}, "learning_rate", 1e-5, 0.1),
        ("log_lr", {"low": -5.0, "high": -1.0}, "lr", 1e-5, 0.1),
        ("log_lr", {"low": -11.5, "high": -2.3}, "lr", 1e-5, 0.1),
        ("lr", {"low": -5.0, "high": -1.0}, "lr", 1e-5, 0.1),
        ("log2Width", {"low": 4.0, "high": 9.0}, "n_units", 16, 512),
        ("one_minus_momentum", {"low": 0.001, "high": 0.1, "log": True}, "momentum", 0.9, 0.999),
        ("oneMinusBeta1", {"low": 0.001, "high": 0.1, "log": True}, "adam.beta1", 0.9, 0.999),
    ],
)
@given(part=st.floats(0, 1))
def test_forms_there_and_back(
    form: str, fields: dict[str, Any], plain: str, low: float, high: float, part: float
) -> None:
    past, present = {form: {"type": "float", **fields}}, {plain: {"type": "float", "low": low, "high": high}}
    there, back = mapping(past, present), mapping(present, past)
    assert "rescaled" in kinds(there)
    assert "removed" not in kinds(there)
    value = fields["low"] + part * (fields["high"] - fields["low"])
    translated = there.translate({form: value})
    assert translated is not None
    assert low * 0.9 <= translated[plain] <= high * 1.1
    again = back.translate(translated)
    assert again is not None
    assert again[form] == pytest.approx(value, rel=1e-9)


# Names


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ("lr", "learning_rate"),
        ("optimizer.lr", "learning-rate"),
        ("learningRate", "LR"),
        ("eta", "model/lr"),
        ("wd", "weight_decay"),
        ("bs", "per_device_train_batch_size"),
        ("p_drop", "dropout_rate"),
        ("n_layers", "depth"),
        ("hidden_size", "n_units"),
        ("beta1", "adam_beta_1"),
        ("num_train_epochs", "max_epochs"),
        ("warmup_steps", "warmup"),
        ("my-knob", "my_knob"),
        ("a.knob", "b.knob"),
    ],
)
def test_names_that_mean_the_same(past: str, present: str) -> None:
    found = mapping({past: UNIT, "other": UNIT}, {present: UNIT, "other": UNIT})
    assert kinds(found) == ["renamed", "same"]
    assert found.translate({past: 0.5, "other": 0.25}) == {present: 0.5, "other": 0.25}
    assert found.changes[0].sentence == f"{past} is now called {present}"


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ({"lr": UNIT}, {"momentum": UNIT}),  # other meaning
        ({"lr": UNIT, "eta": UNIT}, {"learning_rate": UNIT}),  # which of them?
        ({"lr": UNIT}, {"learning_rate": UNIT | {"low": 2.0, "high": 3.0}}),  # ranges apart
        ({"warmup": UNIT | {"high": 0.1}}, {"warmup_steps": {"type": "int", "low": 0, "high": 1000}}),  # other units
        ({"opt": OPTIMIZER}, {"optimizer": {"type": "categorical", "choices": ["lion", "muon"]}}),
        ({"lr": LR}, {"learning_rate": {"type": "categorical", "choices": ["low", "high"]}}),
        ({"depth": OPTIMIZER}, {"depth": UNIT}),  # the same name for something else
        ({"logits": UNIT}, {"its": UNIT}),
    ],
)
def test_names_that_do_not(past: dict[str, Any], present: dict[str, Any]) -> None:
    found = mapping(past, present)
    assert set(kinds(found)) == {"added", "removed"}
    assert found.similarity == 0
    assert found.translate(dict.fromkeys(past, 0.5)) is None


def test_an_exact_name_comes_first() -> None:
    found = mapping({"lr": UNIT, "learning_rate": UNIT}, {"learning_rate": UNIT})
    assert kinds(found) == ["same", "removed"]
    assert found.translate({"lr": 0.1, "learning_rate": 0.2}) == {"learning_rate": 0.2}


def test_no_spelling_has_two_meanings() -> None:
    spellings = [spelling for group in SYNONYMS.values() for spelling in group.split()]
    assert len(spellings) == len(set(spellings))


# Ranges, types, conditions


@pytest.mark.parametrize(
    ("past", "present", "expected"),
    [
        (LR, LR | {"high": 1.0}, ["widened"]),
        (LR, LR | {"low": 1e-4}, ["cut"]),
        (LR, LR | {"low": 1e-4, "high": 1.0}, ["widened", "cut"]),
        (LR, LR | {"log": False}, ["rescaled"]),
        (UNIT, UNIT | {"step": 0.1}, ["rescaled"]),
        (
            {"type": "int", "low": 1, "high": 4},
            {"type": "int", "low": 2, "high": 16},
            ["widened", "cut"],
        ),  # no logarithm
        ({"type": "int", "low": 1, "high": 4}, {"type": "float", "low": 1.0, "high": 4.0}, ["retyped"]),
        (OPTIMIZER, {"type": "categorical", "choices": ["adam", "sgd"]}, ["same"]),
        (OPTIMIZER, {"type": "categorical", "choices": ["adam", "sgd", "lion"]}, ["widened"]),
        (OPTIMIZER, {"type": "categorical", "choices": ["adam"]}, ["cut"]),
        (OPTIMIZER, {"type": "categorical", "choices": ["SGD", "Adam"]}, ["same"]),
        (
            {"type": "categorical", "choices": ["16", "64"]},
            {"type": "int", "low": 16, "high": 64},
            ["retyped"],
        ),
    ],
)
def test_what_changed(past: dict[str, Any], present: dict[str, Any], expected: list[str]) -> None:
    found = mapping({"x": past}, {"x": present})
    assert kinds(found) == expected
    assert 0.3 <= found.similarity <= 1


@pytest.mark.parametrize(
    ("past", "present", "value", "translated"),
    [
        (LR, LR | {"low": 1e-3}, 1e-4, 1e-4),  # history informs from outside
        (UNIT, LR, 0.0, None),  # a log scale has no zero
        ({"type": "int", "low": 0, "high": 9}, {"type": "int", "low": 1, "high": 9, "log": True}, 0, None),
        ({"type": "float", "low": 0, "high": 9}, {"type": "int", "low": 1, "high": 9, "log": True}, 0.4, None),
        (OPTIMIZER, {"type": "categorical", "choices": ["adam"]}, "sgd", None),
        (OPTIMIZER, {"type": "categorical", "choices": ["Adam", "SGD"]}, "sgd", "SGD"),
        ({"type": "categorical", "choices": ["16", "64"]}, {"type": "int", "low": 16, "high": 64}, "64", 64),
        ({"type": "int", "low": 16, "high": 64}, {"type": "categorical", "choices": [16, 64]}, 64, 64),
        ({"type": "int", "low": 16, "high": 64}, {"type": "categorical", "choices": [16, 64]}, 48, None),
        ({"type": "float", "low": 1, "high": 9}, {"type": "int", "low": 1, "high": 9}, 3.2, 3),
        ({"type": "int", "low": 1, "high": 9}, {"type": "float", "low": 1, "high": 9}, 3, 3.0),
        ({"type": "categorical", "choices": [True, False]}, {"type": "categorical", "choices": ["true", "false"]}, True,
         "true"),
        (LR, LR, "quick", None),
    ],
)  # fmt: skip
def test_what_a_value_becomes(past: dict[str, Any], present: dict[str, Any], value: Any, translated: Any) -> None:
    found = mapping({"x": past, "y": UNIT}, {"x": present, "y": UNIT})
    expected = None if translated is None else {"x": translated, "y": 0.5}
    assert repr(found.translate({"x": value, "y": 0.5})) == repr(expected)


def test_a_power_of_two_or_nothing() -> None:
    past = {"batch_size": {"type": "int", "low": 16, "high": 256}}
    found = mapping(past, {"log2_batch_size": {"type": "int", "low": 4, "high": 8}})
    assert found.translate({"batch_size": 64}) == {"log2_batch_size": 6}
    assert found.translate({"batch_size": 48}) is None


def test_conditions_that_changed() -> None:
    past = {"optimizer": OPTIMIZER, "momentum": UNIT}
    present = {"optimizer": OPTIMIZER, "momentum": UNIT | {"when": {"optimizer": ["sgd"]}}}
    found = mapping(past, present)
    assert kinds(found) == ["same", "conditioned"]
    assert found.changes[1].sentence == "momentum: mattered always, matters now when optimizer is sgd"
    assert found.translate({"optimizer": "sgd", "momentum": 0.5}) == {"optimizer": "sgd", "momentum": 0.5}
    assert found.translate({"optimizer": "adam", "momentum": 0.5}) == {"optimizer": "adam"}
    back = mapping(present, past)
    assert back.translate({"optimizer": "adam"}) == {"optimizer": "adam"}


def test_a_condition_may_be_renamed_with_its_parent() -> None:
    past = {"opt": OPTIMIZER, "momentum": UNIT | {"when": {"opt": ["sgd"]}}}
    present = {
        "optimizer": {"type": "categorical", "choices": ["SGD", "Adam"]},
        "momentum": UNIT | {"when": {"optimizer": ["SGD"]}},
    }
    assert kinds(mapping(past, present)) == ["renamed", "same"]


def test_what_was_added_and_removed() -> None:
    found = mapping({"lr": LR, "momentum": UNIT}, {"lr": LR, "dropout": UNIT})
    assert kinds(found) == ["same", "added", "removed"]
    assert found.similarity == pytest.approx(1 / 3)
    assert "not known" in found.changes[1].sentence
    assert found.translate({"lr": 0.01, "momentum": 0.9}) == {"lr": 0.01}


def test_what_was_fixed_in_the_past_is_told() -> None:
    present = {"lr": LR, "dropout": UNIT, "optimizer": OPTIMIZER}
    found = mapping({"lr": LR}, present, constants={"dropout": 0.25, "optimizer": "lion"})
    assert "in the past it was 0.25" in found.changes[1].sentence
    assert found.translate({"lr": 0.01}) == {"lr": 0.01, "dropout": 0.25}


def test_what_a_condition_implies() -> None:
    """Momentum always mattered, so the optimizer must have been the one that has it."""
    present = {
        "optimizer": OPTIMIZER,
        "momentum": UNIT | {"when": {"optimizer": ["sgd"]}},
        "beta1": UNIT | {"when": {"optimizer": ["adam"]}},
    }
    found = mapping({"momentum": UNIT}, present)
    assert found.translate({"momentum": 0.5}) == {"optimizer": "sgd", "momentum": 0.5}
    undecided = mapping({"momentum": UNIT, "beta1": UNIT}, present)
    assert undecided.translate({"momentum": 0.5, "beta1": 0.9}) == {"momentum": 0.5, "beta1": 0.9}


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"lrr": "lr"}, "no past parameter 'lrr'. Did you mean 'lr'?"),
        ({"lr": "lrr"}, "no present parameter 'lrr'. Did you mean 'lr'?"),
        ({"lr": "optimizer"}, "have nothing in common"),
        ({"lr": "lr", "x": "lr"}, "several past parameters"),
    ],
)
def test_renames_that_cannot_be(renames: dict[str, str], message: str) -> None:
    space = {"lr": LR, "x": UNIT, "optimizer": OPTIMIZER}
    with pytest.raises(SpaceError, match=message):
        mapping(space, space, renames=renames)
