"""Layer norm with adaptive shift and scale (adaLN, DiT section 3.2): fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_dit.ops.implementation import can_fuse
from sana_dit.ops.modulated_norm import reference
from sana_dit.ops.tiles import MAX_ROW

__all__ = ["modulated_norm"]


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Returns layer_norm(x) * (1 + scale) + shift for tokens x (B, N, D); shift and scale (B, D) or (B, 1, D)."""
    if can_fuse(x, shift, scale) and x.shape[-1] <= MAX_ROW:
        from sana_dit.ops.modulated_norm import fused

        return fused.modulated_norm(x, shift, scale, eps=eps)
    return reference.modulated_norm(x, shift, scale, eps=eps)
