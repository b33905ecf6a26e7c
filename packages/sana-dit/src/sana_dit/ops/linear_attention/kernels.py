"""ReLU linear attention and its gradients as Triton kernels; a program takes a run of tokens of one head.

The state of a head is DIM + 1 rows of DIM numbers in float32: relu(k)^T v, then the sum of relu(k). Programs write the
part of their own tokens, and the parts are added up in a fixed order afterwards: no atomics.
"""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def norm_scales(x, scales, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """scales = 1 / sqrt(mean(x^2) + eps) for ROWS rows."""
    first = tl.program_id(0) * ROWS
    column = tl.arange(0, BLOCK)
    for row in range(first, min(first + ROWS, rows)):
        place = tl.program_id(0).to(tl.int64) * ROWS * width + (row - first) * width + column
        values = tl.load(x + place, mask=column < width, other=0.0).to(tl.float32)
        tl.store(scales + row, tl.div_rn(1.0, tl.sqrt_rn(tl.sum(values * values) / width + eps)))


@triton.jit
def state_parts(
    k,
    v,
    k_norm,
    k_scales,
    parts,
    tokens,
    NORMED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """parts[program_id(1), sample, head] = the state of TOKENS * STEPS tokens."""
    state = tl.zeros((DIM, DIM), tl.float32)
    total = tl.zeros((DIM,), tl.float32)
    for step in range(STEPS):
        first = (tl.program_id(1) * STEPS + step) * TOKENS
        place, seen = _tokens(first, tokens, DIM, TOKENS)
        key = _normed(k, k_norm, k_scales, place, first, tokens, NORMED, DIM, TOKENS)
        key = tl.where(key < 0, 0.0, key)  # keeps NaN, as PyTorch does
        value = tl.load(v + place, mask=seen, other=0.0).to(tl.float32)
        state = tl.dot(tl.trans(key), value, state, input_precision=PRECISION)
        total += tl.sum(key, 0)
    _store_state(parts, state, total, DIM)


@triton.jit
def forward(
    q,
    q_norm,
    q_scales,
    states,
    out,
    tokens,
    eps,
    NORMED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """out = relu(q) state / (relu(q) sum + eps) for TOKENS tokens."""
    first = tl.program_id(1) * TOKENS
    place, seen = _tokens(first, tokens, DIM, TOKENS)
    state, total = _load_state(states, DIM)
    query = _normed(q, q_norm, q_scales, place, first, tokens, NORMED, DIM, TOKENS)
    query = tl.where(query < 0, 0.0, query)
    normaliser = tl.sum(query * total[None, :], 1) + eps
    attended = tl.dot(query, state, input_precision=PRECISION) / normaliser[:, None]
    tl.store(out + place, attended.to(out.dtype.element_ty), mask=seen)


@triton.jit
def backward_of_query(
    grad,
    q,
    q_norm,
    q_scales,
    states,
    q_grad,
    parts,
    tokens,
    eps,
    NORMED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """The gradient of the normed q, and parts[program_id(1), sample, head] of the gradient of the state."""
    state, total = _load_state(states, DIM)
    state_grad = tl.zeros((DIM, DIM), tl.float32)
    total_grad = tl.zeros((DIM,), tl.float32)
    for step in range(STEPS):
        first = (tl.program_id(1) * STEPS + step) * TOKENS
        place, seen = _tokens(first, tokens, DIM, TOKENS)
        normed = _normed(q, q_norm, q_scales, place, first, tokens, NORMED, DIM, TOKENS)
        query = tl.where(normed < 0, 0.0, normed)
        over_normaliser = 1 / (tl.sum(query * total[None, :], 1) + eps)
        attended = tl.dot(query, state, input_precision=PRECISION) * over_normaliser[:, None]
        upstream = tl.load(grad + place, mask=seen, other=0.0).to(tl.float32) * over_normaliser[:, None]
        normaliser_grad = -tl.sum(upstream * attended, 1)
        result = tl.dot(upstream, tl.trans(state), input_precision=PRECISION)
        result = tl.where(normed > 0, result + normaliser_grad[:, None] * total[None, :], 0.0)
        tl.store(q_grad + place, result.to(q_grad.dtype.element_ty), mask=seen)
        state_grad = tl.dot(tl.trans(query), upstream, state_grad, input_precision=PRECISION)
        total_grad += tl.sum(query * normaliser_grad[:, None], 0)
    _store_state(parts, state_grad, total_grad, DIM)


@triton.jit
def backward_of_key(
    k,
    v,
    k_norm,
    k_scales,
    state_grads,
    k_grad,
    v_grad,
    tokens,
    NORMED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The gradients of the normed k, and of v, for TOKENS tokens."""
    first = tl.program_id(1) * TOKENS
    place, seen = _tokens(first, tokens, DIM, TOKENS)
    state_grad, total_grad = _load_state(state_grads, DIM)
    normed = _normed(k, k_norm, k_scales, place, first, tokens, NORMED, DIM, TOKENS)
    value = tl.load(v + place, mask=seen, other=0.0).to(tl.float32)
    result = tl.dot(value, tl.trans(state_grad), input_precision=PRECISION) + total_grad[None, :]
    tl.store(k_grad + place, tl.where(normed > 0, result, 0.0).to(k_grad.dtype.element_ty), mask=seen)
    key = tl.where(normed < 0, 0.0, normed)
    result = tl.dot(key, state_grad, input_precision=PRECISION)
    tl.store(v_grad + place, result.to(v_grad.dtype.element_ty), mask=seen)


@triton.jit
def _tokens(first, tokens, DIM: tl.constexpr, TOKENS: tl.constexpr):
    """Where TOKENS tokens of this program's head are, and which of them exist."""
    token = first + tl.arange(0, TOKENS)
    width = tl.num_programs(0) * DIM
    start = tl.program_id(2).to(tl.int64) * tokens * width + tl.program_id(0) * DIM
    place = start + token[:, None] * width + tl.arange(0, DIM)[None, :]
    return place, (token < tokens)[:, None]


@triton.jit
def _normed(x, norm, scales, place, first, tokens, NORMED: tl.constexpr, DIM: tl.constexpr, TOKENS: tl.constexpr):
    """The tokens at `place` in float32, normed over all heads; zero beyond the last."""
    token = first + tl.arange(0, TOKENS)
    values = tl.load(x + place, mask=(token < tokens)[:, None], other=0.0).to(tl.float32)
    if NORMED:
        weight = tl.load(norm + tl.program_id(0) * DIM + tl.arange(0, DIM)).to(tl.float32)
        scale = tl.load(scales + tl.program_id(2).to(tl.int64) * tokens + token, mask=token < tokens, other=0.0)
        values = values * scale[:, None] * weight[None, :]
    return values


@triton.jit
def _load_state(states, DIM: tl.constexpr):
    """The state and the sum of this program's head."""
    row, column = tl.arange(0, DIM), tl.arange(0, DIM)
    place = states + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * (DIM + 1) * DIM
    return tl.load(place + row[:, None] * DIM + column[None, :]), tl.load(place + DIM * DIM + column)


@triton.jit
def _store_state(parts, state, total, DIM: tl.constexpr):
    row, column = tl.arange(0, DIM), tl.arange(0, DIM)
    part = (tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)) * tl.num_programs(0) + tl.program_id(0)
    place = parts + part.to(tl.int64) * (DIM + 1) * DIM
    tl.store(place + row[:, None] * DIM + column[None, :], state)
    tl.store(place + DIM * DIM + column, total)
