"""Initial weights, drawn with a generator that the caller may own.

Values are drawn in float32 on the generator's device and then copied, so the same seed gives the same weights in
every dtype and on every device.
"""

import math

import torch
from torch import Generator, Tensor


def fill_uniform(parameter: Tensor, bound: float, generator: Generator | None) -> None:
    """Fills the parameter with values uniform in [-bound, bound]."""
    _assign(parameter, _empty_like(parameter, generator).uniform_(-bound, bound, generator=generator))


def fill_normal(parameter: Tensor, std: float, generator: Generator | None) -> None:
    """Fills the parameter with normal values of mean 0."""
    _assign(parameter, _empty_like(parameter, generator).normal_(0, std, generator=generator))


def reset_convolution(weight: Tensor, bias: Tensor | None, generator: Generator | None) -> None:
    """Fills weight and bias uniformly within 1/sqrt(fan in), as PyTorch starts a convolution."""
    bound = 1 / math.sqrt(weight[0].numel())
    fill_uniform(weight, bound, generator)
    if bias is not None:
        fill_uniform(bias, bound, generator)


def _empty_like(parameter: Tensor, generator: Generator | None) -> Tensor:
    device = parameter.device if generator is None else generator.device
    return torch.empty(parameter.shape, dtype=torch.float32, device=device)


def _assign(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)
