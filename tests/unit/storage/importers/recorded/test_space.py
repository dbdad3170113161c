"""Is the description of a recorded table understood, or else refused with what is wrong in it?"""

import json

import pytest

from storage.errors import ImportFailedError
from storage.importers.mapping import RunMapping
from storage.importers.recorded.mapping import mapped_space
from storage.importers.recorded.space import choice_index, read_space

LR = {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "log": True}
KERNEL = {"name": "kernel", "type": "categorical", "choices": ["rbf", "linear"]}
GAMMA = {"name": "gamma", "type": "float", "low": 0, "high": 1, "when": {"parent": "kernel", "in": ["rbf"]}}
DEPTH = {"name": "depth", "type": "int", "low": 2, "high": 8, "step": 2}


@pytest.fixture
def read(tmp_path):
    def reading(content=None, **fields):
        default = {"name": "bench", "metric": "loss", "direction": "minimize", "parameters": [GAMMA, KERNEL, LR, DEPTH]}
        text = json.dumps(default | fields) if content is None else content
        (tmp_path / "space.json").write_text(text, encoding="utf-8")
        return read_space(tmp_path)

    return reading


def test_the_space_in_the_words_of_a_study_file_has_parents_first(read):
    space = read(source="github", licence=None)
    assert list(space.words.items()) == [
        ("kernel", {"type": "categorical", "choices": ["rbf", "linear"]}),
        ("gamma", {"type": "float", "low": 0.0, "high": 1.0, "when": {"kernel": ["rbf"]}}),
        ("lr", {"type": "float", "low": 1e-5, "high": 0.1, "log": True}),
        ("depth", {"type": "int", "low": 2, "high": 8, "step": 2}),
    ]
    assert space.provenance == {"source": "github"}


def test_a_description_is_read_as_it_was_written(read):
    space = read()
    assert read(json.dumps(space.to_json())) == space


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": ""}, "`name` must be text"),
        ({"name": "a\0b"}, "`name` must be text"),
        ({"metric": 3}, "`metric` must be text"),
        ({"direction": "down"}, "`direction` must be minimize or maximize, it is 'down'"),
        ({"parameters": {}}, "`parameters` must be a list"),
        ({"parameters": [LR, LR]}, "the name 'lr' is there 2 times"),
        ({"parameters": [LR | {"name": "a", "column": "lr"}, LR]}, "the column 'lr' is there 2 times"),
        ({"parameters": [LR | {"name": "\ud800"}]}, "is no name of a parameter"),
        ({"parameters": [LR | {"name": "config"}]}, "'config' is no name of a parameter"),
        ({"parameters": [LR | {"type": "real"}]}, "lr: .*'real' is unknown; use float, int or categorical"),
        ({"parameters": [{"name": "lr", "type": "float", "low": 0}]}, "lr has no 'high'"),
        ({"parameters": [LR | {"low": 1}]}, "lr: "),
        ({"parameters": [LR | {"low": 0}]}, "lr: "),
        ({"parameters": [LR | {"low": "1"}]}, "lr: low must be a finite number, it is '1'"),
        ({"parameters": [LR | {"high": 1e400}]}, "lr: high must be a finite number, it is inf"),
        ({"parameters": [DEPTH | {"low": 0.5}]}, "depth: low must be a whole number, it is 0.5"),
        ({"parameters": [KERNEL | {"choices": []}]}, "kernel: "),
        ({"parameters": [KERNEL | {"choices": "rbf"}]}, "kernel: choices must be a list"),
        ({"parameters": [GAMMA]}, "gamma: there is no parameter 'kernel', on which it depends"),
        ({"parameters": [KERNEL, GAMMA | {"when": {"kernel": ["rbf"]}}]}, "gamma: `when` must be like"),
        ({"parameters": [KERNEL, GAMMA | {"when": {"parent": "kernel", "in": []}}]}, "name at least one value"),
        ({"parameters": [KERNEL, GAMMA | {"when": {"parent": "kernel", "in": ["poly"]}}]}, "is never 'poly'"),
        ({"parameters": [LR, GAMMA | {"when": {"parent": "lr", "in": [3]}}]}, "is never 3"),
        (
            {
                "parameters": [
                    GAMMA | {"when": {"parent": "lr", "in": [0.1]}},
                    LR | {"when": {"parent": "gamma", "in": 1}},
                ]
            },
            "the conditions go round in a circle: gamma -> lr -> gamma",
        ),
        ({"parameters": [LR | {"name": f"x{n}"} for n in range(1_001)]}, "1,001 parameters are more than 1,000"),
    ],
)
def test_what_is_wrong_is_said(read, fields, reason):
    with pytest.raises(ImportFailedError, match=reason):
        read(**fields)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\x00", '{"name": "half'])
def test_what_is_no_json_is_said(read, content):
    with pytest.raises(ImportFailedError, match=r"space\.json is no JSON"):
        read(content)


def test_a_list_is_no_description(read):
    with pytest.raises(ImportFailedError, match="must be an object"):
        read("[]")


@pytest.mark.parametrize(
    ("choices", "value", "index"),
    [
        ([1, True], True, 1),
        ([0, 1], True, None),
        ([1, 2.5], 1.0, 0),
        ([16, 32], "32", 1),
        (["16", "32"], 32, 1),
        ([True, False], "true", 0),
        (["1", 1], "1", 0),
        ([None, "None"], "None", 1),
        (["a", "b"], "c", None),
        ([[64, 64], [128]], [128], 1),
    ],
)
def test_choices_are_told_apart(choices, value, index):
    assert choice_index(choices, value) == index


# Mappings


def test_a_mapping_renames_scales_and_drops(read):
    mapping = RunMapping(
        rename={"kernel": "svm.kernel", "loss": "error"}, scale={"lr": 10, "error": 0.01}, drop=("d*",)
    )
    space = mapped_space(read(), mapping)
    assert (space.metric, space.factor, list(space.words)) == ("error", 0.01, ["svm.kernel", "gamma", "lr"])
    assert space.words["gamma"]["when"] == {"svm.kernel": ["rbf"]}
    assert (space.words["lr"]["low"], space.words["lr"]["high"]) == (1e-4, 1.0)


def test_a_parameter_whose_parent_is_dropped_is_optional(read):
    (gamma, *_) = mapped_space(read(), RunMapping(drop=("kernel",))).parameters
    assert gamma.condition is None and gamma.optional


def test_a_parameter_without_a_condition_stays_obligatory(read):
    assert [part.name for part in mapped_space(read(), RunMapping()).parameters if part.optional] == []


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"metric": "acc"}, "'bench' has the metric 'loss', not 'acc'"),
        ({"task": "{file}"}, "says itself what its tasks are"),
        ({"rename": {"lr": "gamma"}}, "2 parameters of 'bench' are called 'gamma'"),
        ({"scale": {"kernel": 2}}, "kernel cannot be scaled: it is categorical"),
    ],
)
def test_an_impossible_mapping_is_refused(read, mapping, reason):
    with pytest.raises(ImportFailedError, match=reason):
        mapped_space(read(), RunMapping(**mapping))
