"""Resampling: the fast forms against the definitions."""

import pytest
import torch
import torch.nn.functional as F

from sana_ae import resample
from sana_ae.resample import (
    Downsample,
    Upsample,
    average_channels,
    channel_to_space,
    duplicate_channels,
    nearest_then_convolve,
    space_to_channel,
)

CHANNELS = [(24, 12), (24, 24), (24, 48), (24, 96), (24, 32)]


def test_a_transposed_convolution_is_nearest_upsampling_and_a_convolution(relative_error):
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    conv = torch.nn.Conv2d(6, 3, 3, padding=1).double()
    grad = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    inputs = (x, conv.weight, conv.bias)
    fast = nearest_then_convolve(*inputs)
    slow = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert relative_error(fast, slow) < 1e-14
    for a, b in zip(torch.autograd.grad(fast, inputs, grad), torch.autograd.grad(slow, inputs, grad), strict=True):
        assert relative_error(a, b) < 1e-14


@pytest.mark.parametrize(("narrow", "wide"), CHANNELS)
def test_space_to_channel_is_unshuffle_and_average(narrow, wide):
    x = torch.randn(2, narrow, 6, 4).contiguous(memory_format=torch.channels_last)
    y = space_to_channel(x, wide)
    torch.testing.assert_close(y, F.pixel_unshuffle(x, 2).unflatten(1, (wide, -1)).mean(2))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("narrow", "wide"), CHANNELS)
def test_channel_to_space_is_duplicate_and_shuffle(narrow, wide):
    x = torch.randn(2, wide, 3, 2).contiguous(memory_format=torch.channels_last)
    y = channel_to_space(x, narrow)
    torch.testing.assert_close(y, F.pixel_shuffle(x.repeat_interleave(4 * narrow // wide, dim=1), 2), rtol=0, atol=0)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_averaging_undoes_duplication():
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(average_channels(duplicate_channels(x, 12), 4), x)


@pytest.mark.parametrize("kind", ["conv", "pixel_unshuffle"])
def test_without_its_convolution_a_downsampling_is_its_shortcut(kind):
    down = Downsample(8, 16, kind=kind)
    torch.nn.init.zeros_(down.conv.weight)
    torch.nn.init.zeros_(down.conv.bias)
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(down(x), space_to_channel(x, 16))


@pytest.mark.parametrize("kind", ["interpolate", "pixel_shuffle"])
def test_without_its_convolution_an_upsampling_is_its_shortcut(kind):
    up = Upsample(16, 8, kind=kind)
    torch.nn.init.zeros_(up.conv.weight)
    torch.nn.init.zeros_(up.conv.bias)
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(up(x), channel_to_space(x, 8))


def test_the_shuffles_of_other_devices_are_those_of_pytorch_and_stay_channels_last():
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    for ours, theirs in (
        (resample.permuted_shuffle(x), torch.pixel_shuffle(x, 2)),
        (resample.permuted_unshuffle(x), torch.pixel_unshuffle(x, 2)),
    ):
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=torch.channels_last)
