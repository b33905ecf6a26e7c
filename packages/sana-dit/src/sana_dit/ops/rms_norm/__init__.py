"""Where `rms_norm` is dispatched; plain PyTorch is its only implementation so far."""

from sana_dit.ops.rms_norm.reference import rms_norm

__all__ = ["rms_norm"]
