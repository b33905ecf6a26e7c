"""RMS norm and its gradients as Triton kernels; a program holds one row in registers at a time."""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def forward(x, weight, out, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out = x / sqrt(mean(x^2) + eps) * weight for ROWS rows."""
    first = tl.program_id(0) * ROWS
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    for row in range(first, min(first + ROWS, rows)):
        place = tl.program_id(0).to(tl.int64) * ROWS * width + (row - first) * width + column
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        over_root = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(values * values) / width + eps))
        tl.store(out + place, (values * over_root * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward(grad, x, weight, x_grad, partials, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """x_grad, and the sums over ROWS rows of grad * x / sqrt(mean(x^2) + eps): (program_id(0), channel)."""
    first = tl.program_id(0) * ROWS
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, min(first + ROWS, rows)):
        place = tl.program_id(0).to(tl.int64) * ROWS * width + (row - first) * width + column
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        over_root = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(values * values) / width + eps))
        normed = values * over_root
        sums += upstream * normed
        inner = upstream * gain
        along = tl.sum(inner * normed) / width
        tl.store(x_grad + place, (over_root * (inner - normed * along)).to(x_grad.dtype.element_ty), mask=inside)
    tl.store(partials + tl.program_id(0).to(tl.int64) * width + column, sums, mask=inside)
