"""RMS norm with activation and residual in plain PyTorch."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sana_ae.config import Activation


def rms_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    act: Activation | None = None,
    eps: float,
) -> Tensor:
    """Returns act(x / sqrt(mean(x^2) + eps) * weight + bias) + residual over the last dimension, in the dtype of x."""
    if act is None:
        return _normed(x, residual, weight, bias, eps)
    y = _normed(x, None, weight, bias, eps)
    y = (F.silu if act == "silu" else F.relu)(y, inplace=not torch.is_grad_enabled())
    return y if residual is None else (y + residual).to(x.dtype)


def _normed(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        sliced: Tensor = _RMSNorm.apply(x, residual, weight, bias, eps)  # type: ignore[no-untyped-call]
        return sliced
    y = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps).to(x.dtype)
    y = y.add_(bias)
    return y if residual is None else y.add_(residual)


class _RMSNorm(torch.autograd.Function):
    """y = residual + bias + weight x r, r = rsqrt(mean(x^2) + eps), for the CPU, where PyTorch has no fused kernel.

    Works in fp32 on slices that stay in the cache, so every large tensor is read or written once and rounded once:
    three to six times faster than the composite form at 64 to 128 channels, forward and backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., C)
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        y = x.new_empty(x.shape)
        weight, bias = _wide(weight), _wide(bias)
        with torch.autocast("cpu", enabled=False):
            parts = repeat(None) if residual is None else _slices(residual)
            for source, target, part in zip(_slices(x), _slices(y), parts, strict=False):
                rows = _wide(source)
                out = target if target.dtype == rows.dtype else torch.empty_like(rows)
                torch.mul(rows, _inverse_rms(rows, eps), out=out)
                torch.addcmul(bias, out, weight, out=out)
                if part is not None:
                    out.add_(_wide(part))
                target.copy_(out)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With n = x r: dx = r (w g - n mean(w g n)), dw = sum(g n), db = sum(g)."""
        x, weight = ctx.saved_tensors
        grad_x, weight = x.new_empty(x.shape), _wide(weight)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for source, grads, target in zip(_slices(x), _slices(grad), _slices(grad_x), strict=True):
            rows, g = _wide(source), _wide(grads)
            inverse = _inverse_rms(rows, ctx.eps)
            normal = rows * inverse  # (N, C)
            product = g * normal  # (N, C)
            grad_weight += product.sum(0)
            grad_bias += g.sum(0)
            along = (product @ weight).div_(-weight.shape[0]).unsqueeze(-1)  # (N, 1)
            target.copy_(torch.mul(g, weight, out=product).addcmul_(normal, along).mul_(inverse))
        return grad_x, grad if ctx.needs_input_grad[1] else None, grad_weight, grad_bias, None


def _slices(x: Tensor) -> Sequence[Tensor]:
    """The rows of x (..., C) in slices of 2^18 numbers, 1 MB in fp32."""
    channels = x.shape[-1]
    return torch.split(x.reshape(-1, channels), max(1, 2**18 // channels))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse_rms(rows: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # (N, 1)
    return norm.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
