"""A residual behind a gate (adaLN, DiT section 3.2): fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_dit.ops.gated_residual import reference
from sana_dit.ops.implementation import can_fuse

__all__ = ["gated_residual"]


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Returns x + gate * y for tokens x and y (B, N, D) and a gate (B, D) or (B, 1, D)."""
    if can_fuse(x, y, gate) and x.shape == y.shape:
        from sana_dit.ops.gated_residual import fused

        return fused.gated_residual(x, y, gate)
    return reference.gated_residual(x, y, gate)
