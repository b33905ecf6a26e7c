"""The modulated layer norm and its gradients as Triton kernels; a program holds one token in registers at a time."""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def forward(
    x, shift, scale, out, tokens, width, shift_stride, scale_stride, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """out = layer_norm(x) * (1 + scale) + shift for ROWS tokens of sample `program_id(1)`."""
    sample, first = tl.program_id(1), tl.program_id(0) * ROWS
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = 1 + tl.load(scale + sample * scale_stride + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
    for row in range(first, min(first + ROWS, tokens)):
        token = (sample.to(tl.int64) * tokens + row) * width
        normed, _ = _normed(tl.load(x + token + column, mask=inside, other=0.0), inside, width, eps)
        tl.store(out + token + column, (normed * gain + offset).to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    grad,
    x,
    scale,
    x_grad,
    partials,
    tokens,
    width,
    scale_stride,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x_grad, and the sums of grad and grad * layer_norm(x) over ROWS tokens: (2, sample, program_id(0), channel)."""
    sample, first = tl.program_id(1), tl.program_id(0) * ROWS
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = 1 + tl.load(scale + sample * scale_stride + column, mask=inside, other=0.0).to(tl.float32)
    shift_sums = tl.zeros((BLOCK,), tl.float32)
    scale_sums = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, min(first + ROWS, tokens)):
        token = (sample.to(tl.int64) * tokens + row) * width
        upstream = tl.load(grad + token + column, mask=inside, other=0.0).to(tl.float32)
        normed, over_deviation = _normed(tl.load(x + token + column, mask=inside, other=0.0), inside, width, eps)
        shift_sums += upstream
        scale_sums += upstream * normed
        inner = upstream * gain
        along = tl.sum(inner * normed) / width
        inner = over_deviation * (inner - tl.sum(inner) / width - normed * along)
        tl.store(x_grad + token + column, inner.to(x_grad.dtype.element_ty), mask=inside)
    place = sample * tl.num_programs(0) + tl.program_id(0)
    tl.store(partials + place.to(tl.int64) * width + column, shift_sums, mask=inside)
    place += tl.num_programs(1) * tl.num_programs(0)
    tl.store(partials + place.to(tl.int64) * width + column, scale_sums, mask=inside)


@triton.jit
def _normed(token, inside, width, eps):
    """The token less its mean over its deviation, zero outside, and the reciprocal of the deviation."""
    token = token.to(tl.float32)
    centred = tl.where(inside, token - tl.sum(token) / width, 0.0)
    over_deviation = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred) / width + eps))
    return centred * over_deviation, over_deviation
