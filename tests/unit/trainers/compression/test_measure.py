import time

import numpy as np
import pytest
import torch
from torch import nn

from trainers.compression.measure import _latency, count_parameters, latencies, loaded, packed_bytes, size_bytes


def test_noise_takes_its_bytes_and_zeros_next_to_none():
    torch.manual_seed(0)
    noise = torch.randn(100_000)
    sparse = torch.where(torch.rand(100_000) < 0.9, 0.0, noise)
    assert 0.9 * 400_000 < size_bytes({"w": noise}) < 400_000
    assert size_bytes({"w": sparse}) < 0.2 * size_bytes({"w": noise})
    assert size_bytes({"w": torch.zeros(100_000)}) < 5_000
    assert size_bytes({"w": (noise * 30).to(torch.int8)}) < 0.26 * size_bytes({"w": noise})


def test_the_same_content_gives_the_same_bytes_and_comes_back():
    content = {"state_dict": {"w": torch.arange(5)}, "kind": "int8"}
    data = packed_bytes(content)
    assert packed_bytes(content) == data
    back = loaded(data)
    assert back["kind"] == "int8" and torch.equal(back["state_dict"]["w"], torch.arange(5))


def test_nothing_but_data_is_loaded():
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        loaded(packed_bytes({"w": nn.Linear(1, 1)}))


def test_parameters_are_counted():
    model = nn.Linear(3, 2)
    model.weight.data[0] = 0.0
    assert count_parameters(model) == (8, 5)


def test_the_slower_call_is_slower_and_intervals_hold_the_median():
    found = latencies({"1 ms": lambda: time.sleep(0.001), "20 ms": lambda: time.sleep(0.02)}, rounds=15)
    for name, least in (("1 ms", 1.0), ("20 ms", 20.0)):
        low, high = found[name].interval95
        assert least <= low <= found[name].milliseconds <= high
    assert found["1 ms"].milliseconds < found["20 ms"].milliseconds


def test_an_interval_of_the_median_covers():
    rng, held = np.random.default_rng(0), 0
    for _ in range(1_000):
        low, high = _latency(np.sort(rng.exponential(size=40))).interval95
        held += low <= np.log(2.0) <= high
    assert 0.94 <= held / 1_000 <= 0.99  # 95% at least: order statistics come in steps
