"""RMS norm in one pass over its rows, with its gradients.

Bytes per element of x in 16 bits: 4 forward, where plain PyTorch moves 20 (to float32, norm, cast back); 6 backward,
plus at most 1 of partial sums. Launches: 1 and 3, of which 2 are small.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from sana_dit.ops.launch import Launch
from sana_dit.ops.rms_norm import kernels
from sana_dit.ops.tiles import Tiles, row_block, tiles_of


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """As `reference.rms_norm`, for rows of at most 8192 elements."""
    out: Tensor = _forward(x, weight, eps)
    return out


@torch.library.custom_op("sana_dit::rms_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    forward_launch(x, weight, out, eps=eps, tiles=tiles_of(x.device)).run()
    return out


@_forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def gradients(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradient of x, and of the weight (D,) in float32; `grad` may be wider than x."""
    grad, x, weight, tiles = grad.contiguous(), x.contiguous(), weight.contiguous(), tiles_of(x.device)
    count = x.numel() // x.shape[-1]
    rows = tiles.reduced_rows(count)
    x_grad = torch.empty_like(x)
    partials = x.new_empty(ceil(count / rows), x.shape[-1], dtype=torch.float32)
    backward_launch(grad, x, weight, x_grad, partials, eps=eps, rows=rows, tiles=tiles).run()
    return x_grad, partials.sum(0)


_backward = torch.library.custom_op("sana_dit::rms_norm_backward", gradients, mutates_args=())


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    x_grad, weight_grad = _backward(grad, x, weight, ctx.eps)
    return x_grad, weight_grad.to(weight.dtype), None


_forward.register_autograd(_gradients, setup_context=_save)


def forward_launch(x: Tensor, weight: Tensor, out: Tensor, *, eps: float, tiles: Tiles) -> Launch:
    """For contiguous operands."""
    arguments: dict[str, Any] = {"x": x, "weight": weight, "out": out} | _sizes(x, eps)
    return Launch(kernels.forward, _grid(x, tiles.rows), arguments, _constants(x, tiles.rows, tiles))


def backward_launch(
    grad: Tensor, x: Tensor, weight: Tensor, x_grad: Tensor, partials: Tensor, *, eps: float, rows: int, tiles: Tiles
) -> Launch:
    """Launch configuration for the same arguments plus partial sums (ceil(number of rows / rows), D) in float32."""
    arguments: dict[str, Any] = {
        "grad": grad,
        "x": x,
        "weight": weight,
        "x_grad": x_grad,
        "partials": partials,
    } | _sizes(x, eps)
    return Launch(kernels.backward, _grid(x, rows), arguments, _constants(x, rows, tiles))


def _sizes(x: Tensor, eps: float) -> dict[str, Any]:
    return {"rows": x.numel() // x.shape[-1], "width": x.shape[-1], "eps": eps}


def _grid(x: Tensor, rows: int) -> tuple[int]:
    return (ceil(x.numel() // x.shape[-1] / rows),)


def _constants(x: Tensor, rows: int, tiles: Tiles) -> dict[str, int]:
    block = row_block(x.shape[-1])
    return {"ROWS": rows, "BLOCK": block, "num_warps": tiles.row_warps(block)}
