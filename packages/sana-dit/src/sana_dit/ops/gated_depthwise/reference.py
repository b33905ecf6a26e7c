"""The middle of Mix-FFN in plain PyTorch: SiLU, 3x3 depthwise convolution, SiLU gate (SANA, section 2.2)."""

from torch import Tensor
from torch.nn import functional as F


def gated_depthwise(u: Tensor, weight: Tensor, bias: Tensor, *, height: int, width: int) -> Tensor:
    """Returns value * silu(gate), (B, N, F), where (value, gate) = depthwise3x3(silu(u)) on the token grid.

    Args:
        u: Tokens before their SiLU (B, N, 2F), N = height * width.
        weight: Kernels (2F, 1, 3, 3); the grid is padded with zeros.
        bias: (2F,).
        height: Rows of the token grid.
        width: Columns of the token grid.
    """
    u = F.silu(u).reshape(u.shape[0], height, width, u.shape[2])  # (B, h, w, 2F)
    u = u.permute(0, 3, 1, 2)  # (B, 2F, h, w), channels last in memory
    u = F.conv2d(u, weight, bias, padding=1, groups=u.shape[1])  # (B, 2F, h, w)
    value, gate = u.permute(0, 2, 3, 1).flatten(1, 2).chunk(2, dim=2)  # 2 x (B, N, F)
    return F.silu(gate).mul_(value)
