import pytest
import torch
from torch import nn

from trainers.compression.hashing import hash_layers
from trainers.compression.measure import loaded, packed_bytes
from trainers.compression.pruning import make_permanent, prune_smallest, sparsity_of
from trainers.compression.quantization import compress, pack, start_rounding, stop_rounding, unpack, use_int8_kernels
from trainers.compression.settings import Compression


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10)
    ).eval()


def never(model):
    raise AssertionError("nothing is to be trained")


def test_a_weight_is_off_by_half_a_unit_of_its_channel_at_most():
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compress(net, Compression(quantize="int8_weight_only"), never)
    for name, value in net.state_dict().items():
        if name in ("0.weight", "3.weight", "5.weight"):
            units = before[name].flatten(1).abs().amax(dim=1) / 127
            error = (value - before[name]).flatten(1).abs().amax(dim=1)
            assert (error <= units / 2 * (1 + 1e-5)).all() and (error > 0).all()
        else:
            assert torch.equal(value, before[name])


def test_what_is_kept_loads_as_the_same_model():
    net, other = model(), model()
    packed = compress(net, Compression(quantize="int8_weight_only"), never)
    assert packed["3.weight"]["int8"].dtype == torch.int8 and packed["3.weight"]["scale"].shape == (16,)
    other.load_state_dict(unpack(loaded(packed_bytes(packed))))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(other(images), net(images))


def test_zeros_stay_zero():
    net = model()
    prune_smallest(net, 0.8)
    make_permanent(net)
    compress(net, Compression(quantize="int8_weight_only"), never)
    assert sparsity_of(net) >= 0.8 - 1e-3
    net[5].weight.data.zero_()
    assert (unpack(pack(net))["5.weight"] == 0).all()


def test_shared_parameters_have_one_scale():
    net = model()
    hash_layers(net, 0.1)
    packed = compress(net, Compression(quantize="int8_weight_only"), never)
    assert packed["3.shared"]["scale"].shape == ()
    assert packed["3.shared"]["int8"].shape == (230,)


def test_a_layer_with_two_names_is_rounded_under_both():
    layer = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": layer, "b": layer})
    packed = compress(net, Compression(quantize="int8_weight_only"), never)
    assert isinstance(packed["b.weight"], dict)
    assert torch.equal(layer.weight, unpack(packed)["a.weight"])


def test_training_with_rounded_weights_moves_the_weights_behind_them():
    net = model()
    hash_layers(net, 0.5)

    def finetune(net):
        weight = net[3].shared
        assert len(weight.unique()) <= 255
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        net(torch.rand(4, 1, 8, 8)).pow(2).sum().backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
        optimizer.step()

    before = net.state_dict().keys()
    compress(net, Compression(quantize="qat"), finetune)
    assert net.state_dict().keys() == before
    assert len(net[0].weight[0].unique()) <= 255


def test_rounding_in_training_is_the_rounding_that_is_kept():
    net = model()
    start_rounding(net)
    images = torch.rand(3, 1, 8, 8)
    in_training = net(images)
    stop_rounding(net)
    net.load_state_dict(unpack(pack(net)))
    torch.testing.assert_close(net(images), in_training)


@pytest.mark.filterwarnings("ignore")  # torchao's own, on import
def test_linear_layers_compute_in_int8():
    net, kept = model(), model()
    use_int8_kernels(net)
    assert type(net[3].weight).__name__ == "Int8Tensor"
    images = torch.rand(3, 1, 8, 8)
    error = (net(images) - kept(images)).abs().max()
    assert 0 < error < 0.05 * kept(images).abs().max()
