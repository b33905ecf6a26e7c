"""The middle of Mix-FFN (SANA, section 2.2): fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_dit.ops.gated_depthwise import reference
from sana_dit.ops.implementation import can_fuse

__all__ = ["gated_depthwise"]

_OFFSETS = 2**31  # kernels count the elements of a sample in 32 bits


def gated_depthwise(u: Tensor, weight: Tensor, bias: Tensor, *, height: int, width: int) -> Tensor:
    """Returns value * silu(gate), (B, N, F), where (value, gate) = depthwise3x3(silu(u)) on the token grid.

    Args:
        u: Tokens before their SiLU (B, N, 2F), N = height * width.
        weight: Kernels (2F, 1, 3, 3); the grid is padded with zeros.
        bias: (2F,).
        height: Rows of the token grid.
        width: Columns of the token grid.
    """
    fits = u.shape[1] == height * width and u.shape[1] * u.shape[2] < _OFFSETS
    fits = fits and weight.shape == (u.shape[2], 1, 3, 3) and bias.shape == (u.shape[2],) and u.shape[2] % 2 == 0
    if fits and can_fuse(u, weight, bias):
        from sana_dit.ops.gated_depthwise import fused

        return fused.gated_depthwise(u, weight, bias, height=height, width=width)
    return reference.gated_depthwise(u, weight, bias, height=height, width=width)
