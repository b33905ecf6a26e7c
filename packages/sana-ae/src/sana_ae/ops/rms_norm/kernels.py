"""RMS norm with activation and residual, and its gradients, as Triton kernels: programs take tiles of whole pixels."""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def forward(
    x,
    residual,
    weight,
    bias,
    out,
    rows,
    width,
    eps,
    RESIDUAL: tl.constexpr,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = act(x / sqrt(mean(x^2) + eps) * weight + bias) + residual for ROWS pixels."""
    start, place, seen = _tile(tl.program_id(0), rows, width, ROWS, BLOCK)
    values = tl.load(x + start + place, mask=seen, other=0.0).to(tl.float32)
    gain, shift = _affine(weight, bias, width, BLOCK)
    result = values * _over_root(values, width, eps)[:, None] * gain[None, :] + shift[None, :]
    if ACT == "silu":
        result = result / (1 + tl.exp(-result))
    elif ACT == "relu":
        result = tl.where(result < 0, 0.0, result)  # keeps NaN, as PyTorch does
    if RESIDUAL:
        result += tl.load(residual + start + place, mask=seen, other=0.0).to(tl.float32)
    tl.store(out + start + place, result.to(out.dtype.element_ty), mask=seen)


@triton.jit
def backward(
    grad,
    x,
    weight,
    bias,
    x_grad,
    partials,
    rows,
    width,
    steps,
    eps,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x_grad, and partials[program_id(0)] = the gradients of weight and bias from ROWS * steps pixels."""
    gain, shift = _affine(weight, bias, width, BLOCK)
    gain_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    shift_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(steps):
        start, place, seen = _tile(tl.program_id(0) * steps + step, rows, width, ROWS, BLOCK)
        values = tl.load(x + start + place, mask=seen, other=0.0).to(tl.float32)
        upstream = tl.load(grad + start + place, mask=seen, other=0.0).to(tl.float32)
        over_root = _over_root(values, width, eps)[:, None]
        normal = values * over_root
        if ACT == "silu":
            affine = normal * gain[None, :] + shift[None, :]
            share = 1 / (1 + tl.exp(-affine))
            upstream *= share * (1 + affine * (1 - share))
        elif ACT == "relu":
            upstream = tl.where(normal * gain[None, :] + shift[None, :] > 0, upstream, 0.0)
        gain_sums += upstream * normal
        shift_sums += upstream
        inner = upstream * gain[None, :]
        along = tl.sum(inner * normal, 1)[:, None] / width
        result = over_root * (inner - normal * along)
        tl.store(x_grad + start + place, result.to(x_grad.dtype.element_ty), mask=seen)
    column = tl.arange(0, BLOCK)
    place = partials + tl.program_id(0).to(tl.int64) * 2 * width + column
    tl.store(place, tl.sum(gain_sums, 0), mask=column < width)
    tl.store(place + width, tl.sum(shift_sums, 0), mask=column < width)


@triton.jit
def _tile(tile, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Where a tile of ROWS pixels starts, its elements from there on, and which of them exist."""
    row, column = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    seen = (tile * ROWS + row < rows)[:, None] & (column < width)[None, :]
    return tile.to(tl.int64) * ROWS * width, row[:, None] * width + column[None, :], seen


@triton.jit
def _affine(weight, bias, width, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    gain = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    return gain, tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)


@triton.jit
def _over_root(values, width, eps):
    return tl.div_rn(1.0, tl.sqrt_rn(tl.sum(values * values, 1) / width + eps))
