"""The linear layers and the convolution of a block, on tokens; a generator of the caller draws their first values."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from sana_dit.cpu_linear import linear
from sana_dit.initialization import fill_normal, fill_uniform, reset_convolution
from sana_dit.ops import gated_depthwise


class Linear(nn.Linear):
    """`nn.Linear` with a zero bias and Xavier-uniform weights, or N(0, std) ones where `std` is given."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, std: float | None = None):
        self.std = std
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draws the weights anew."""
        if self.std is None:
            bound = math.sqrt(6 / (self.in_features + self.out_features))
            fill_uniform(self.weight, bound, generator)
        else:
            fill_normal(self.weight, self.std, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ConvLinear(Linear):
    """A 1x1 convolution on tokens: `Linear` that starts as PyTorch starts a convolution."""

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draws weights and bias anew, uniform within 1/sqrt(fan in)."""
        reset_convolution(self.weight, self.bias, generator)


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution on tokens, between the SiLU before it and the gate after it."""

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def forward(self, u: Tensor, *, height: int, width: int) -> Tensor:
        """Maps (B, N, 2F) on a grid of height x width tokens to (B, N, F)."""
        return gated_depthwise(u, self.weight, self.bias, height=height, width=width)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draws weights and bias anew, uniform within 1/sqrt(fan in)."""
        reset_convolution(self.weight, self.bias, generator)
