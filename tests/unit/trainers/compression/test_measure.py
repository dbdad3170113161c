import time

import pytest
import torch
from torch import nn

from trainers.compression.measure import count_parameters, latencies, loaded, packed_bytes, size_bytes


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


def test_the_slower_call_is_slower_and_its_interval_holds():
    found = latencies({"1 ms": lambda: time.sleep(0.001), "3 ms": lambda: time.sleep(0.003)}, rounds=15)
    for name, least in (("1 ms", 1.0), ("3 ms", 3.0)):
        low, high = found[name].interval95
        assert least <= low <= found[name].milliseconds <= high
    assert found["1 ms"].interval95[1] < found["3 ms"].interval95[0]
