"""RMS norm over channels with what follows it in DC-AE: fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_ae.config import Activation
from sana_ae.ops.implementation import can_fuse
from sana_ae.ops.rms_norm import reference

__all__ = ["rms_norm"]

_MAX_WIDTH = 2048  # channels: a program holds a pixel in registers at once, and spills from 4096 on


def rms_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    act: Activation | None = None,
    eps: float,
) -> Tensor:
    """Returns act(x / sqrt(mean(x^2) + eps) * weight + bias) + residual over the last dimension, in the dtype of x.

    Args:
        x: Channels-last (..., C).
        weight: Scale (C,).
        bias: Shift (C,).
        residual: Added at the end (..., C), or None.
        act: "silu", "relu", or None for neither.
        eps: Added to the mean square.
    """
    fits = weight.shape == bias.shape == x.shape[-1:] and x.shape[-1] <= _MAX_WIDTH
    operands = (x, weight, bias) if residual is None else (x, weight, bias, residual)
    if fits and (residual is None or residual.shape == x.shape) and can_fuse(*operands):
        from sana_ae.ops.rms_norm import fused

        return fused.rms_norm(x, weight, bias, residual=residual, act=act, eps=eps)
    return reference.rms_norm(x, weight, bias, residual=residual, act=act, eps=eps)
