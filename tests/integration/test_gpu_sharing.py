"""Does `trials_per_device: auto` go by what past trials of the family took, and by the GPUs that the driver lists?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.running.gpu_sharing import trials_per_device
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import parse_spec
from storage.database import Store
from storage.studies import claim_trial, create_study, finish_trial

GIBIBYTE = 2**30


def spec(asked: int | str) -> StudySpec:
    return parse_spec(
        {
            "task": {"name": "moons", "metric": "val_loss", "direction": "minimize"},
            "trainer": {"model": "my_models.Net", "max_epochs": 3, "trials_per_device": asked},
            "space": {"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}},
            "budget": {"trials": 12},
        }
    )


def train(store: Store, study: StudySpec, name: str, *, peak: int) -> None:
    task, space = study.task, study.search_space().to_json()
    study_id = create_study(store, name=name, task=name, metric=task.metric, directions=task.directions, space=space)
    for _ in range(3):
        claim = claim_trial(store, study_id, worker="worker", lease_seconds=60, max_trials=None)
        assert claim is not None
        finish_trial(store, claim, state=TrialState.COMPLETE, value=0.5, peak_memory_bytes=peak)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists one of 80 and one of 24 GiB."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho GPU-1, 81920\necho GPU-2, 24576\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_as_many_as_fit_on_the_smaller_one(store: Store) -> None:
    auto = spec("auto")
    assert trials_per_device(auto, store) == 1  # nothing is known
    train(store, auto, "past", peak=4 * GIBIBYTE)
    assert trials_per_device(auto, store) == 4  # of 4.6 GiB each, in four fifths of 24
    assert trials_per_device(spec(2), store) == 2


def test_without_a_driver_none_is_shared(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = spec("auto")
    train(sqlite_store, auto, "past", peak=GIBIBYTE)
    monkeypatch.setenv("PATH", "/nowhere")
    assert trials_per_device(auto, sqlite_store) == 1
