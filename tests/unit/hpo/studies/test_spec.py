"""Does the study file say what is wrong with it, where, and what would be right?"""

from __future__ import annotations

import re
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.studies.example import write_study_file
from hpo.studies.spec import Trainer
from hpo.studies.study_file import load_spec, parse_spec

GOOD = """
study: first
task: {name: moons, metric: val_loss, direction: minimize}
trainer:
  model: {class_path: my_models.Net, init_args: {width: 16, eps: 1e-8}}
  max_epochs: 3
space:
  lr: {type: float, low: 1e-5, high: 0.1, log: true}
  layers: {type: int, low: 1, high: 4}
  momentum: {type: float, low: 0.0, high: 0.99, when: {optimizer: [sgd]}}
  optimizer: {type: categorical, choices: [sgd, adam]}
budget: {trials: 12}
"""
CONTENT = {
    "task": {"name": "moons", "metric": "val_loss", "direction": "minimize"},
    "trainer": {"model": "my_models.Net", "max_epochs": 3},
    "space": {"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}},
    "budget": {"trials": 12},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(dedent(text))
    return path


def problems(folder: Path, old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(SpecError) as error:
        load_spec(write(folder, GOOD.replace(old, new)))
    return str(error.value)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    assert spec.study == "first"
    assert spec.trainer.model is not None
    assert spec.trainer.model.init_args == {"width": 16, "eps": 1e-8}  # YAML 1.1 would read 1e-8 as text
    space = spec.search_space()
    assert list(space.distributions).index("optimizer") < list(space.distributions).index("momentum")
    assert not space.is_active("momentum", {"optimizer": "adam"})


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD), trials=3, study="other")
    assert (spec.budget.trials, spec.study) == (3, "other")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_epochs: 3", "max_epoch: 3", ["study.yaml:6", "trainer.max_epoch", "did you mean `max_epochs`?"]),
        ("log: true}", "logg: true}", ["study.yaml:8", "space.lr.logg", "did you mean `log`?"]),
        ("budget: {trials: 12}", "budgets: {trials: 12}", ["study.yaml:12", "budgets", "did you mean `budget`?"]),
        ("low: 1, high: 4", "low: 4, high: 1", ["study.yaml:9", "space.layers", "low = 4 is not below", "swap"]),
        ("low: 1, high: 4", "low: 2, high: 2", ["space.layers", "fixed argument"]),
        ("low: 1e-5", "low: 0", ["study.yaml:8", "space.lr", "log needs low > 0"]),
        ("low: 1e-5", "low: -1", ["space.lr", "log needs low > 0"]),
        ("low: 1e-5", "low: .inf", ["space.lr", "finite"]),
        ("when: {optimizer: [sgd]}", "when: {optimiser: [sgd]}", ["space.momentum.when", "'optimiser'", "optimizer"]),
        ("when: {optimizer: [sgd]}", "when: {optimizer: [lion]}", ["space.momentum.when", "never 'lion'"]),
        ("when: {optimizer: [sgd]}", "when: {momentum: [0.5]}", ["space.momentum.when", "circle"]),
        ("choices: [sgd, adam]", "choices: [sgd, sgd]", ["space.optimizer.choices", "repeat"]),
        ("choices: [sgd, adam]", "choices: []", ["space.optimizer.choices"]),
        ("type: int", "type: integer", ["study.yaml:9", "space.layers", "'integer'", "float, int or categorical"]),
        ("direction: minimize", "direction: min", ["study.yaml:3", "task.direction", "'minimize'"]),
        ("direction: minimize", "direction: [minimize]", ["task.direction"]),
        (", direction: minimize", "", ["task.direction", "is missing", "minimize or maximize"]),
        ("max_epochs: 3", "max_epochs: 0", ["trainer.max_epochs", "greater than or equal to 1"]),
        ("max_epochs: 3", "max_epochs: many", ["trainer.max_epochs", "whole number", "'many'"]),
        ("class_path: my_models.Net", "class_path: Net", ["trainer.model.class_path", "package.module.ClassName"]),
        ("trials: 12", "trials: 0", ["budget.trials"]),
        ("{trials: 12}", "{}", ["budget", "`trials`, `hours`"]),
        ("{trials: 12}", "{hours: .inf}", ["budget.hours", "finite"]),
        ("study: first", 'study: "a\\nb"', ["study.yaml:2", "study", "one line"]),
        ("eps: 1e-8", "since: 2020-01-01", ["trainer.model.init_args", "since", "quotes"]),
        ("low: 1e-5", "low: true", ["space.lr.low", "true is no number"]),
        ("high: 0.1, log: true", "high: 0.1, step: 0.03", ["space.lr", "do not end at 0.1", "high: 0.09001"]),
        ("choices: [sgd, adam]", "choices: [1, true]", ["space.optimizer.choices", "repeat True"]),
        ("choices: [sgd, adam]", "choices: [[1], {}]", ["space.optimizer.choices.0"]),
        ("when: {optimizer: [sgd]}", "when: {}", ["space.momentum.when", "drop `when`"]),
        ("when: {optimizer: [sgd]}", "when: {optimizer: []}", ["space.momentum.when", "drop `when`"]),
        ("type: int, low: 1, high: 4", "", ["space.layers", "needs a `type`"]),
        ("lr: {type: float, low: 1e-5, high: 0.1, log: true}", "lr:", ["study.yaml:8", "space.lr", "mapping"]),
        ("space:\n", "space:\n  lr: {type: float, low: 1, high: 2}\n", ["space.lr stands twice"]),
        ("study: first", "study: [", ["not valid YAML", "line"]),
        ("study: first", "study: &a [*a]", ["study.yaml"]),
        ("study: first", "study: !!python/object/apply:os.system [true]", ["not valid YAML"]),
    ],
)  # fmt: skip
def test_a_wrong_file_names_the_key_and_the_fix(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    message = problems(tmp_path, old, new)
    assert all(part in message for part in expected), message
    assert len(message.splitlines()) <= 3


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("max_epochs: 3", "max_epochs: 0").replace("low: 1e-5", "low: 0")
    with pytest.raises(SpecError) as error:
        load_spec(write(tmp_path, text))
    assert len(str(error.value).splitlines()) == 2


def test_no_file_an_empty_file_and_a_list(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file; `hpo init"):
        load_spec(tmp_path / "nowhere.yaml")
    with pytest.raises(SpecError, match="empty"):
        load_spec(write(tmp_path, ""))
    with pytest.raises(SpecError, match="mapping"):
        load_spec(write(tmp_path, "- a"))


def test_aliases_that_explode_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match="aliases"):
        load_spec(write(tmp_path, "\n".join(lines)))


def test_what_would_take_long_to_check_is_refused_soon(tmp_path: Path) -> None:
    began = time.process_time()
    for text in (
        "a: [" + "1," * 400_000 + "1]",
        "".join(f"k{number}: &a{number} 1\n" for number in range(50_000)),
        "b: &b {x: 1}\na:\n  <<: [" + "*b," * 30_000 + "*b]",
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}}}\n" for i in range(1, 300)),
    ):
        with pytest.raises(SpecError, match=r"at most 20,000|more than 20,000 values"):
            load_spec(write(tmp_path, text))
    many = {f"p{number}": {"type": "float", "low": 0, "high": 1} for number in range(5_000)}
    with pytest.raises(SpecError, match="more than 20,000 values"):
        parse_spec({"study": "s", "space": many})
    assert time.process_time() - began < 2.0  # 0.3 s on a quiet machine; they took 16 s
    few = {"x": {"type": "categorical", "choices": list(range(15_000))}}
    task = {"name": "t", "metric": "loss", "direction": "minimize"}
    parse_spec({"study": "s", "task": task, "space": few, "budget": {"trials": 1}})
    assert time.process_time() - began < 3.0


def test_a_recipe_brings_its_task_space_and_epochs() -> None:
    spec = parse_spec({"trainer": {"recipe": "digits_mlp/odd-even"}, "budget": {"trials": 2}})
    assert spec.task.name == spec.study == "digits_mlp/odd-even"
    assert spec.trainer.max_epochs
    assert "lr" in spec.space


def test_a_recipe_is_told_where_the_users_files_are() -> None:
    def trainer(**section: Any) -> Trainer:
        return parse_spec({"trainer": {"recipe": "mnist_cnn/small", **section}, "budget": {"trials": 2}}).trainer

    given = trainer(data={"init_args": {"folder": "~/mnist"}}).data
    assert given is not None
    assert (given.class_path, given.init_args) == ("trainers.recipes.mnist.MNIST", {"folder": "~/mnist"})
    advice = r"recipe mnist_cnn needs to know `folder`; e.g. data: \{init_args: \{folder: data/mnist\}\}"
    for section in ({}, {"data": {"init_args": {}}}):
        with pytest.raises(SpecError, match=advice):
            trainer(**section)
    with pytest.raises(SpecError, match="a recipe brings its own data"):
        trainer(data={"class_path": "my.module.Data", "init_args": {"folder": "~/mnist"}})


def test_folds_go_with_pruners_that_compare_trials_of_the_study() -> None:
    def folded(pruner: str, **trainer: Any) -> Trainer:
        section = {"recipe": "wine_mlp", "folds": 5, **trainer}
        return parse_spec({"trainer": section, "budget": {"trials": 2}, "pruner": pruner}).trainer

    assert folded("median").folds == 5
    with pytest.raises(SpecError, match="pruner: history goes by what trials report after each epoch"):
        folded("history")
    with pytest.raises(SpecError, match="folds"):
        folded("none", folds=0)
    with pytest.raises(SpecError, match="a function divides its own data"):
        folded("none", recipe=None, function="my.module.train")


@pytest.mark.parametrize("recipe", ["nothing/here", "digits_mlp/no-such-task"])
def test_an_unknown_recipe_names_those_there_are(recipe: str) -> None:
    with pytest.raises(SpecError, match=r"trainer\.recipe.*(digits_mlp|odd-even)"):
        parse_spec({"trainer": {"recipe": recipe}, "budget": {"trials": 2}})


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "digits_mlp/all", "model": None, "data": None},
        {"recipe": "wine_mlp/all", "model": None, "data": None},
        {"recipe": "digits_mlp/all", "model": "my.module.Net", "data": None},
        {"recipe": "digits_mlp/all", "model": "my.module.Net", "data": "my.module.Data"},
    ],
)
def test_what_init_writes_is_valid(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "study.yaml"
    write_study_file(path, force=False, **options)
    spec = load_spec(path)
    assert spec.budget.trials == 30


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("auto", {"rule": "auto"}),
        ("gain=0.002", {"rule": "gain", "gain": 0.002}),
        ({"gain": 0.002}, {"rule": "gain", "gain": 0.002}),
        ("cost", {"rule": "cost"}),
        ({"price_per_hour": 2, "worth": 4000}, {"rule": "cost", "price_per_hour": 2.0, "worth": 4000.0}),
        (False, None),
        ("none", None),
    ],
)
def test_when_to_stop_is_said_in_short_or_in_full(written, meant):
    assert parse_spec({**CONTENT, "stop": written}).model_dump(exclude_defaults=True).get("stop") == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("gane=1", "stop.rule: 'gane' is not one of"),
        ("gain", "as in `stop: gain=0.002`"),
        ("gain=0", "stop.gain"),
        ({"price_per_hour": 2}, "go together"),
        ({"rule": "auto", "gain": 1}, "a gain goes with the rule `gain`"),
        ({"rule": "auto", "price_per_hour": 1, "worth": 1}, "go with the rule `cost`"),
        ({}, "none, auto, gain or cost"),
    ],
)
def test_a_stop_that_makes_no_sense_is_refused(written, said):
    with pytest.raises(SpecError, match=said):
        parse_spec({**CONTENT, "stop": written})


def test_the_command_line_keeps_the_prices_of_the_file():
    priced = {**CONTENT, "stop": {"price_per_hour": 2, "worth": 4000}}
    assert parse_spec(priced, stop="cost").stop.worth == 4000
    assert parse_spec(priced, stop="none").stop.rule == "none"
    assert parse_spec(CONTENT, stop="gain=0.1").stop.gain == 0.1


def test_the_pruner_that_learns_promises_a_rate():
    pruner = parse_spec({**CONTENT, "pruner": {"name": "history", "false_prunes": 0.1}}).pruner
    assert (pruner.name, pruner.false_prunes) == ("history", 0.1)
    assert parse_spec({**CONTENT, "pruner": "history"}).pruner.false_prunes is None
    with pytest.raises(SpecError, match="false_prunes is for `history` and `halving`"):
        parse_spec({**CONTENT, "pruner": {"name": "median", "false_prunes": 0.1}})
    with pytest.raises(SpecError, match="false_prunes"):
        parse_spec({**CONTENT, "pruner": {"name": "history", "false_prunes": 1.5}})


@pytest.mark.parametrize(
    "trainer",
    [
        {"cli": "config.yaml"},
        {"cli": {"config": "config.yaml", "class_path": "project.main.MyCLI"}, "model": "m.Net", "data": "m.Data"},
        {"cli": "config.yaml", "max_epochs": 3, "scale_lr": "linear"},
        {"function": "pkg.mod.train", "arguments": {"n": 3}},
        {"model": "m.Net", "max_epochs": 3, "scale_lr": {"rule": "sqrt", "batch": 64}},
    ],
)
def test_each_way_to_say_what_is_trained(trainer: dict[str, Any]) -> None:
    assert parse_spec({**CONTENT, "trainer": trainer})


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"model": "m.Net"}, "max_epochs is missing; e.g. max_epochs: 10"),
        ({"max_epochs": 3}, "say in one way what is trained: `recipe`"),
        ({"cli": "c.yaml", "recipe": "wine_mlp"}, "what is trained, not with `recipe` and `cli` together: `recipe`"),
        ({"function": "m.train", "model": "m.Net"}, "not with `model` and `function` together"),
        ({"function": "train"}, "trainer.function: 'train' is no import path; write `package.module.function`"),
        ({"function": "m.train", "max_epochs": 3}, "`function` trains by itself: remove `data`, `max_epochs`"),
        (
            {"cli": "c.yaml", "model": {"class_path": "m.Net", "init_args": {"a": 1}}},
            "their arguments are in its config",
        ),
        ({"cli": {"config": "c.yaml", "class_path": "CLI"}}, "trainer.cli.class_path: 'CLI' is no import path"),
        ({"cli": {"confg": "c.yaml"}}, "trainer.cli.confg: unknown key; did you mean `config`?"),
        ({"model": "m.Net", "max_epochs": 3, "scale_lr": "cubic"}, "'cubic' is not one of 'none', 'linear' or 'sqrt'"),
    ],
)
def test_ways_that_do_not_go_together(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_spec({**CONTENT, "trainer": trainer})


def test_a_strategy_is_a_name_or_a_mapping() -> None:
    written = [{}, {"strategy": "fsdp"}, {"strategy": {"name": "ddp", "communication": "fp16"}}]
    read = [Trainer(model="m.M", max_epochs=1, **trainer).strategy for trainer in written]
    assert read == [{}, {"name": "fsdp"}, {"name": "ddp", "communication": "fp16"}]


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"strategy": 3}, "trainer.strategy: 3 names no strategy; write e.g. ddp, or"),
        ({"strategy": {"name": 3}}, "name = 3 is no name of a strategy, such as ddp"),
        ({"stall_minutes": 0}, "trainer.stall_minutes: "),
        ({"nodes": 0}, "trainer.nodes: "),
        (
            {"trials_per_device": "all"},
            "trainer.trials_per_device: 'all' is neither a whole number from 1 on nor `auto`",
        ),
        ({"trials_per_device": 0}, "trainer.trials_per_device: 0 is neither"),
        ({"on_out_of_memory": "halve"}, "trainer.on_out_of_memory: 'halve' is not one of 'fail' or 'halve_batch'"),
        (
            {"model": None, "function": "m.train", "on_out_of_memory": "halve_batch"},
            "a function minds its own batch: `on_out_of_memory: halve_batch` is for Lightning modules",
        ),
        ({"report": "step"}, "trainer.report: 'step' is not one of 'epoch' or 'validation'"),
        ({"max_epochs": None}, "max_epochs is missing; e.g. max_epochs: 10, or arguments: {max_steps: 10_000}"),
    ],
)
def test_settings_of_ranks_and_steps_say_what_would_be_right(trainer: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        parse_spec({**CONTENT, "trainer": {**CONTENT["trainer"], **trainer}})


def test_steps_may_take_the_place_of_epochs() -> None:
    trainer = {"model": "m.M", "arguments": {"max_steps": 500, "val_check_interval": 50}, "report": "validation"}
    assert parse_spec({**CONTENT, "trainer": trainer}).trainer.max_epochs is None


def test_what_a_trial_costs_is_its_seconds_or_does_not_count():
    assert parse_spec(CONTENT).cost is None
    assert parse_spec({**CONTENT, "cost": "seconds"}).cost == "seconds"
    with pytest.raises(SpecError, match="cost: 'dollars' is not one of 'seconds'"):
        parse_spec({**CONTENT, "cost": "dollars"})


# Several objectives, and compression


def several(**changes):
    content = {
        "task": {
            "name": "digits",
            "metric": "val_accuracy",
            "direction": "maximize",
            "against": [{"metric": "size_bytes", "direction": "minimize"}],
        },
        "trainer": {"recipe": "digits_cnn", "compress": {"prune": "magnitude", "sparsity": 0.5}},
        "space": {
            "compress.quantize": {"type": "categorical", "choices": ["none", "int8_weight_only"]},
            "compress.sparsity": {"type": "float", "low": 0.0, "high": 0.9},
        },
        "budget": {"trials": 3},
    }
    return {**content, **changes}


def test_a_study_may_have_several_objectives():
    spec = parse_spec(several())
    assert spec.task.metrics == ["val_accuracy", "size_bytes"]
    assert spec.task.directions == ["maximize", "minimize"]
    assert spec.trainer.compress is not None and spec.trainer.compress.sparsity == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pruner": "median"},
            "median stops trials by one metric, and this study has 2 objectives; write `pruner: none`",
        ),
        ({"stop": "auto"}, "the gain that is left is told for one objective"),
        (
            {"space": {"compress.sparsity": {"type": "float", "low": 0.0, "high": 1.0}}},
            "space.compress.sparsity: compress.sparsity = 1 is outside [0, 1)",
        ),
        (
            {"space": {"compress.sparcity": {"type": "float", "low": 0.0, "high": 0.5}}},
            "compress.sparcity is no step; there are",
        ),
        (
            {"space": {"compress.distil.mixing": {"type": "float", "low": 0.0, "high": 1.0}}},
            "names no teacher",
        ),
    ],
)
def test_what_several_objectives_and_compression_exclude(changes, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        parse_spec(several(**changes))


def test_no_metric_is_an_objective_twice():
    content = several()
    content["task"]["against"].append({"metric": "val_accuracy", "direction": "maximize"})
    with pytest.raises(SpecError, match=r"task.against: 'val_accuracy' is an objective already"):
        parse_spec(content)


def test_a_teacher_is_a_trial_or_a_checkpoint():
    def taught(teacher):
        return parse_spec(several(trainer={"recipe": "digits_cnn", "compress": {"distil": {"teacher": teacher}}}))

    assert taught("big#7").trainer.compress.distil.teacher == "big#7"
    by_path = taught("big.ckpt").trainer.compress.distil.teacher
    assert (by_path.checkpoint, by_path.model) == ("big.ckpt", None)
    named = taught({"checkpoint": "big.ckpt", "model": {"class_path": "a.Big", "init_args": {"width": 9}}})
    assert named.trainer.compress.distil.teacher.model.init_args == {"width": 9}


def test_halving_promises_a_rate_and_needs_no_startup_trials():
    assert parse_spec({**CONTENT, "pruner": {"name": "halving", "false_prunes": 0.2}}).pruner.false_prunes == 0.2
    with pytest.raises(SpecError, match="startup_trials is not for `halving`"):
        parse_spec({**CONTENT, "pruner": {"name": "halving", "startup_trials": 3}})


def test_a_study_that_is_asked_by_programs_has_no_trainer() -> None:
    content = {key: value for key, value in CONTENT.items() if key != "trainer"}
    spec = parse_spec(content)
    assert spec.trainer is None
    assert parse_spec(spec.model_dump(mode="json", exclude_defaults=True)) == spec
    with pytest.raises(SpecError, match=r"has no `trainer`: its trials are asked for, and trained, by programs"):
        spec.training  # noqa: B018
