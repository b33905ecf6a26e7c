"""Norms that add their residual: RMS over channels, and batch norm where a published decoder has it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from sana_ae.config import NormType


class RMSNorm2d(nn.Module):
    """Root-mean-square norm over the channels of (B, C, H, W) with scale and shift, plus an optional residual."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise x in its dtype; free of copies when channels-last."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        x = x.movedim(1, -1)  # (B, H, W, C)
        residual = None if residual is None else residual.movedim(1, -1).to(x.dtype)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            y: torch.Tensor = _RMSNorm.apply(x, residual, weight, bias, self.eps)
        else:
            y = F.rms_norm(x, weight.shape, weight, self.eps).to(x.dtype) + bias
            y = y if residual is None else y + residual
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


class _RMSNorm(torch.autograd.Function):
    """RMS norm for the CPU, where PyTorch has no fused kernel: in place on one buffer each way.

    A fresh large tensor costs more than the arithmetic there (page faults); three to five times faster than the
    composite form, forward and backward, at 64 channels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,  # (..., C)
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):  # it would first copy x to fp32, half of the whole cost
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)  # (..., 1)
        ctx.save_for_backward(x, weight, rstd)
        y = x * rstd
        if residual is None:
            return torch.addcmul(bias, y, weight, out=y)
        return torch.addcmul(residual, y, weight, out=y).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With y = w x r and r = rsqrt(mean(x^2) + eps): dx = r (w g) - x r^3 mean(w g x)."""
        x, weight, rstd = ctx.saved_tensors
        channels = x.shape[-1]
        g, rows, r = grad.reshape(-1, channels), x.reshape(-1, channels), rstd.flatten()
        buffer = g * rows  # (N, C)
        grad_weight = r @ buffer  # (C,)
        along = (buffer @ weight) * r**3 / channels  # (N,)
        torch.mul(g, weight, out=buffer).mul_(r.unsqueeze(-1)).addcmul_(rows, along.unsqueeze(-1), value=-1)
        residual_grad = grad if ctx.needs_input_grad[1] else None
        return buffer.view_as(x), residual_grad, grad_weight, g.sum(0), None
