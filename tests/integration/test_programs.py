"""Do modules with callbacks and chosen optimizers, and LightningCLI projects, train as their users mean it?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainers.errors import ModelImportError, ParameterMismatchError, TrainerError
from trainers.fitting.fit import completion, fit
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.programs import LightningProgram
from trainers.programs.loading import load_program
from trainers.programs.memory import halve_batch

USER_CODE = Path(__file__).parent / "user_code"
CALLBACKS = "lightning.pytorch.callbacks"
EVERY_EPOCH = {"class_path": f"{CALLBACKS}.LearningRateMonitor", "init_args": {"logging_interval": "epoch"}}
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:jsonargparse._deprecated.JsonargparseDeprecationWarning"),  # Lightning's
]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A fit, and what it told."""

    outcome: Outcome
    epochs: list[dict[str, float]]  # the metrics of each

    def told(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.epochs]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where a test writes its configs, checks and trains."""

    folder: Path

    def write(self, content: Mapping[str, Any]) -> str:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(content)))
        return str(path)

    def load(self, **settings: Any) -> tuple[TrainerConfig, LightningProgram]:
        config = TrainerConfig(**{"accelerator": "cpu", **settings})
        program = load_program(config)
        assert not hasattr(program, "run")
        return config, program  # type: ignore[return-value]

    def module(self, **settings: Any) -> tuple[TrainerConfig, LightningProgram]:
        return self.load(**{"model": "line_project.Net", "data": "line_project.Line", "max_epochs": 2, **settings})

    def check(self, loaded: tuple[TrainerConfig, LightningProgram], names: Collection[str]) -> None:
        config, program = loaded
        program.check(names, completion(config, [], strategy=config.strategy, directory=str(self.folder), slot=0))

    def train(self, loaded: tuple[TrainerConfig, LightningProgram], *, seed: int = 1, **params: Any) -> Trial:
        config, program = loaded
        directory = self.folder / "trial"
        directory.mkdir(exist_ok=True)
        epochs: list[dict[str, float]] = []

        def report(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
            epochs.append(metrics)
            return False

        job = FitJob(params=params, seed=seed, metric="val_loss", direction="minimize", directory=str(directory))
        outcome = fit(program, config, job, slot=0, report=report, pulse=lambda: None)
        return Trial(outcome=outcome, epochs=epochs)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.syspath_prepend(str(USER_CODE))
    monkeypatch.chdir(tmp_path)
    return Desk(folder=tmp_path)


def test_the_users_callbacks_work_beside_ours(desk: Desk, tmp_path: Path) -> None:
    loaded = desk.module(
        max_epochs=20,
        trainer_args={
            "callbacks": [
                {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 2}},
                {
                    "class_path": f"{CALLBACKS}.ModelCheckpoint",
                    "init_args": {"monitor": "val_loss", "filename": "mine"},
                },
                EVERY_EPOCH,
            ]
        },
    )
    desk.check(loaded, ["lr"])
    trial = desk.train(loaded, lr=0.0)  # which never gets better
    assert trial.outcome.epochs == 3
    assert (trial.outcome.best_epoch, trial.outcome.pruned) == (0, False)
    assert trial.told("lr-SGD") == [0.0] * 3  # recorded with the study
    assert list(tmp_path.rglob("mine.ckpt"))
    assert (tmp_path / "trial" / "best.ckpt").is_file()


def test_weights_are_averaged_and_logged_where_the_user_says(desk: Desk, tmp_path: Path) -> None:
    averaging = {"class_path": f"{CALLBACKS}.StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01}}
    loaded = desk.module(
        max_epochs=3,
        trainer_args={"callbacks": averaging, "logger": "CSVLogger", "log_every_n_steps": 1, "profiler": "simple"},
    )
    trial = desk.train(loaded, lr=0.1)
    assert trial.outcome.epochs == 3
    assert [path.is_relative_to(tmp_path / "trial") for path in tmp_path.rglob("metrics.csv")] == [True]


def test_a_chosen_optimizer_schedule_and_scale_take_the_place_of_the_modules(desk: Desk) -> None:
    loaded = desk.module(
        max_epochs=4,
        scale_rule="linear",
        scale_batch=32,
        trainer_args={
            "accumulate_grad_batches": 2,
            "callbacks": EVERY_EPOCH,
        },
    )
    params = {
        "optimizer": "adamw",
        "optimizer.adamw.lr": 0.01,
        "optimizer.adamw.beta2": 0.99,
        "schedule": "step",
        "schedule.step.drops": 1,
        "schedule.step.gamma": 0.5,
    }
    desk.check(loaded, params)
    trial = desk.train(loaded, **params)
    assert trial.told("effective_batch") == [16.0] * 4  # 8 examples, accumulated twice
    assert trial.told("effective_lr") == pytest.approx([0.005] * 4)
    assert trial.told("lr-AdamW") == pytest.approx([0.005, 0.005, 0.0025, 0.0025])


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.1), ("sqrt", 0.05), ("linear", 0.025)])
def test_the_modules_own_optimizer_is_scaled_too(desk: Desk, rule: Any, expected: float) -> None:
    trial = desk.train(desk.module(scale_rule=rule, scale_batch=32), lr=0.1)
    assert trial.told("effective_lr") == pytest.approx([expected] * 2)


def test_batches_that_a_sampler_makes_are_counted(desk: Desk) -> None:
    recipe = {"model": "trainers.recipes.networks.MLP", "data": "trainers.recipes.tables.Wine"}
    trial = desk.train(desk.load(**recipe, max_epochs=1, scale_rule="none"), batch_size=32)
    assert trial.told("effective_batch") == [32.0]


def test_a_schedule_may_be_chosen_for_the_modules_own_optimizer(desk: Desk) -> None:
    loaded = desk.module(trainer_args={"callbacks": EVERY_EPOCH})
    assert desk.train(loaded, lr=0.1, schedule="cosine").told("lr-SGD")[-1] < 0.1
    assert desk.train(loaded, lr=0.1).told("lr-SGD") == pytest.approx([0.1] * 2)


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (
            "Scheduled",
            {"schedule": "cosine"},
            "`configure_optimizers` of Scheduled returns tuple: return the optimizer",
        ),
        (
            "ByHand",
            {"optimizer": "sgd", "optimizer.sgd.lr": 0.1},
            r"ByHand optimizes by hand \(automatic_optimization = False\)",
        ),
        (
            "Net",
            {"optimizer": "adamm", "optimizer.adam.lr": 0.1},
            "there is no optimizer 'adamm'; did you mean 'adam'?",
        ),
        ("Net", {"schedule": "cosinus"}, "there is no schedule 'cosinus'; did you mean 'cosine'?"),
        ("Net", {"schedule": "cosine", "trainer.max_epochs": -1}, "schedule cosine needs to know when training ends"),
    ],
)
def test_a_choice_that_cannot_be_imposed(desk: Desk, model: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        desk.train(desk.module(model=f"line_project.{model}"), **params)


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        ({}, ["optimizer", "optimizer.sgd.beta1"], "optimizer sgd has no option 'beta1'"),
        ({}, ["lr", "optimizer"], "no constructor takes parameter 'optimizer': .* `type: optimizer` for a choice of"),
        ({}, ["optimizer.sgd.lr"], "no constructor takes parameter 'optimizer.sgd.lr'"),
        (
            {"gradient_clip_val": "much"},
            [],
            "trainer.arguments: gradient_clip_val: expected (int or float|float or int) or null, not m",
        ),
        ({"callbacks": [{"class_path": "NoCallback"}]}, [], "callbacks: there is no class 'NoCallback'"),
        ({"logger": {"class_path": "CSVLogger", "init_args": {"nme": 1}}}, [], "Option 'nme' is not accepted"),
        (
            {"limit_train_batches": 1.5},
            [],
            "Lightning makes no Trainer of this study's settings: You have passed inval",
        ),
        ({"default_root_dir": "here"}, [], "each trial has a folder of its own"),
    ],
)
def test_settings_are_refused_at_the_start(
    desk: Desk, arguments: dict[str, Any], names: list[str], message: str
) -> None:
    with pytest.raises(TrainerError, match=message):
        desk.check(desk.module(trainer_args=arguments), names)


PROJECT = {
    "seed_everything": 42,
    "trainer": {
        "max_epochs": 3,
        "enable_checkpointing": False,
        "callbacks": [EVERY_EPOCH],
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "theirs"}},
    },
    "model": {"class_path": "line_project.Net", "init_args": {"lr": 0.1}},
    "data": {"class_path": "line_project.Line", "init_args": {"batch_size": 16}},
    "ckpt_path": None,
}


def test_a_project_trains_with_keys_of_its_config_searched_over(desk: Desk, tmp_path: Path) -> None:
    params = {"model.init_args.lr": 1e-5, "data.init_args.batch_size": 4, "trainer.gradient_clip_val": 1.5}
    loaded = desk.load(cli=desk.write(PROJECT), sample=params)
    desk.check(loaded, params)
    trial = desk.train(loaded, **params)
    assert trial.outcome.epochs == 3  # as its config says
    assert trial.told("lr") == pytest.approx([1e-5] * 3)
    assert trial.told("lr-SGD") == pytest.approx([1e-5] * 3)
    assert list((tmp_path / "theirs").rglob("metrics.csv"))
    checkpoint = tmp_path / "trial" / "best.ckpt"
    assert trial.outcome.checkpoint == str(checkpoint)
    assert checkpoint.is_file()


def test_the_study_file_and_the_trial_win_over_the_config(desk: Desk) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "divergence_threshold": 0.0}}
    loaded = desk.load(cli=desk.write(PROJECT), max_epochs=2)
    assert desk.train(loaded).outcome.epochs == 2
    one_more = desk.load(cli=desk.write(PROJECT), trainer_args={"callbacks": [stopping]})
    trial = desk.train(one_more)
    assert (trial.outcome.epochs, len(trial.told("lr-SGD"))) == (1, 1)  # theirs and the study's
    assert desk.train(loaded, **{"trainer.max_epochs": 1}).outcome.epochs == 1
    weights = [desk.train(loaded, seed=seed).told("weight")[-1] for seed in (1, 1, 2)]
    assert weights[0] == weights[1] != weights[2]  # the trial's seed, not the config's


def test_a_project_with_fixed_classes_links_and_optimizers_of_its_own(desk: Desk) -> None:
    config = {
        "trainer": {"max_epochs": 2, "callbacks": f"{CALLBACKS}.LearningRateMonitor"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}},
        "model": {"lr": 0.3},
    }
    params = {"size": 16, "optimizer.init_args.lr": 0.02, "model.lr": 0.4}
    loaded = desk.load(
        cli=desk.write(config),
        cli_class="line_project.LineCLI",
        model="line_project.Net",
        data="line_project.Line",
        sample=params,
    )
    desk.check(loaded, params)
    with pytest.warns(UserWarning, match="will be overridden by"):  # Lightning's own, of the config's optimizer
        trial = desk.train(loaded, **params)
    assert trial.told("seen") == [16.0] * 2
    assert trial.told("lr") == pytest.approx([0.4] * 2)
    assert trial.told("lr-Adam") == pytest.approx([0.02, 0.01])


def test_half_the_batch_is_made_up_for_where_a_project_accumulates(desk: Desk) -> None:
    _, program = desk.load(cli=desk.write({**PROJECT, "trainer": {**PROJECT["trainer"], "accumulate_grad_batches": 4}}))
    params, _ = halve_batch(program, {"data.init_args.batch_size": 16})
    assert params == {"data.init_args.batch_size": 8, "trainer.accumulate_grad_batches": 8}
    params, _ = halve_batch(program, {"data.init_args.batch_size": 16, "trainer.accumulate_grad_batches": 3})
    assert params["trainer.accumulate_grad_batches"] == 6


def test_a_project_may_search_over_named_optimizers(desk: Desk) -> None:
    params = {"optimizer": "lion", "optimizer.lion.lr": 1e-3, "schedule": "constant", "model.init_args.lr": 0.3}
    loaded = desk.load(cli=desk.write(PROJECT), scale_rule="none", sample=params)
    desk.check(loaded, params)
    trial = desk.train(loaded, **params)
    assert trial.told("lr-Lion") == pytest.approx([1e-3] * 3)
    assert trial.told("effective_batch") == [16.0] * 3


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (
            {},
            {"model.init_args.lrr": 0.1},
            "space.model.init_args.lrr: .*config.yaml: model: line_project.Net: Option 'lrr' is not accepted",
        ),
        ({}, {"model.init_args.lr": "high"}, "config.yaml: model: line_project.Net: lr: expected float, not high"),
        ({}, {"trainer.max_epocs": 2}, "space.trainer.max_epocs: .*config.yaml: there is no key trainer.max_epocs"),
        ({}, {"optimizer": "sgd", "optimizer.sgd.beta1": 0.1}, "optimizer sgd has no option 'beta1'"),
        ({}, {"lr": 0.1}, "config.yaml: there is no key lr"),
        ({"model": {"lr": 0.1}}, {}, "Option 'lr' is not accepted; beside a config without `class_path`, the study's"),
        ({"models": {"lr": 1}}, {}, "trainer.cli: .*config.yaml: Option 'models.lr' is not accepted"),
        ({"ckpt_path": "last.ckpt"}, {}, "config has a ckpt_path, and every trial begins anew"),
        ({"trainer": {"max_epochs": "some"}}, {}, "config.yaml: trainer.max_epochs: expected int or null, not some"),
        ({"model": "line_project.Nett"}, {}, "module 'line_project' has no attribute 'Nett'"),
    ],
)
def test_a_config_is_refused_at_the_start(
    desk: Desk, change: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    loaded = desk.load(cli=desk.write({**PROJECT, **change}), sample=params)
    with pytest.raises(TrainerError, match=message):
        desk.check(loaded, params)


def test_a_cli_of_the_users_must_be_one_that_can_be_told(desk: Desk) -> None:
    with pytest.raises(ModelImportError, match="ClosedCLI must pass on the arguments of LightningCLI"):
        desk.check(desk.load(cli=desk.write(PROJECT), cli_class="line_project.ClosedCLI"), [])
    with pytest.raises(ModelImportError, match=r"'line_project\.Net' is not a LightningCLI"):
        desk.load(cli=desk.write(PROJECT), cli_class="line_project.Net")


def test_a_parameter_mismatch_keeps_its_kind(desk: Desk) -> None:
    with pytest.raises(ParameterMismatchError):
        desk.check(desk.module(), ["height"])
