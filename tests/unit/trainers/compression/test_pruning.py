import pytest
import torch
from torch import nn

from trainers.compression.pruning import compress, make_permanent, prune_channels, prune_smallest, schedule, sparsity_of
from trainers.compression.settings import Compression


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 12), nn.Linear(12, 10)
    )


def test_the_schedule_is_cubic_and_ends_at_the_target():
    assert schedule(0.8, 1) == [0.8]
    assert schedule(0.8, 2) == pytest.approx([0.8 * (1 - 1 / 8), 0.8])
    assert schedule(0.9, 3) == pytest.approx([0.9 * (1 - 8 / 27), 0.9 * (1 - 1 / 27), 0.9])


def test_the_smallest_weights_of_all_layers_together_become_zero():
    model = convolutional()
    before = torch.cat([layer.weight.detach().flatten() for layer in model if hasattr(layer, "weight")])
    threshold = before.abs().sort().values[round(0.7 * len(before))]
    prune_smallest(model, 0.7)
    make_permanent(model)
    after = torch.cat([layer.weight.detach().flatten() for layer in model if hasattr(layer, "weight")])
    assert sparsity_of(model) == pytest.approx(0.7, abs=1e-4)
    assert torch.equal(after, torch.where(before.abs() < threshold, 0.0, before))


def test_each_step_reaches_its_sparsity_and_is_trained_and_zeros_stay_zero():
    model, seen = convolutional(), []

    def finetune(model):
        seen.append(sparsity_of(model))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(2, 1, 8, 8)).pow(2).sum().backward()
            optimizer.step()
        assert sparsity_of(model) == seen[-1]

    compress(model, Compression(sparsity=0.9, schedule_steps=3), finetune)
    assert seen == pytest.approx(schedule(0.9, 3), abs=1e-3)
    assert sparsity_of(model) == pytest.approx(0.9, abs=1e-3)
    assert {name for name, _ in model.named_buffers()} == set()
    assert "0.weight" in model.state_dict()


def test_whole_channels_go_with_their_biases_but_not_those_of_the_answer():
    model = convolutional()
    norms = model[2].weight.detach().flatten(1).norm(dim=1)
    for sparsity in (0.25, 0.5):
        prune_channels(model, sparsity)
    make_permanent(model)
    zero = (model[2].weight.flatten(1) == 0).all(dim=1)
    assert set(zero.nonzero().flatten().tolist()) == set(norms.argsort()[:8].tolist())
    assert (model[2].bias[zero] == 0).all() and (model[2].bias[~zero] != 0).all()
    assert int((model[0].weight.flatten(1) == 0).all(dim=1).sum()) == 4
    assert (model[5].weight != 0).all()


def test_a_layer_keeps_one_channel_at_least():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    prune_channels(model, 0.99)
    assert int((model[0].weight != 0).any(dim=1).sum()) == 1


def test_what_cannot_be_pruned_is_said():
    with pytest.raises(ValueError, match="neither a linear nor a convolutional layer"):
        prune_smallest(nn.ReLU(), 0.5)
    with pytest.raises(ValueError, match="before its last"):
        prune_channels(nn.Linear(3, 3), 0.5)
