from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ImportFailedError
from storage.importers.inference import ABSENT
from storage.importers.mapping import RunMapping, check_template, load_mapping, load_yaml, scaled, task_name

EXAMPLE = """\
rename: {learning_rate: lr, "optimizer.name": optimizer, accuracy: val_acc}
scale:  {lr: 0.001, val_acc: 0.01}
drop:   [run_dir, "hydra.*"]
metric: val_acc
direction: maximize
value: best
task: "{experiment}/{param:model}"
space:
  lr: {type: float, low: 1e-5, high: 0.1, log: true}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "mapping.yaml"
        path.write_text(text)
        return path

    return written


def test_a_mapping_file(write: Any) -> None:
    mapping = load_mapping(write(EXAMPLE))
    assert mapping == RunMapping(
        rename={"learning_rate": "lr", "optimizer.name": "optimizer", "accuracy": "val_acc"},
        scale={"lr": 0.001, "val_acc": 0.01},
        drop=("run_dir", "hydra.*"),
        metric="val_acc",
        direction="maximize",
        value="best",
        task="{experiment}/{param:model}",
        space={"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}},
    )
    raw = {"learning_rate": "3", "optimizer.name": "sgd", "hydra.job.id": "7", "run_dir": "/x", "width": "8"}
    assert mapping.params(raw) == {"lr": 0.003, "optimizer": "sgd", "width": "8"}
    assert mapping.old_names("val_acc") == ["accuracy", "val_acc"]
    assert mapping.factor("val_acc") == 0.01
    assert mapping.drops("hydra.x")


def test_an_empty_file_changes_nothing(write: Any) -> None:
    mapping = load_mapping(write("# nothing yet\n"))
    assert mapping == RunMapping() == RunMapping.of(None) == RunMapping.of(mapping)
    assert mapping.params({"lr": "1"}) == {"lr": "1"}
    assert mapping.factor("val_loss") == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric: a\nscale: {lr: 0}", r"mapping.yaml:2: scale.lr: 0 is no factor; it must be a positive number"),
        ("scale: {lr: .nan}", r"scale.lr: nan is no factor"),
        ("scale: {lr: true}", r"scale.lr: True is no factor"),
        ("scale: {a: 2}\nrename: {a: b}", r"mapping.yaml:1: scale.a: it is renamed to 'b'; scale it under that name"),
        ("replace: {lr: auto}", r"mapping.yaml:1: replace.lr: it must be old values with new ones"),
        ("replace: {lr: {auto: [1]}}", r"replace.lr.auto: \[1\] is no value of a parameter"),
        (
            "replace: {a: {x: 2}}\nrename: {a: b}",
            r"replace.a: it is renamed to 'b'; replace its values under that name",
        ),
        ("rename: {a: 3}", r"rename.a: 3 is no name; quote names"),
        ("rename: [a]", r"rename: it must be names with values"),
        ("\n\nrenam: {a: b}", r"mapping.yaml:3: renam: unknown; did you mean rename\?"),
        ("drop: 3", r"drop: it must be a list of names"),
        ("direction: up", r"direction: 'up' is unknown; use minimize or maximize"),
        ("value: median", r"value: 'median' is unknown; use last or best"),
        ("metric: 3", r"metric: 3 is no text; quote it"),
        ("task: '{foo}'", r"task: '\{foo\}' is no task: \{foo\} is unknown; use \{param:NAME\}"),
        ("task: '{param:}'", r"\{param:\} is unknown"),
        ("task: 'a}'", r"a brace has no partner"),
        ("space:\n  lr: {type: float, low: 1}", r"mapping.yaml:2: space.lr: high is missing"),
        ("space:\n  lr: {type: int, low: 1, high: 0}", r"mapping.yaml:2: space.lr: `low <= high` must hold"),
        ("space: {lr: {type: double, low: 1, high: 0}}", r"space.lr: .*'double' is unknown"),
        ("space: {lr: {type: int, low: 1, high: 2, lgo: true}}", r"space.lr.lgo: unknown; the fields are type"),
        ("space: {lr: {type: int, low: 1, high: 2, when: {a: [1]}}}", r"space.lr.when: name one other parameter"),
        ("space: {lr: 3}", r"space.lr: it must be fields"),
        ("- a", r"it must be keys with values; the keys are rename"),
        ("rename: {a: b, a: c}", r"mapping.yaml:1: rename.a stands twice"),
        ("a: b: c", r"mapping.yaml:1: this is not valid YAML"),
        ("rename: !!python/object/apply:os.system [x]", r"mapping.yaml:1: .*only plain values are read"),
        ("metric: 2024-13-45", r"this is not valid YAML"),
        ("[" * 5_000, r"this is not valid YAML"),
        ("[" * 60 + "]" * 60, r"nested too deeply"),
        ("a: &a [&a2 b]\nb: &b [*a]\nc: &c [&d [*d]]", r"an alias refers to itself"),
        ("x: '" + "a" * 1_000_001 + "'", r"bytes are too many"),
        ("\x00", r"this is not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_file_and_where(write: Any, text: str, message: str) -> None:
    with pytest.raises(ImportFailedError, match=message):
        load_mapping(write(text))


def test_a_few_lines_that_stand_for_billions(write: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ImportFailedError, match="once its aliases are expanded"):
        load_mapping(write("\n".join(lines)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImportFailedError, match="no such file"):
        load_mapping(tmp_path / "none.yaml")
    with pytest.raises(ImportFailedError, match="cannot be read"):
        load_mapping(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ImportFailedError, match="cannot be read"):
        load_mapping(tmp_path / "binary.yaml")


def test_values_are_replaced_as_they_are_meant(write: Any) -> None:
    text = "rename: {rate: lr}\nscale: {lr: 0.001}\nreplace: {lr: {auto: 0.5, none: null, '1': 7}, flag: {true: yes}}"
    mapping = load_mapping(write(text))
    assert mapping.params({"rate": "auto"}) == {"lr": 0.5}
    assert mapping.params({"rate": "none"}) == {"lr": ABSENT}
    assert mapping.params({"rate": 1.0}) == {"lr": 7}  # text, integer or not: the number is meant
    assert mapping.params({"rate": "2"}) == {"lr": 0.002}
    assert mapping.params({"flag": "True", "other": "auto"}) == {"flag": True, "other": "auto"}
    assert mapping.params({"flag": 1}) == {"flag": 1}


def test_a_mapping_from_python_is_checked_too() -> None:
    assert RunMapping.of({"drop": "a*"}).drop == ("a*",)
    with pytest.raises(ImportFailedError, match=r"scale.lr: -1 is no factor"):
        RunMapping(scale={"lr": -1})
    with pytest.raises(ImportFailedError, match=r"space\.lr"):
        RunMapping.of({"space": {"lr": {}}})


def test_numbers_are_read_as_they_look(write: Any) -> None:
    content, lines = load_yaml(write("a: 1e-5\nb:\n  c: [1E3]\n"))
    assert content == {"a": 1e-5, "b": {"c": [1000.0]}}
    assert lines[("b", "c")] == 3


def test_two_parameters_must_not_get_one_name() -> None:
    mapping = RunMapping(rename={"learning_rate": "lr"})
    with pytest.raises(ValueError, match="two parameters are called 'lr' after renaming"):
        mapping.params({"learning_rate": 1, "lr": 2})
    assert mapping.params({"learning_rate": ABSENT, "lr": 2}) == {"lr": 2}
    assert mapping.params({"lr": 2, "learning_rate": ABSENT}) == {"lr": 2}


def test_only_numbers_are_scaled() -> None:
    mapping = RunMapping(scale={"lr": 0.01})
    assert mapping.params({"lr": "29"}) == {"lr": 0.29}
    assert mapping.params({"lr": "None"}) == {"lr": None}
    assert mapping.params({"lr": ABSENT}) == {"lr": ABSENT}
    with pytest.raises(ValueError, match="cannot be scaled: lr = 'auto' is no number"):
        mapping.params({"lr": "auto"})
    assert RunMapping(scale={"n": 1000}).params({"n": "2"}) == {"n": 2000}


@given(st.integers(-(10**6), 10**6), st.sampled_from([0.1, 0.01, 0.001]))
def test_scaling_gives_the_number_a_person_expects(number: int, factor: float) -> None:
    digits = {0.1: 1, 0.01: 2, 0.001: 3}[factor]
    assert scaled(number, factor) == float(f"{number}e-{digits}")


@given(st.floats(allow_nan=False))
def test_no_factor_changes_nothing(number: float) -> None:
    assert scaled(number, 1.0) == number


def test_templates() -> None:
    params, tags = {"dataset": "'cifar'", "n": "3"}, {"team": "x"}
    template = "{experiment}: {param:dataset} {param:n} {tag:team}"
    assert task_name(template, {"experiment": "a"}, params=params, tags=tags) == "a: 'cifar' 3 x"
    assert task_name("plain", {}) == "plain"
    assert task_name("{experiment}", {"experiment": "{tag:team}"}, tags=tags) == "{tag:team}"
    with pytest.raises(ValueError, match="the task cannot be told: the run has no param 'dataset'"):
        task_name("{param:dataset}", {})
    with pytest.raises(ValueError, match="the task cannot be told: the run has no folder"):
        task_name("{folder}", {"experiment": "a"})
    with pytest.raises(ImportFailedError, match="it is empty"):
        check_template(" ")
