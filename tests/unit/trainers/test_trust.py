"""Is nothing unpickled that another machine has sent?"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from trainers.job import BEST_CHECKPOINT, UPLOADED_CHECKPOINT
from trainers.trust import CheckpointError, may_be_read_as_weights


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_what_was_sent_is_read_as_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = lightning.LightningModule()
    model.layer = torch.nn.Linear(1, 1)
    for name in (BEST_CHECKPOINT, UPLOADED_CHECKPOINT):
        torch.save({"state_dict": model.state_dict()}, tmp_path / name)
        assert may_be_read_as_weights(tmp_path / name, model) is True
        torch.save({"state_dict": model.state_dict(), "hyper_parameters": Evil()}, tmp_path / name)
    with pytest.raises(CheckpointError, match="was sent by another machine"):
        may_be_read_as_weights(tmp_path / UPLOADED_CHECKPOINT, model)
    (tmp_path / UPLOADED_CHECKPOINT).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        may_be_read_as_weights(tmp_path / UPLOADED_CHECKPOINT, model)
    assert not Path("was-run").exists()
    assert may_be_read_as_weights(tmp_path / BEST_CHECKPOINT, model) is False  # our own: it may hold objects
    assert Path("was-run").exists()
