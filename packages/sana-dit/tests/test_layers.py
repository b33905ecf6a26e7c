"""First values of weights."""

import math

import pytest
import torch

from sana_dit.layers import ConvLinear, DepthwiseConv, Linear

# The standard deviation of n = 64 * 256 draws is off by 1/sqrt(2n) = 0.55 %; five of those.
SPREAD = 0.028


@pytest.mark.parametrize(
    ("make", "std"),
    [
        (lambda: Linear(256, 64), math.sqrt(2 / (256 + 64))),
        (lambda: Linear(256, 64, std=0.02), 0.02),
        (lambda: ConvLinear(256, 64), 1 / math.sqrt(3 * 256)),
        (lambda: DepthwiseConv(2048), 1 / math.sqrt(3 * 9)),
    ],
    ids=["xavier", "normal", "pointwise", "depthwise"],
)
def test_weights_start_with_their_spread(make, std):
    torch.manual_seed(0)
    weight = make().weight
    assert weight.std().item() == pytest.approx(std, rel=SPREAD)
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel())


def test_biases_of_linear_layers_start_at_zero():
    assert not Linear(8, 4).bias.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_seed_gives_the_same_weights_in_every_dtype(dtype):
    layers = [Linear(32, 16), Linear(32, 16).to(dtype)]
    for layer in layers:
        layer.reset_parameters(torch.Generator().manual_seed(3))
    assert torch.equal(layers[0].weight.to(dtype), layers[1].weight)


def test_a_generator_leaves_the_global_one_alone():
    layer = Linear(8, 8)
    state = torch.get_rng_state()
    layer.reset_parameters(torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_on_the_meta_device_draws_nothing():
    state = torch.get_rng_state()
    with torch.device("meta"):
        layer = Linear(8, 8)
    assert layer.weight.is_meta
    assert torch.equal(torch.get_rng_state(), state)
