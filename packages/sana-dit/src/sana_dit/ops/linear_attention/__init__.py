"""Where `linear_attention` is dispatched; plain PyTorch is its only implementation so far."""

from sana_dit.ops.linear_attention.reference import linear_attention

__all__ = ["linear_attention"]
