import pytest
import torch
from torch import nn

from trainers.compression.hashing import HashedLinear, hash_layers
from trainers.compression.layers import weighted_layers


def test_the_gradient_of_a_shared_parameter_is_the_sum_over_its_places():
    torch.manual_seed(0)
    layer = HashedLinear(6, 5, 4)
    inputs, targets = torch.randn(3, 6), torch.randn(3, 5)
    (layer(inputs) * targets).sum().backward()
    of_weights = targets.T @ inputs  # of an ordinary layer's weights
    expected = torch.zeros(4)
    for i in range(5):
        for j in range(6):
            expected[layer.index[i, j]] += layer.sign[i, j] * of_weights[i, j]
    torch.testing.assert_close(layer.shared.grad, expected)
    torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T + layer.bias)


def test_buckets_and_signs_are_even_and_independent():
    layer = HashedLinear(200, 200, 16)
    counts = torch.bincount(layer.index.flatten(), minlength=16)
    assert (counts - 2500).abs().max() < 5 * (40_000 / 16) ** 0.5  # five standard errors
    for bucket in range(16):
        assert layer.sign[layer.index == bucket].mean().abs() < 5 / 50


def test_the_hash_is_the_same_everywhere():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]  # of SplitMix64
    layer = HashedLinear(2, 2, 3)
    assert layer.index.flatten().tolist() == [(each >> 1) % 3 for each in published]
    assert layer.sign.flatten().tolist() == [1.0 if each & 1 else -1.0 for each in published]
    first, second = HashedLinear(30, 20, 10), HashedLinear(30, 20, 10)
    assert torch.equal(first.index, second.index) and torch.equal(first.sign, second.sign)
    assert not torch.equal(first.index, HashedLinear(30, 20, 10, seed=1).index)


def test_the_parameters_of_a_model_shrink_by_the_ratio():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 100), nn.ReLU(), nn.Linear(100, 10))
    convolution = model[0].weight
    hash_layers(model, 1 / 8)
    assert [type(layer) for _, layer, _ in weighted_layers(model)] == [nn.Conv2d, HashedLinear, HashedLinear]
    assert model[0].weight is convolution
    assert (model[2].shared.numel(), model[4].shared.numel()) == (900, 125)
    assert sum(each.numel() for each in model.parameters()) == 20 + 900 + 100 + 125 + 10
    assert "2.index" not in model.state_dict()  # hashed anew, not stored
    assert model(torch.ones(5, 1, 8, 8)).shape == (5, 10)


def test_a_hashed_model_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))
    hash_layers(model, 0.2)
    inputs = torch.rand(256, 2)
    targets = (inputs[:, :1] - inputs[:, 1:]).sign()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).pow(2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # the mean square is 1


def test_what_cannot_be_hashed_is_said():
    with pytest.raises(ValueError, match="no linear layer"):
        hash_layers(nn.Sequential(nn.Conv2d(1, 1, 1)), 0.5)
    with pytest.raises(ValueError, match="0 parameters cannot be shared by 6 weights"):
        HashedLinear(2, 3, 0)
