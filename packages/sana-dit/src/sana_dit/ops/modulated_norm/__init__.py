"""Where `modulated_norm` is dispatched; plain PyTorch is its only implementation so far."""

from sana_dit.ops.modulated_norm.reference import modulated_norm

__all__ = ["modulated_norm"]
