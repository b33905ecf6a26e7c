"""The operations a fused kernel can take over, as functions of tensors."""

from sana_dit.ops.gated_depthwise import gated_depthwise
from sana_dit.ops.gated_residual import gated_residual
from sana_dit.ops.implementation import use
from sana_dit.ops.linear_attention import linear_attention
from sana_dit.ops.modulated_norm import modulated_norm
from sana_dit.ops.rms_norm import rms_norm

__all__ = [
    "gated_depthwise",
    "gated_residual",
    "linear_attention",
    "modulated_norm",
    "rms_norm",
    "use",
]
