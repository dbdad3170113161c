"""What of a machine may trials have?"""

from __future__ import annotations

import pytest

from hpo.errors import SettingsError
from hpo.worker import devices
from hpo.worker.devices import devices_for
from trainers.devices.gpus import Gpu

GPUS = [Gpu(name="GPU-a", memory_bytes=80 * 2**30), Gpu(name="GPU-b", memory_bytes=None)]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: list(GPUS))


@pytest.mark.usefixtures("gpus")
def test_all_gpus_or_the_first_few() -> None:
    environment: dict[str, str] = {}
    assert devices_for("auto", environment) == (2, ("GPU-a, 80 GiB", "GPU-b"))
    assert environment == {}
    assert devices_for("1", environment) == (1, ("GPU-a, 80 GiB",))
    assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    with pytest.raises(SettingsError, match="--devices 3: this machine has 2"):
        devices_for("3", environment)


def test_without_gpus_they_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", list)
    environment: dict[str, str] = {}
    count, (name,) = devices_for("2", environment)
    assert (count, environment) == (2, {})
    assert "CPU" in name
    for wrong in ("0", "-1", "many", ""):
        with pytest.raises(SettingsError, match="whole number from 1 on, or auto"):
            devices_for(wrong, environment)
