"""Where `gated_depthwise` is dispatched; plain PyTorch is its only implementation so far."""

from sana_dit.ops.gated_depthwise.reference import gated_depthwise

__all__ = ["gated_depthwise"]
