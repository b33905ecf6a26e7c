"""RMS norm (Zhang and Sennrich 2019): fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_dit.ops.implementation import can_fuse
from sana_dit.ops.rms_norm import reference
from sana_dit.ops.tiles import MAX_ROW

__all__ = ["rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """Returns x / sqrt(mean(x^2) + eps) * weight over the last dimension, in the dtype of x.

    Computed in float32, or in float64 if x is.
    """
    if can_fuse(x, weight) and weight.shape == x.shape[-1:] and x.shape[-1] <= MAX_ROW:
        from sana_dit.ops.rms_norm import fused

        return fused.rms_norm(x, weight, eps=eps)
    return reference.rms_norm(x, weight, eps=eps)
