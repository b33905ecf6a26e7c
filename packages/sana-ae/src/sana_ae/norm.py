"""Norms that add their residual: RMS over channels, and batch norm where a published decoder has it."""

import torch
from torch import nn

from sana_ae.config import Activation, NormType
from sana_ae.ops.rms_norm import rms_norm


class RMSNorm2d(nn.Module):
    """Root-mean-square norm over the channels of (B, C, H, W) with scale and shift, plus an optional residual."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, *, act: Activation | None = None
    ) -> torch.Tensor:
        """Normalise x in its dtype, then `act`, then add; free of copies when channels-last."""
        x = x.movedim(1, -1)  # (B, H, W, C)
        residual = None if residual is None else residual.movedim(1, -1)
        y = rms_norm(x, self.weight, self.bias, residual=residual, act=act, eps=self.eps)
        return y.movedim(-1, 1)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm plus an optional residual."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise x (B, C, H, W)."""
        y = super().forward(x)
        return y if residual is None else y.add_(residual)


def build_norm(kind: NormType, channels: int) -> nn.Module:
    """The norm `kind` names, over `channels`."""
    return RMSNorm2d(channels) if kind == "rms_norm" else BatchNorm2d(channels)
