"""Mix-FFN on tokens against the convolutions it stands for."""

import torch
from torch import nn
from torch.nn import functional as F

from sana_dit.mix_ffn import GLUMBConv


def test_equals_convolutions_on_the_grid(tiny_config):
    ffn = GLUMBConv(tiny_config)
    x = torch.randn(2, 15, 128)
    grid = x.transpose(1, 2).reshape(2, 128, 3, 5)
    grid = F.silu(F.conv2d(grid, ffn.inverted.weight[:, :, None, None], ffn.inverted.bias))
    grid = F.conv2d(grid, ffn.depthwise.weight, ffn.depthwise.bias, padding=1, groups=640)
    value, gate = grid.chunk(2, dim=1)
    grid = F.conv2d(value * F.silu(gate), ffn.point.weight[:, :, None, None])
    torch.testing.assert_close(ffn(x, height=3, width=5), grid.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_widths_follow_the_ratio(tiny_config):
    ffn = GLUMBConv(tiny_config)
    assert ffn.inverted.weight.shape == (640, 128)
    assert ffn.depthwise.weight.shape == (640, 1, 3, 3)
    assert ffn.point.weight.shape == (128, 320)
    assert ffn.point.bias is None
    assert isinstance(ffn.inverted, nn.Linear)
