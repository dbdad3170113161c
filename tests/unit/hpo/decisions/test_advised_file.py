"""Does a study file take advice and stay what it was otherwise?"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hpo.decisions.advised_file import advised_file
from hpo.errors import SettingsError
from hpo.spaces.space import SearchSpace
from hpo.studies.study_file import load_spec

FILE = """\
# mine
task: {name: a, metric: loss, direction: minimize}   # what
trainer: {model: their.Model, max_epochs: 1}
space:
  lr: {type: float, low: 1e-5, high: 0.1, log: true}   # the rate
  layers:        # how many
    type: int
    low: 1
    high: 9      # not more
  optimizer:
    type: categorical
    choices: [sgd, adam, "1e-3"]
  own: {type: float, low: 0, high: 1}
budget: {trials: 3}
"""
SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 9},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam", "1e-3"]},
    "gone": {"type": "float", "low": 0, "high": 1},
}
LIKELY = {"lr": (2e-4, 1e-2), "layers": (2, 4), "optimizer": ("sgd", "1e-3"), "gone": (0.1, 0.2)}


def advice(likely=LIKELY, space=SPACE, hardly=()):
    distributions = SearchSpace.from_json(space).distributions
    regions = [
        SimpleNamespace(name=name, distribution=distributions[name], likely=of, hardly_matters=name in hardly)
        for name, of in likely.items()
    ]
    return SimpleNamespace(regions=regions)


def written(tmp_path, text=FILE, *, hard=False, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(text, newline="")
    file = advised_file(path, advice(**changes).regions, hard=hard)
    assert path.read_text() == text.replace("\r\n", "\n")
    file.write()
    return file


def test_soft_advice_keeps_comments_and_everything_else(tmp_path):
    file = written(tmp_path)
    likely = load_spec(file.path).search_space().likely
    assert likely == {name: LIKELY[name] for name in ("lr", "layers", "optimizer")}
    assert "likely: [0.0002, 0.01]}   # the rate\n" in file.text
    assert "    high: 9      # not more\n    likely: [2, 4]\n" in file.text
    assert '    choices: [sgd, adam, "1e-3"]\n    likely: [sgd, "1e-3"]\n' in file.text
    lines = set(file.text.splitlines())
    assert [line for line in FILE.splitlines() if line not in lines] == [FILE.splitlines()[4]]
    assert file.left == {"own": "the past has not searched it"}
    assert sum(line.startswith("+") for line in file.diff) == 3
    assert sum(line.startswith("-") for line in file.diff) == 1


def test_advice_is_renewed(tmp_path):
    first = written(tmp_path)
    again = written(tmp_path, first.text, likely={"lr": (1e-3, 2e-2)})
    assert load_spec(again.path).search_space().likely["lr"] == (1e-3, 2e-2)
    assert again.text.count("likely") == first.text.count("likely")
    assert written(tmp_path, again.text, likely={"lr": (1e-3, 2e-2)}).diff == ()


def test_hard_advice_narrows_ranges_and_what_was_likely(tmp_path):
    file = written(tmp_path, written(tmp_path).text, hard=True, likely={**LIKELY, "lr": (1e-3, 1e-2)})
    space = load_spec(file.path).search_space()
    assert (space.distributions["lr"].low, space.distributions["lr"].high) == (1e-3, 1e-2)
    assert (space.distributions["layers"].low, space.distributions["layers"].high) == (2, 4)
    assert space.distributions["optimizer"].choices == ("sgd", "1e-3")
    assert space.likely["lr"] == (1e-3, 1e-2)
    assert "# not more" in file.text


def test_steps_stay_steps(tmp_path):
    text = FILE.replace("own: {type: float, low: 0, high: 1}", "own: {type: float, low: 0, high: 1, step: 0.25}")
    space = {"own": {"type": "float", "low": 0, "high": 1}}
    file = written(tmp_path, text, hard=True, likely={"own": (0.3, 0.6)}, space=space)
    own = load_spec(file.path).search_space().distributions["own"]
    assert (own.low, own.high, own.step) == (0.25, 0.75, 0.25)


@pytest.mark.parametrize(
    ("likely", "hardly", "reason"),
    [
        ({"lr": (1e-5, 0.1)}, (), "nothing can be left out"),
        ({"lr": (1e-7, 1e-6)}, (), "lies outside of its range"),
        ({"optimizer": ("rmsprop",)}, (), "none of the advised choices is here"),
        ({"lr": (1e-4, 1e-3)}, ("lr",), "nearly every value"),
    ],
)
def test_what_cannot_be_said_stays(tmp_path, likely, hardly, reason):
    file = written(tmp_path, likely=likely, hardly=hardly)
    assert file.text == FILE
    assert reason in file.left[next(iter(likely))]


def test_another_type_stays(tmp_path):
    space = {"lr": {"type": "int", "low": 1, "high": 9}}
    assert (
        "it is 1e-05 … 0.1 (log) here and was 1 … 9" in written(tmp_path, likely={"lr": (2, 3)}, space=space).left["lr"]
    )


def test_line_ends_stay(tmp_path):
    file = written(tmp_path, FILE.replace("\n", "\r\n"))
    assert file.path.read_bytes().count(b"\r\n") == file.path.read_bytes().count(b"\n") > 14


def test_block_lists_of_choices(tmp_path):
    text = FILE.replace('choices: [sgd, adam, "1e-3"]', "choices:\n      - sgd\n      - adam")
    file = written(tmp_path, text, likely={"optimizer": ("sgd",)})
    assert load_spec(file.path).search_space().likely == {"optimizer": ("sgd",)}
    with pytest.raises(SettingsError, match=r"study.yaml:\d+: space.optimizer: write this list on one line"):
        written(tmp_path, text, hard=True, likely={"optimizer": ("sgd",)})


def test_a_condition_on_a_choice_that_would_go_is_told(tmp_path):
    text = FILE.replace("high: 1}\nbudget", "high: 1, when: {optimizer: adam}}\nbudget")
    with pytest.raises(SettingsError, match=r"the advice does not fit this file, which stays as it is:\n.*study.yaml"):
        written(tmp_path, text, hard=True)


def test_a_recipe_brings_its_space(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("trainer: {recipe: digits_mlp/all}\nbudget: {trials: 1}\n")
    with pytest.raises(SettingsError, match="no `space` of its own"):
        advised_file(path, advice().regions, hard=False)


MACRO = """\
task: {name: a, metric: loss, direction: minimize}
trainer: {model: their.Model, max_epochs: 1}
space:
  optimizer:
    type: optimizer   # the usual ones
  optimizer.lion.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
budget: {trials: 3}
"""


def test_optimizers_by_name_take_advice_where_they_stand_in_the_file(tmp_path):
    space = load_spec_text(tmp_path, MACRO)
    likely = {"optimizer": ("adamw",), "optimizer.lion.lr": (2e-4, 1e-3), "optimizer.adamw.lr": (1e-4, 1e-2)}
    file = written(tmp_path, MACRO, likely=likely, space=space)
    found = load_spec(file.path).search_space().likely
    assert found == {name: likely[name] for name in ("optimizer", "optimizer.lion.lr")}
    assert file.left["optimizer.adamw.lr"].startswith("it comes with `optimizer`; write its range into the file")
    hard = written(tmp_path, MACRO, hard=True, likely=likely, space=space)
    assert list(hard.changed) == ["optimizer.lion.lr"]
    assert hard.left["optimizer"].startswith("its choices are the usual ones; write them into the file")


def load_spec_text(folder, text):
    path = folder / "space.yaml"
    path.write_text(text)
    return load_spec(path).space_json()
