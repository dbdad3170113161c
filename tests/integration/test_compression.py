"""Are trials compressed as the study says, judged by the compressed model, measured, and kept to load again?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.compression.measure import loaded
from trainers.compression.reloading import make_model
from trainers.compression.steps import restore
from trainers.errors import CompressionError
from trainers.executors.local import LocalExecutor
from trainers.fitting.fit import fit
from trainers.job import COMPRESSED_MODEL, Finished, FitJob, Outcome, Reported, TrainerConfig
from trainers.programs.loading import load_program
from trainers.reports import FitError

USER_CODE = Path(__file__).parent / "user_code"
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers, and torchao's on import


@pytest.fixture(autouse=True)
def _user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(USER_CODE))


def make_config(**changes: Any) -> TrainerConfig:
    fields: dict[str, Any] = {"model": "small_models.Small", "data": "small_models.Clouds", "max_epochs": 3}
    return TrainerConfig(**{**fields, "accelerator": "cpu", "python_path": (str(USER_CODE),), **changes})


def make_job(directory: Path, *, against: tuple[str, ...] = (), **params: Any) -> FitJob:
    return FitJob(
        params=params,
        seed=1,
        metric="val_accuracy",
        direction="maximize",
        directory=str(directory),
        against=against,
    )


def run(config: TrainerConfig, job: FitJob, *, prune: bool = False) -> tuple[Outcome, list[dict[str, float]]]:
    """The outcome of a trial, and what it logged in each epoch."""
    told: list[dict[str, float]] = []

    def report(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        told.append(metrics)
        return prune

    return fit(load_program(config), config, job, slot=0, report=report, pulse=lambda: None), told


def test_the_value_is_that_of_the_compressed_model_which_loads_again(tmp_path: Path) -> None:
    config = make_config(compress={"schedule_steps": 2})
    params = {"compress.sparsity": 0.6, "compress.quantize": "int8_weight_only"}
    job = make_job(tmp_path, against=("size_bytes", "n_nonzero_parameters"), **params)
    outcome, told = run(config, job)
    kept, measured = tmp_path / COMPRESSED_MODEL, outcome.measured
    assert outcome.more_values == (kept.stat().st_size, measured["n_nonzero_parameters"])
    assert measured["value_before_compression"] == max(metrics["val_accuracy"] for metrics in told)
    assert measured["size_bytes"] < 0.6 * measured["size_bytes_before"]
    assert measured["n_parameters"] == 2 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4
    weights, biases = 2 * 32 + 32 * 32 + 32 * 4, 32 + 32 + 4
    assert measured["n_nonzero_parameters"] <= round(0.4 * weights) + biases
    assert 0 < measured["latency_ms_low95"] <= measured["latency_ms"] <= measured["latency_ms_high95"]
    again = make_model(load_program(config), config, job)
    again.read(Path(str(outcome.checkpoint)))
    restore(again.model, kept)
    assert again.validate()["val_accuracy"] == outcome.value
    assert set(loaded(kept.read_bytes())["state_dict"]["layers.0.weight"]) == {"int8", "scale"}


def test_without_compression_the_model_is_measured_as_it_is(tmp_path: Path) -> None:
    job = make_job(tmp_path, against=("n_parameters", "val_loss", "epochs"))
    outcome, told = run(make_config(), job)
    assert outcome.value == max(metrics["val_accuracy"] for metrics in told)
    n_parameters, val_loss, epochs = outcome.more_values
    assert (n_parameters, epochs) == (1284.0, 3.0)
    assert val_loss in [pytest.approx(metrics["val_loss"]) for metrics in told]
    assert "size_bytes_before" not in outcome.measured
    assert not (tmp_path / COMPRESSED_MODEL).exists()


def test_nothing_is_measured_where_nothing_is_asked(tmp_path: Path) -> None:
    outcome, _ = run(make_config(), make_job(tmp_path))
    assert outcome.measured == {} and outcome.more_values == ()


def test_an_objective_that_nobody_measures_is_named(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"val_f1 was not measured .* there are: epochs, latency_ms, .* val_accuracy"):
        run(make_config(), make_job(tmp_path, against=("val_f1",)))


def test_a_pruned_trial_is_left_as_it_is(tmp_path: Path) -> None:
    job = make_job(tmp_path, **{"compress.sparsity": 0.5})
    outcome, _ = run(make_config(), job, prune=True)
    assert outcome.pruned and outcome.measured == {}


@pytest.mark.parametrize("model", ["Small", "Late"])
def test_layers_share_their_weights_from_the_first_step(model: str, tmp_path: Path) -> None:
    config = make_config(model=f"small_models.{model}", compress={"hash_ratio": 0.125})
    outcome, _ = run(config, make_job(tmp_path, against=("n_parameters",)))
    assert outcome.more_values == (8 + 32 + 128 + 32 + 16 + 4,)
    assert outcome.value > 0.9
    state = torch.load(str(outcome.checkpoint), weights_only=True)["state_dict"]
    assert state["layers.2.shared"].shape == (128,)
    bare = make_model(load_program(config), config, make_job(tmp_path)).model
    if model == "Small":
        restore(bare, tmp_path / COMPRESSED_MODEL)  # the file tells how its layers are hashed
        assert torch.equal(bare.state_dict()["layers.2.shared"], state["layers.2.shared"])


def test_a_trial_whose_validations_are_further_apart_than_epochs_is_compressed(tmp_path: Path) -> None:
    apart = {"check_val_every_n_epoch": None, "val_check_interval": 6}  # an epoch has 4 batches
    config = make_config(report="validation", trainer_args=apart, compress={"sparsity": 0.5})
    outcome, told = run(config, make_job(tmp_path))
    assert (len(told), outcome.epochs) == (2, 2)
    assert outcome.measured["value_before_compression"] == max(metrics["val_accuracy"] for metrics in told)


def test_int8_kernels_and_channels(tmp_path: Path) -> None:
    params = {"compress.prune": "structured", "compress.sparsity": 0.5, "compress.quantize": "int8_dynamic"}
    outcome, _ = run(make_config(), make_job(tmp_path, **params))
    assert outcome.value > 0.8
    content = loaded((tmp_path / COMPRESSED_MODEL).read_bytes())
    assert content["int8_kernels"]
    assert int((content["state_dict"]["layers.2.weight"]["int8"] == 0).all(dim=1).sum()) == 16


def test_a_student_learns_from_the_checkpoint_of_an_earlier_trial(tmp_path: Path) -> None:
    teacher, _ = run(make_config(), make_job(tmp_path / "teacher", width=64))
    elsewhere = make_config(accelerator="cuda").to_json()
    section = {"checkpoint": teacher.checkpoint, "config": elsewhere, "params": {"width": 64}}
    config = make_config(compress={"distil": {"teacher": section, "temperature": 2.0}}, max_epochs=8)
    outcome, told = run(config, make_job(tmp_path / "student", width=16, **{"compress.distil.mixing": 1.0}))
    lessons = [metrics["distillation_loss"] for metrics in told]
    assert lessons[-1] < 0.5 * lessons[0]
    assert outcome.value > 0.8
    state = torch.load(str(outcome.checkpoint), weights_only=True)["state_dict"]
    assert set(state) == {f"layers.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")}
    ignored, _ = run(config, make_job(tmp_path / "ignored", width=16, **{"compress.distil.mixing": 0.0}))
    alone, _ = run(make_config(max_epochs=8), make_job(tmp_path / "alone", width=16))
    assert ignored.value == alone.value  # a teacher that does not count changes nothing, not even the first weights
    narrow = make_config(compress={"distil": {"teacher": {**section, "params": {"width": 8}}}})
    with pytest.raises(CompressionError, match=r"teacher/best\.ckpt is not used, because it is of another model"):
        run(narrow, make_job(tmp_path / "misled", width=16))


def test_what_a_model_cannot_take_is_said(tmp_path: Path) -> None:
    config = make_config(compress={"distil": {"teacher": {"checkpoint": "gone.ckpt", "config": {}}, "mixing": 2.0}})
    with pytest.raises(CompressionError, match=r"compress\.distil\.mixing = 2 is outside"):
        run(config, make_job(tmp_path))


@pytest.fixture
def two_ranks(warm_templates: None) -> Iterator[LocalExecutor]:
    with LocalExecutor(make_config(devices=2), jobs=1) as executor:
        executor.start(["width", "compress.sparsity"])
        yield executor


def test_a_trial_on_two_devices_is_compressed_by_its_first_rank(two_ranks: LocalExecutor, tmp_path: Path) -> None:
    two_ranks.launch(1, make_job(tmp_path, against=("size_bytes",), **{"compress.sparsity": 0.5}))
    events: list[Any] = []
    while not events or isinstance(events[-1], Reported):
        for event in two_ranks.poll(60.0):
            events.append(event)
            if isinstance(event, Reported):
                two_ranks.answer(1, prune=False)
    assert isinstance(events[-1], Finished), events[-1]
    assert events[-1].outcome.more_values == ((tmp_path / COMPRESSED_MODEL).stat().st_size,)
