"""The gated residual and its gradients as Triton kernels on tiles of tokens x channels."""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def forward(x, y, gate, out, tokens, width, gate_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = x + gate * y on a tile of ROWS tokens of sample `program_id(2)`."""
    first, sample = tl.program_id(1) * ROWS, tl.program_id(2)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    inside = (first + row < tokens)[:, None] & (column < width)[None, :]
    tile = (sample.to(tl.int64) * tokens + first) * width
    place = row[:, None] * width + column[None, :]
    g = tl.load(gate + sample * gate_stride + column, mask=column < width, other=0.0).to(tl.float32)
    residual = tl.load(x + tile + place, mask=inside, other=0.0).to(tl.float32)
    branch = tl.load(y + tile + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + tile + place, (residual + g[None, :] * branch).to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    grad,
    y,
    gate,
    y_grad,
    gate_partials,
    tokens,
    width,
    gate_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """y_grad = gate * grad, and the sums of grad * y over ROWS * STEPS tokens: (sample, program_id(1), channel)."""
    sample = tl.program_id(2)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    place = row[:, None] * width + column[None, :]
    g = tl.load(gate + sample * gate_stride + column, mask=column < width, other=0.0).to(tl.float32)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        first = (tl.program_id(1) * STEPS + step) * ROWS
        inside = (first + row < tokens)[:, None] & (column < width)[None, :]
        tile = (sample.to(tl.int64) * tokens + first) * width
        upstream = tl.load(grad + tile + place, mask=inside, other=0.0).to(tl.float32)
        branch = tl.load(y + tile + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(y_grad + tile + place, (g[None, :] * upstream).to(y_grad.dtype.element_ty), mask=inside)
        sums += upstream * branch
    partial = (sample * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * width
    tl.store(gate_partials + partial + column, tl.sum(sums, 0), mask=column < width)
