"""The operation a fused kernel can take over, as a function of tensors."""

from sana_ae.ops.implementation import use
from sana_ae.ops.rms_norm import rms_norm

__all__ = ["rms_norm", "use"]
