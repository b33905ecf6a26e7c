"""Stochastic rounding to bfloat16, by random bits that belong to a step and an element and to no generator's state."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

_Number = TypeVar("_Number", int, Tensor)
_LOW_16_BITS = 0xFFFF
_LOW_32_BITS = 0xFFFFFFFF


class Noise(NamedTuple):
    """Names the random bits of a run of elements: those of element i of the chunk are hashed from key and first + i.

    `first` counts over the whole tensor, so that the bits do not depend on how it is sharded or cut into chunks.
    """

    key: int
    first: int


def noise_key(*numbers: int) -> int:
    """A 32-bit key that changes with each of `numbers`."""
    key = 0
    for number in numbers:
        key = _hash((key + number + 1) & _LOW_32_BITS)
    return key


def round_to_bfloat16(values: Tensor, noise: Noise) -> Tensor:
    """Round float32 `values` up or down at random, so that the mean is the value; infinities and NaN stay."""
    index = torch.arange(noise.first, noise.first + values.numel(), device=values.device)
    bits = _hash((index + noise.key) & _LOW_32_BITS) & _LOW_16_BITS
    shifted = values.contiguous().view(torch.int32) + bits.to(torch.int32).view(values.shape)
    rounded = (shifted & ~_LOW_16_BITS).view(torch.float32)
    return torch.where(values.isnan(), values, rounded).to(torch.bfloat16)  # CUDA's NaN, 0x7FFFFFFF, would overflow


def _hash(x: _Number) -> _Number:
    """A bijection of 32-bit numbers whose every output bit depends on every input bit; products stay below 2^63."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _LOW_32_BITS
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _LOW_32_BITS
    return x ^ (x >> 15)
