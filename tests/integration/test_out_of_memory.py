"""Is a trial that runs out of memory tried at half the batch, where the study allows it?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import hpo
from hpo.running.runner import Watcher
from storage.history import get_study, list_trials
from storage.schema import open_store
from tests.integration.test_trainers_local import USER_CODE

pytestmark = pytest.mark.usefixtures("warm_templates")


def study() -> dict[str, Any]:
    """A study whose every configuration has a batch of 32, which is too much for the model."""
    return {
        "study": "halved",
        "task": {"name": "halved", "metric": "val_loss", "direction": "minimize"},
        "trainer": {
            "model": {"class_path": "resumable.Learner", "init_args": {"habit": "needs_memory", "batch_size": 32}},
            "max_epochs": 2,
            "accelerator": "cpu",
            "on_out_of_memory": "halve_batch",
        },
        "space": {"at_epoch": {"type": "int", "low": 1, "high": 9}},
        "budget": {"trials": 1},
    }


def test_it_is_tried_once_more_and_keeps_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(USER_CODE / "resumable.py", tmp_path)
    storage = f"sqlite:///{tmp_path / 'hpo.db'}"
    told: list[str] = []
    watcher = Watcher(notice=told.append)
    done = hpo.tune(study(), storage=storage, mlflow="none", watcher=watcher)
    (trial,) = done.trials
    assert (trial.state.name, list(trial.params)) == ("COMPLETE", ["at_epoch"])
    store = open_store(storage)
    (record,) = list_trials(store, get_study(store, "halved").study_id)
    store.dispose()
    assert record.attempt == 2
    note = "ran with model.batch_size = 16 and accumulate_grad_batches = 2: it had run out of memory"
    assert record.system_attrs["hindsight:notes"] == [note]
    assert told[:1] == ["trial 0 ran out of memory; it is tried once more at half the batch"]
    assert f"trial 0 {note}" in told
