"""The gated residual in one pass over its operands, with its gradients.

Bytes per element of x in 16 bits: 6 forward (plain PyTorch the same: it is one kernel there too); 6 backward, where
plain PyTorch moves 14 in three kernels. Launches: 1 and 2.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from sana_dit.ops.gated_residual import kernels
from sana_dit.ops.launch import Launch
from sana_dit.ops.tiles import tiles_of

_COLUMNS = 64  # divides 1152 and 2240, and 64 channels of 16 bits are one 128-byte line
_ROWS = 32


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """As `reference.gated_residual`, for x and y of one shape; the dtype is the one all three promote to."""
    out: Tensor = _forward(x, y, gate.reshape(x.shape[0], x.shape[2]))
    return out


@torch.library.custom_op("sana_dit::gated_residual", mutates_args=())
def _forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    x, y, gate = x.contiguous(), y.contiguous(), _rows(gate)
    out = torch.empty_like(x, dtype=_promoted(x, y, gate))
    forward_launch(x, y, gate, out).run()
    return out


@_forward.register_fake
def _(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=_promoted(x, y, gate))


@torch.library.custom_op("sana_dit::gated_residual_backward", mutates_args=())
def _backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    grad, y, gate = grad.contiguous(), y.contiguous(), _rows(gate)
    y_grad = torch.empty_like(y)
    steps = ceil(tiles_of(y.device).reduced_rows(y.shape[0] * y.shape[1]) / _ROWS)
    partials = y.new_empty(y.shape[0], ceil(y.shape[1] / (_ROWS * steps)), y.shape[2], dtype=torch.float32)
    backward_launch(grad, y, gate, y_grad, partials, steps=steps).run()
    return y_grad, partials.sum(1).to(gate.dtype)


@_backward.register_fake
def _(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), gate.new_empty(gate.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, y, gate = inputs
    ctx.save_for_backward(y, gate)
    ctx.dtype = x.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return grad.to(ctx.dtype), *_backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_save)


def forward_launch(x: Tensor, y: Tensor, gate: Tensor, out: Tensor) -> Launch:
    """For contiguous tokens and a gate (B, D) with contiguous rows."""
    arguments: dict[str, Any] = {"x": x, "y": y, "gate": gate, "out": out, **_sizes(x, gate)}
    return Launch(kernels.forward, _grid(x, rows=_ROWS), arguments, _tile())


def backward_launch(grad: Tensor, y: Tensor, gate: Tensor, y_grad: Tensor, partials: Tensor, *, steps: int) -> Launch:
    """Launch configuration for the same arguments plus partial sums (B, ceil(N / (32 * steps)), D) in float32."""
    arguments: dict[str, Any] = {
        "grad": grad,
        "y": y,
        "gate": gate,
        "y_grad": y_grad,
        "gate_partials": partials,
        **_sizes(y, gate),
    }
    return Launch(kernels.backward, _grid(y, rows=_ROWS * steps), arguments, _tile() | {"STEPS": steps})


def _sizes(x: Tensor, gate: Tensor) -> dict[str, int]:
    return {"tokens": x.shape[1], "width": x.shape[2], "gate_stride": gate.stride(0)}


def _grid(x: Tensor, *, rows: int) -> tuple[int, int, int]:
    return ceil(x.shape[2] / _COLUMNS), ceil(x.shape[1] / rows), x.shape[0]


def _tile() -> dict[str, int]:
    return {"ROWS": _ROWS, "COLUMNS": _COLUMNS, "num_warps": 4}


def _rows(gate: Tensor) -> Tensor:
    """Gates are usually slices of a modulation (B, 6, D): their rows lie apart, and need no copy."""
    return gate if gate.stride(1) == 1 else gate.contiguous()


def _promoted(*operands: Tensor) -> torch.dtype:
    dtype = operands[0].dtype
    for operand in operands[1:]:
        dtype = torch.promote_types(dtype, operand.dtype)
    return dtype
