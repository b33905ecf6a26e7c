"""RMS norm with activation and residual in one pass over its pixels, with its gradients.

Bytes per element of x in 16 bits: 4 forward, and 2 more for a residual, where plain PyTorch moves at least 12 and 14
(norm, shift, activation and residual are launches of their own); 6 backward, and partial sums: 4 at 32 x 32 pixels of
1024 channels, 1 or less at higher resolutions. Launches: 1 forward and 2 backward.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from sana_ae.ops.launch import Launch
from sana_ae.ops.rms_norm import kernels

_TILE = 2048  # elements of a tile: with 4 warps two loads of 16 bytes a thread, in 16 bits
_PROGRAMS = 256  # at least, of a backward that has so many tiles: 2 for each multiprocessor of an H100


def rms_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, residual: Tensor | None = None, act: str | None = None, eps: float
) -> Tensor:
    """As `reference.rms_norm`, for at most 2048 channels and a residual of the shape of x."""
    out: Tensor = _forward(x, residual, weight, bias, act, eps)
    return out


@torch.library.custom_op("sana_ae::rms_norm", mutates_args=())
def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, act: str | None, eps: float) -> Tensor:
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    out = torch.empty_like(x)
    residual = None if residual is None else residual.contiguous()
    forward_launch(x, residual, weight, bias, out, act=act, eps=eps).run()
    return out


@_forward.register_fake
def _(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, act: str | None, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("sana_ae::rms_norm_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, act: str | None, eps: float
) -> tuple[Tensor, Tensor]:
    grad, x, weight, bias = grad.contiguous(), x.contiguous(), weight.contiguous(), bias.contiguous()
    x_grad, tiles = torch.empty_like(x), _tiles(x)
    steps = max(1, min(64, tiles // _PROGRAMS))
    partials = x.new_empty(ceil(tiles / steps), 2, x.shape[-1], dtype=torch.float32)
    backward_launch(grad, x, weight, bias, x_grad, partials, steps=steps, act=act, eps=eps).run()
    return x_grad, partials.sum(0)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, act: str | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(2, x.shape[-1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, residual, weight, bias, ctx.act, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.residual_dtype = None if residual is None else residual.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    x_grad, (weight_grad, bias_grad) = _backward(grad, x, weight, bias, ctx.act, ctx.eps)
    residual_grad = None if ctx.residual_dtype is None else grad.to(ctx.residual_dtype)
    return x_grad, residual_grad, weight_grad.to(weight.dtype), bias_grad.to(bias.dtype), None, None


_forward.register_autograd(_gradients, setup_context=_save)


def forward_launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, out: Tensor, *, act: str | None, eps: float
) -> Launch:
    """For contiguous operands (..., C)."""
    arguments: dict[str, Any] = {"x": x, "residual": residual, "weight": weight, "bias": bias, "out": out, "eps": eps}
    constants = {"RESIDUAL": residual is not None, "ACT": act}
    return Launch(kernels.forward, (_tiles(x),), arguments | _sizes(x), constants | _constants(x))


def backward_launch(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_grad: Tensor,
    partials: Tensor,
    *,
    steps: int,
    act: str | None,
    eps: float,
) -> Launch:
    """Launch configuration for the same arguments plus partial sums (ceil(tiles / steps), 2, C) in float32."""
    arguments: dict[str, Any] = {"grad": grad, "x": x, "weight": weight, "bias": bias, "x_grad": x_grad}
    arguments |= {"partials": partials, "steps": steps, "eps": eps}
    return Launch(kernels.backward, (len(partials),), arguments | _sizes(x), {"ACT": act} | _constants(x))


def _sizes(x: Tensor) -> dict[str, int]:
    return {"rows": x.numel() // x.shape[-1], "width": x.shape[-1]}


def _constants(x: Tensor) -> dict[str, int]:
    block = max(16, 1 << (x.shape[-1] - 1).bit_length())
    return {"ROWS": _TILE // block, "BLOCK": block, "num_warps": 4}


def _tiles(x: Tensor) -> int:
    return ceil(x.numel() // x.shape[-1] / _constants(x)["ROWS"])
