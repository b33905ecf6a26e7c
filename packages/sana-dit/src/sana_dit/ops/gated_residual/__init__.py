"""Where `gated_residual` is dispatched; plain PyTorch is its only implementation so far."""

from sana_dit.ops.gated_residual.reference import gated_residual

__all__ = ["gated_residual"]
