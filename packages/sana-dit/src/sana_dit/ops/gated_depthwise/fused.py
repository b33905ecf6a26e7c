"""Mix-FFN's middle in one pass over its input, with its gradients; what lies between is never written.

Bytes per element of the output in 16 bits: 6 forward, where plain PyTorch moves 26 in four kernels; 22 backward (the
gradient of the convolution's output is written once and read once), where plain PyTorch moves 54 and has kept 14 since
the forward, against the 4 of u here. Neighbouring strips read 1.9 times that from the cache. Launches: 1 and 5, of
which 3 are small.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from sana_dit.ops.gated_depthwise import kernels
from sana_dit.ops.launch import Launch

_ROWS = 8  # of a strip, in the kernels that write no sums
_SUMMED_ROWS = 32  # in the one that does: 10 sums in float32 for 128 cells and more are 6 % of its traffic
_COLUMNS = 4  # of a strip: SiLU's two slow instructions run 1.5 times for an element of u, not 3 times
_CHANNELS = 128  # two a thread: a warp reads one 128-byte line of 16 bits
_TILE = {"COLUMNS": _COLUMNS, "CHANNELS": _CHANNELS, "num_warps": 2}


def gated_depthwise(u: Tensor, weight: Tensor, bias: Tensor, *, height: int, width: int) -> Tensor:
    """As `reference.gated_depthwise`, for samples of less than 2^31 elements."""
    out: Tensor = _forward(u, weight, bias, height, width)
    return out


@torch.library.custom_op("sana_dit::gated_depthwise", mutates_args=())
def _forward(u: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    u, weight, bias = u.contiguous(), weight.contiguous(), bias.contiguous()
    out = u.new_empty(u.shape[0], u.shape[1], u.shape[2] // 2)
    forward_launch(u, weight, bias, out, height=height, width=width).run()
    return out


@_forward.register_fake
def _(u: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    return u.new_empty(u.shape[0], u.shape[1], u.shape[2] // 2)


@torch.library.custom_op("sana_dit::gated_depthwise_backward", mutates_args=())
def _backward(grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    grad, u, weight, bias = (x.contiguous() for x in (grad, u, weight, bias))
    convolved_grad, u_grad = torch.empty_like(u), torch.empty_like(u)
    partials = u.new_empty(u.shape[0] * _strips(height, width, _SUMMED_ROWS), 10, u.shape[2], dtype=torch.float32)
    gate_launch(grad, u, weight, bias, convolved_grad, height=height, width=width).run()
    convolution_launch(convolved_grad, u, weight, u_grad, partials, height=height, width=width).run()
    return u_grad, partials.sum(0)  # (B, N, 2F), (9 taps and the bias, 2F)


@_backward.register_fake
def _(grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty(10, u.shape[2], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, weight, bias, ctx.height, ctx.width = inputs
    ctx.save_for_backward(u, weight, bias)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    u, weight, bias = ctx.saved_tensors
    u_grad, sums = _backward(grad, u, weight, bias, ctx.height, ctx.width)
    return u_grad, sums[:9].T.reshape(weight.shape).to(weight.dtype), sums[9].to(bias.dtype), None, None


_forward.register_autograd(_gradients, setup_context=_save)


def forward_launch(u: Tensor, weight: Tensor, bias: Tensor, out: Tensor, *, height: int, width: int) -> Launch:
    """For contiguous operands."""
    arguments: dict[str, Any] = {"u": u, "weight": weight, "bias": bias, "out": out}
    arguments |= {"height": height, "width": width, "features": out.shape[2]}
    return Launch(kernels.forward, _grid(out, height, width, _ROWS), arguments, _TILE | {"ROWS": _ROWS})


def gate_launch(
    grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor, convolved_grad: Tensor, *, height: int, width: int
) -> Launch:
    """Launch configuration for the same arguments plus a gradient of the convolution's output like u."""
    arguments: dict[str, Any] = {"grad": grad, "u": u, "weight": weight, "bias": bias, "convolved_grad": convolved_grad}
    arguments |= {"height": height, "width": width, "features": grad.shape[2]}
    return Launch(kernels.backward_of_gate, _grid(grad, height, width, _ROWS), arguments, _TILE | {"ROWS": _ROWS})


def convolution_launch(
    convolved_grad: Tensor, u: Tensor, weight: Tensor, u_grad: Tensor, partials: Tensor, *, height: int, width: int
) -> Launch:
    """Launch configuration for the same arguments plus partial sums (B * strips, 10, 2F) in float32."""
    arguments: dict[str, Any] = {
        "convolved_grad": convolved_grad,
        "u": u,
        "weight": weight,
        "u_grad": u_grad,
        "partials": partials,
    }
    arguments |= {"height": height, "width": width, "channels": u.shape[2]}
    constants = _TILE | {"ROWS": _SUMMED_ROWS}
    return Launch(kernels.backward_of_convolution, _grid(u, height, width, _SUMMED_ROWS), arguments, constants)


def _grid(x: Tensor, height: int, width: int, rows: int) -> tuple[int, int, int]:
    return _strips(height, width, rows), ceil(x.shape[2] / _CHANNELS), x.shape[0]


def _strips(height: int, width: int, rows: int) -> int:
    return ceil(width / _COLUMNS) * ceil(height / rows)
