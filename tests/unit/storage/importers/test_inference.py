import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.distributions import distribution_of, fields_of
from storage.importers.inference import (
    ABSENT,
    MAX_CHOICES,
    choose_metric,
    guess_direction,
    infer_space,
    is_technical,
    params_in,
    repair,
    split_seed,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.sampled_from(["adam", "sgd", "none", "<b>x</b>", "'; DROP TABLE trials", "ä\n", ""])
plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), finite, words)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


# Repair


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        (" 3 ", 3),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("0.1", 0.1),
        ("inf", math.inf),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("none", "none"),
        ("", ""),
        ("[1, 2]", "[1, 2]"),
        ("007", "007"),  # a name, not a number
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1,5", "1,5"),
        ("adam ", "adam "),
    ],
)
def test_text_becomes_what_it_says(text: str, value: Any) -> None:
    assert same(repair(text), value)


@given(st.one_of(st.integers(-(10**30), 10**30), finite, st.booleans(), st.none()))
def test_what_python_writes_is_repaired(value: Any) -> None:
    assert same(repair(str(value)), value)


def test_nan_is_repaired() -> None:
    assert math.isnan(repair("nan"))


@given(plain)
def test_repair_is_done_once(value: Any) -> None:
    assert same(repair(repair(value)), repair(value))


def test_numpy_and_containers() -> None:
    assert same(repair(np.float64(0.5)), 0.5)
    assert same(repair(np.int32(3)), 3)
    assert same(repair(np.bool_(True)), True)
    assert repair([1, 2]) == "[1, 2]"
    assert repair(np.array([1, 2])) == "[1, 2]"
    assert repair({"b": 1, "a": 2}) == '{"a": 2, "b": 1}'
    assert isinstance(repair(10**400), str)


def test_seeds_are_no_parameters() -> None:
    assert split_seed({"seed": "7", "lr": "0.1"}) == (7, {"lr": "0.1"})
    assert split_seed({"model/random_state": 3}) == (3, {})
    assert split_seed({"seed": "None"}) == (None, {})
    assert split_seed({"seed": 1, "random_seed": 2}) == (None, {})


# Single parameters


def space_of(*values: Any) -> dict[str, Any] | None:
    return infer_space({"x": values})[0].get("x")


def notes_of(*values: Any) -> list[str]:
    return infer_space({"x": values})[1]


def test_types_and_ranges() -> None:
    assert space_of("16", "32", "48") == {"type": "int", "low": 16, "high": 48}
    assert space_of("1", "0.5") == {"type": "float", "low": 0.5, "high": 1.0}
    assert space_of("True", "false") == {"type": "categorical", "choices": [False, True]}
    assert space_of("sgd", "adam", "sgd") == {"type": "categorical", "choices": ["adam", "sgd"]}
    assert space_of("adam", None, "sgd") == {"type": "categorical", "choices": [None, "adam", "sgd"]}


def test_constants_are_dropped_with_a_note() -> None:
    assert space_of("3", "3", "3") is None
    assert notes_of("3", 3) == ["x: always 3, not searched over"]
    assert space_of("3", ABSENT) is None
    assert infer_space({"x": [ABSENT, ABSENT]}) == ({}, [])


def test_log_scale_tells_its_evidence() -> None:
    assert space_of("1e-5", "1e-3", "0.1") == {"type": "float", "low": 1e-5, "high": 0.1, "log": True}
    assert notes_of("1e-5", "1e-3", "0.1") == ["x: log scale (1e-05 … 0.1 spans 4.0 decades)"]
    powers = space_of(16, 32, 64, 128)
    assert powers == {"type": "int", "low": 16, "high": 128, "log": True}
    assert "each is 2 times the one before" in notes_of(16, 32, 64, 128)[0]


def test_a_wide_range_that_is_spread_evenly_is_linear() -> None:
    uniform = np.linspace(0.001, 1, 50)
    assert "log" not in (space_of(*uniform) or {})
    assert "spread evenly" in notes_of(*uniform)[0]
    assert "log" in (space_of(*np.geomspace(8, 80, 30)) or {})  # one decade, but even on the log scale
    assert "log" not in (space_of(*np.linspace(8, 80, 30)) or {})


def test_zero_among_the_values_forbids_the_log_scale() -> None:
    assert space_of(0, 1e-5, 1e-1) == {"type": "float", "low": 0.0, "high": 0.1}
    assert "0 is among the values" in notes_of(0, 1e-5, 1e-1)[0]


def test_none_among_many_numbers_is_not_set() -> None:
    values = [*[0.1 * i for i in range(1, 20)], "None"]
    assert space_of(*values) == {"type": "float", "low": 0.1, "high": pytest.approx(1.9)} | {
        key: value for key, value in (space_of(*values) or {}).items() if key == "log"
    }
    assert "None in 1 of 20 runs counts as not set" in notes_of(*values)[0]
    space = infer_space({"x": values})[0]
    assert params_in(space, {"x": "None"}) == {}


def test_few_numbers_and_words_are_choices() -> None:
    assert space_of("sqrt", "0.5", "log2") == {"type": "categorical", "choices": [0.5, "log2", "sqrt"]}
    assert "numbers and others are mixed" in notes_of("sqrt", "0.5", "log2")[0]
    assert params_in(infer_space({"x": ["sqrt", "0.5"]})[0], {"x": "0.50"}) == {"x": 0.5}


def test_a_word_among_many_numbers_is_rejected_with_evidence() -> None:
    values = [*map(str, range(MAX_CHOICES + 20)), "auto"]
    space, notes = infer_space({"x": values})
    assert space["x"]["type"] == "int"
    assert notes[0].startswith("x: a number in 120 of 121 runs; runs with auto are rejected")
    with pytest.raises(ValueError, match="a value outside of the space: x = auto is no number; it is int"):
        params_in(space, {"x": "auto"})


def test_a_stray_word_does_not_make_choices_of_a_scale() -> None:
    values = [str(10 ** (-5 + 0.1 * place)) for place in range(40)]
    assert space_of(*values, "auto", "auto") == space_of(*values)
    (slip, scale) = notes_of(*values, "auto")
    assert slip == (
        "x: a number in 40 of 41 runs; runs with auto are rejected. "
        "Where it stands for a number, say so in a mapping file: `replace: {x: {auto: NUMBER}}`"
    )
    assert scale.startswith("x: log scale")
    space = infer_space({"x": [*values, "auto"]})[0]
    with pytest.raises(ValueError, match=r"x = auto is no number; .*`replace: \{x: \{auto: NUMBER\}\}`"):
        params_in(space, {"x": "auto"})


def test_a_run_that_will_be_rejected_widens_nothing() -> None:
    lr = [*(0.01 * place for place in range(1, 21)), "auto"]
    space, _ = infer_space({"lr": lr, "depth": [*[1, 2, 3, 4] * 5, 1000]})
    assert (space["depth"]["low"], space["depth"]["high"]) == (1, 4)


@pytest.mark.parametrize(
    "values",
    [
        ["0.5", "0.7", "0.9", *["sqrt"] * 20],  # a few numbers beside a word
        [*(f"{0.1 * place:.1f}" for place in range(1, 12)), "sqrt", "log2"],  # more than one in twenty
        [*["16", "32", "64"] * 20, "auto"],  # many runs, few numbers
    ],
)
def test_words_beside_few_numbers_stay_choices(values: list[str]) -> None:
    assert (space_of(*values) or {})["type"] == "categorical"
    assert "numbers and others are mixed" in notes_of(*values)[0]


def test_names_of_runs_are_no_parameters() -> None:
    assert space_of(*[f"run {i}" for i in range(30)]) is None
    assert "look like names of runs" in notes_of(*[f"run {i}" for i in range(30)])[0]
    assert space_of("/runs/2024-01-01", "/runs/2024-01-02") is None
    assert space_of("adam", "sgd", "lion") is not None  # three runs may well have tried three


def test_true_is_not_one() -> None:
    assert space_of(True, 0, 1) == {"type": "categorical", "choices": [False, True]}
    space = infer_space({"x": ["True", "1", "2"]})[0]
    assert [params_in(space, {"x": value})["x"] for value in ("True", "1", "2")] == ["True", 1, 2]


def test_declared_parameters_are_taken_as_they_are() -> None:
    declared = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    assert infer_space({"x": ["a", "b"]}, declared=declared) == (declared, [])
    with pytest.raises(ValueError, match=r"x = 3 is outside \[0, 1\]"):
        params_in(declared, {"x": 3})


@pytest.mark.parametrize(
    ("fields", "value", "problem"),
    [
        ({"type": "int", "low": 1, "high": 9}, 2.5, "is no integer"),
        ({"type": "int", "low": 1, "high": 9}, True, "is no number"),
        ({"type": "float", "low": 1.0, "high": 9.0, "log": True}, 0, "has no place on a log scale"),
        ({"type": "float", "low": 1.0, "high": 9.0}, "nan", "is not finite"),
        ({"type": "categorical", "choices": ["a", "b"]}, "c", "is none of a, b"),
    ],
)
def test_values_outside_of_the_space(fields: dict[str, Any], value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        params_in({"x": fields}, {"x": value})


def test_names_are_shown_in_one_short_line() -> None:
    _, notes = infer_space({"a\nb\0" + "c" * 500: [1, 1]})
    assert "\n" not in notes[0]
    assert "\0" not in notes[0]
    assert len(notes[0]) < 130


# Conditions


def test_a_parameter_of_one_choice_becomes_conditional() -> None:
    space, notes = infer_space(
        {
            "optimizer": ["sgd", "adam", "sgd", "adam", "lion"],
            "momentum": ["0.9", ABSENT, "0.5", ABSENT, "0.1"],
            "lr": [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )
    assert space["momentum"]["when"] == {"optimizer": ["lion", "sgd"]}
    assert "momentum: only where optimizer is lion, sgd" in notes
    assert params_in(space, {"optimizer": "sgd", "momentum": "0.9", "lr": 0.1}) == {
        "momentum": 0.9,
        "optimizer": "sgd",
        "lr": 0.1,
    }


def test_a_new_parameter_may_depend_on_a_known_one() -> None:
    known = {"optimizer": {"type": "categorical", "choices": ["adam", "sgd"]}}
    table = {"optimizer": ["sgd", "sgd", "lion", "adam"], "momentum": [0.1, 0.2, ABSENT, ABSENT]}
    assert infer_space(table, known)[0]["momentum"]["when"] == {"optimizer": ["sgd"]}


def test_many_parameters_that_are_sometimes_there() -> None:
    table = {
        f"p{index}": [(row * index) % 3 if (row + index) % 2 else ABSENT for row in range(500)] for index in range(300)
    }
    space, _ = infer_space({**table, **{f"c{index}": ["a", "b"] * 250 for index in range(300)}})
    assert len(space) > 400


def test_a_parameter_that_is_sometimes_missing_is_just_inactive_there() -> None:
    space, _ = infer_space({"optimizer": ["sgd", "adam"] * 4, "clip": [0.1, 0.2, *[ABSENT] * 6]})
    assert "when" not in space["clip"]
    assert "clip" not in params_in(space, {"optimizer": "sgd"})


def test_chains_of_conditions() -> None:
    space, _ = infer_space(
        {
            "model": ["mlp", "mlp", "mlp", "mlp", "tree", "tree"],
            "act": ["relu", "relu", "leaky", "leaky", ABSENT, ABSENT],
            "slope": [ABSENT, ABSENT, 0.1, 0.2, ABSENT, ABSENT],
        }
    )
    assert space["act"]["when"] == {"model": ["mlp"]}
    assert space["slope"]["when"] == {"act": ["leaky"]}


# Laws


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[Any]]:
    n = draw(st.integers(1, 8))
    kinds = [
        st.integers(-1000, 1000),
        finite,
        st.floats(1e-6, 1.0),
        st.booleans(),
        words,
        st.one_of(st.none(), words),
        st.one_of(st.booleans(), st.integers(0, 2), words),
        plain,
    ]
    return {
        name: draw(st.lists(st.one_of(st.just(ABSENT), kind) if draw(st.booleans()) else kind, min_size=n, max_size=n))
        for name, kind in zip("abcd", draw(st.permutations(kinds)), strict=False)
    }


def rows(table: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


@given(columns())
def test_every_run_fits_the_space_inferred_from_it(table: dict[str, list[Any]]) -> None:
    space, notes = infer_space(table)
    for row in rows(table):
        try:
            params = params_in(space, row)
        except ValueError:
            assert any("are rejected" in note for note in notes)
            continue
        for name, value in params.items():
            assert str(value) == str(row[name]) or value == row[name]
            assert distribution_of(name, space[name])._contains(
                distribution_of(name, space[name]).to_internal_repr(value)
            )
        left_out = {name for name in space if name not in params}
        assert all(row[name] in (ABSENT, None) for name in left_out)


@given(columns())
def test_spaces_are_in_the_words_of_a_study_file(table: dict[str, list[Any]]) -> None:
    for name, fields in infer_space(table)[0].items():
        words_only = {key: value for key, value in fields.items() if key != "when"}
        assert fields_of(distribution_of(name, fields)) == words_only


@given(columns(), st.randoms())
def test_the_order_of_runs_does_not_matter(table: dict[str, list[Any]], random: Any) -> None:
    order = list(range(len(table["a"])))
    random.shuffle(order)
    shuffled = {name: [values[index] for index in order] for name, values in table.items()}
    assert infer_space(shuffled)[0] == infer_space(table)[0]


@given(columns())
def test_what_is_known_already_changes_nothing(table: dict[str, list[Any]]) -> None:
    space, _ = infer_space(table)
    assert infer_space(table, space)[0] == space


@given(columns(), columns())
def test_a_known_space_only_becomes_wider(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> None:
    known, _ = infer_space(first)
    wider, _ = infer_space(second, known)
    for name, fields in known.items():
        if fields["type"] == "categorical":
            assert wider[name]["choices"][: len(fields["choices"])] == fields["choices"]
            assert len(wider[name]["choices"]) <= MAX_CHOICES
        else:
            assert wider[name]["low"] <= fields["low"] <= fields["high"] <= wider[name]["high"]
        distribution_of(name, wider[name])
    for row in rows({name: first[name] for name in known}):
        assert fits(wider, row) == fits(known, row)


def fits(space: dict[str, Any], row: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return params_in(space, row)
    except ValueError:
        return None


# Widening


def widened(known: dict[str, Any], *values: Any) -> tuple[dict[str, Any], list[str]]:
    space, notes = infer_space({"x": values}, {"x": known})
    return space["x"], notes


def test_choices_are_appended() -> None:
    known = {"type": "categorical", "choices": ["sgd", "adam"]}
    assert widened(known, "lion", "adam")[0]["choices"] == ["sgd", "adam", "lion"]
    assert widened({"type": "categorical", "choices": ["1", "2"]}, 1, 3)[0]["choices"] == ["1", "2", 3]


def test_too_many_choices_are_rejected_run_by_run() -> None:
    known = {"type": "categorical", "choices": [f"a{i}" for i in range(MAX_CHOICES)]}
    fields, _ = widened(known, "one more", "a1")
    assert fields == known
    with pytest.raises(ValueError, match="more than 100"):
        params_in({"x": fields}, {"x": "one more"})


def test_an_integer_becomes_a_number_only_where_that_is_sound() -> None:
    known = {"type": "int", "low": 0, "high": 9}
    fields, notes = widened(known, 0.25, 0.5, 3)
    assert fields == {"type": "float", "low": 0.0, "high": 9.0}
    assert notes == ["x: float from now on, because of 0.25, 0.5"]
    fields, _ = widened(known, 0.5, *range(30))
    assert fields == {"type": "int", "low": 0, "high": 29}
    assert widened(known | {"step": 3}, 0.5)[0]["type"] == "int"


def test_a_log_scale_stays_one() -> None:
    known = {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}
    assert widened(known, 0.0, 1e-5)[0] == known | {"low": 1e-5}
    assert widened({"type": "float", "low": 0.01, "high": 0.02}, 1e-5, 1e-3)[0] == {
        "type": "float",
        "low": 1e-5,
        "high": 0.02,
        "log": True,
    }


def test_conditions_are_loosened() -> None:
    known = {
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0.1, "high": 0.9, "when": {"optimizer": ["sgd"]}},
    }
    space, notes = infer_space({"optimizer": ["lion"], "momentum": [0.5]}, known)
    assert space["momentum"]["when"] == {"optimizer": ["sgd", "lion"]}
    assert notes == ["momentum: also where optimizer is lion"]


def test_what_did_not_vary_before_is_noted() -> None:
    _, notes = infer_space({"x": [1, 2], "y": ["a", "b"]}, {"x": {"type": "int", "low": 1, "high": 2}})
    assert next(note for note in notes if "did not vary" in note).startswith("y: ")
    _, notes = infer_space({"y": ["a", "b"]}, {})
    assert "did not vary" in notes[0]


# Metrics


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val_loss", "minimize"),
        ("val/acc", "maximize"),
        ("MulticlassAccuracy", "maximize"),
        ("val_f1_loss", "minimize"),
        ("neg_mean_squared_error", "maximize"),
        ("neg_log_likelihood", "minimize"),
        ("mAP@50", "maximize"),
        ("bleu4", "maximize"),
        ("brier_score", "minimize"),
        ("loss_score", None),
        ("wer", "minimize"),
        ("word_perplexity", "minimize"),
        ("R2", "maximize"),
        ("mean_reward", "maximize"),
        ("something", None),
        ("epoch", None),
        ("<b>loss</b>", "minimize"),
        ("", None),
    ],
)
def test_directions(metric: str, direction: str | None) -> None:
    assert guess_direction(metric) == direction


def test_technical_metrics() -> None:
    technical = [
        "epoch",
        "step",
        "lr-Adam",
        "learning_rate",
        "system/gpu_0_memory",
        "fit_time",
        "hp_metric",
        "grad_norm",
    ]
    assert [name for name in technical if not is_technical(name)] == []
    assert [name for name in ("val_loss", "epoch_loss", "f1", "custom") if is_technical(name)] == []


def test_the_metric_is_chosen() -> None:
    counts = {"epoch": 10, "train_loss": 10, "val_loss": 10, "val_acc": 10, "test_loss": 9}
    assert choose_metric(counts) == "val_loss"
    assert choose_metric({"train_loss": 9, "eval/accuracy": 9, "test/accuracy": 9}) == "eval/accuracy"
    assert choose_metric({"val_loss": 1, "test_acc": 10}) == "test_acc"  # in most runs
    assert choose_metric({"loss": 4, "accuracy": 4}) == "loss"
    assert choose_metric({"custom": 4, "epoch": 5}) == "custom"
    assert choose_metric({"val_f1": 4, "val_auc": 4}) is None
    assert choose_metric({"custom": 4, "other": 4}) is None
    assert choose_metric({"epoch": 4}) is None
    assert choose_metric({}) is None
