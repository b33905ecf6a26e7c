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
    value_factors,
    key_factors,
    parts,
    tokens,
    NORMED: tl.constexpr,
    FACTORED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """parts[program_id(1), sample, head] = the state of TOKENS * STEPS tokens.

    Where FACTORED, values count times the first factor of their token and head, and keys in the sum times the second:
    of queries and upstream gradients, with the factors that `backward_of_query` writes, it is the state's gradient.
    """
    head, heads = tl.program_id(0), tl.num_programs(0)
    state = tl.zeros((DIM, DIM), tl.float32)
    total = tl.zeros((DIM,), tl.float32)
    for step in range(STEPS):
        first = (tl.program_id(1) * STEPS + step) * TOKENS
        place, seen = _places(first, tokens, head * DIM, heads * DIM, DIM, TOKENS)
        key = _normed(k, k_norm, k_scales, first, tokens, head * DIM, heads * DIM, NORMED, DIM, TOKENS)
        key = tl.where(key < 0, 0.0, key)  # keeps NaN, as PyTorch does
        value = tl.load(v + place, mask=seen, other=0.0).to(tl.float32)
        counted = key
        if FACTORED:
            token, exists = _factors(first, tokens, TOKENS)
            value *= tl.load(value_factors + token, mask=exists, other=0.0)[:, None]
            counted = key * tl.load(key_factors + token, mask=exists, other=0.0)[:, None]
        state = tl.dot(tl.trans(key), value, state, input_precision=PRECISION)
        total += tl.sum(counted, 0)
    row, column = tl.arange(0, DIM), tl.arange(0, DIM)
    part = (tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)) * heads + head
    start = parts + part.to(tl.int64) * (DIM + 1) * DIM
    tl.store(start + row[:, None] * DIM + column[None, :], state)
    tl.store(start + DIM * DIM + column, total)


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
    head, width = tl.program_id(0), tl.num_programs(0) * DIM
    first = tl.program_id(1) * TOKENS
    place, seen = _places(first, tokens, head * DIM, width, DIM, TOKENS)
    state, total = _tile(states, 0, 0, DIM, DIM, DIM), _total(states, 0, DIM, DIM)
    query = _normed(q, q_norm, q_scales, first, tokens, head * DIM, width, NORMED, DIM, TOKENS)
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
    over_normalisers,
    normaliser_grads,
    tokens,
    eps,
    NORMED: tl.constexpr,
    PRECISION: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The gradient of the normed q for TOKENS tokens; 1 / normaliser and the normaliser's gradient (B, heads, N)."""
    head, width = tl.program_id(0), tl.num_programs(0) * DIM
    first = tl.program_id(1) * TOKENS
    result = tl.zeros((TOKENS, DIM), tl.float32)
    for column in range(0, DIM, COLUMNS):
        place, seen = _places(first, tokens, head * DIM + column, width, COLUMNS, TOKENS)
        upstream = tl.load(grad + place, mask=seen, other=0.0).to(tl.float32)
        state = _tile(states, 0, column, DIM, DIM, COLUMNS)
        result = tl.dot(upstream, tl.trans(state), result, input_precision=PRECISION)
    normed = _normed(q, q_norm, q_scales, first, tokens, head * DIM, width, NORMED, DIM, TOKENS)
    query = tl.where(normed < 0, 0.0, normed)
    total = _total(states, 0, DIM, DIM)
    over_normaliser = 1 / (tl.sum(query * total[None, :], 1) + eps)
    result *= over_normaliser[:, None]
    # It is -sum(upstream * attended) / normaliser: the state is on the other side of the product here.
    normaliser_grad = -tl.sum(query * result, 1) * over_normaliser
    result = tl.where(normed > 0, result + normaliser_grad[:, None] * total[None, :], 0.0)
    whole, exists = _places(first, tokens, head * DIM, width, DIM, TOKENS)
    tl.store(q_grad + whole, result.to(q_grad.dtype.element_ty), mask=exists)
    token, exists = _factors(first, tokens, TOKENS)
    tl.store(over_normalisers + token, over_normaliser, mask=exists)
    tl.store(normaliser_grads + token, normaliser_grad, mask=exists)


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
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """The gradients of the normed k, and of v, for TOKENS tokens."""
    head, width = tl.program_id(0), tl.num_programs(0) * DIM
    first = tl.program_id(1) * TOKENS
    whole, exists = _places(first, tokens, head * DIM, width, DIM, TOKENS)
    value = tl.load(v + whole, mask=exists, other=0.0).to(tl.float32)
    value_grad = tl.zeros((TOKENS, DIM), tl.float32)
    for row in range(0, DIM, ROWS):
        place, seen = _places(first, tokens, head * DIM + row, width, ROWS, TOKENS)
        state_grad, total_grad = _tile(state_grads, row, 0, DIM, ROWS, DIM), _total(state_grads, row, DIM, ROWS)
        normed = _normed(k, k_norm, k_scales, first, tokens, head * DIM + row, width, NORMED, ROWS, TOKENS)
        result = tl.dot(value, tl.trans(state_grad), input_precision=PRECISION) + total_grad[None, :]
        tl.store(k_grad + place, tl.where(normed > 0, result, 0.0).to(k_grad.dtype.element_ty), mask=seen)
        key = tl.where(normed < 0, 0.0, normed)
        value_grad = tl.dot(key, state_grad, value_grad, input_precision=PRECISION)
    tl.store(v_grad + whole, value_grad.to(v_grad.dtype.element_ty), mask=exists)


@triton.jit
def _places(first, tokens, channel, width, CHANNELS: tl.constexpr, TOKENS: tl.constexpr):
    """Where CHANNELS channels from `channel` on of TOKENS tokens are, and which of the tokens exist."""
    token = first + tl.arange(0, TOKENS)
    start = tl.program_id(2).to(tl.int64) * tokens * width + channel
    place = start + token[:, None] * width + tl.arange(0, CHANNELS)[None, :]
    return place, (token < tokens)[:, None]


@triton.jit
def _normed(
    x, norm, scales, first, tokens, channel, width, NORMED: tl.constexpr, CHANNELS: tl.constexpr, TOKENS: tl.constexpr
):
    """These channels in float32, normed over all heads; zero beyond the last token."""
    place, seen = _places(first, tokens, channel, width, CHANNELS, TOKENS)
    values = tl.load(x + place, mask=seen, other=0.0).to(tl.float32)
    if NORMED:
        token = first + tl.arange(0, TOKENS)
        weight = tl.load(norm + channel + tl.arange(0, CHANNELS)).to(tl.float32)
        scale = tl.load(scales + tl.program_id(2).to(tl.int64) * tokens + token, mask=token < tokens, other=0.0)
        values = values * scale[:, None] * weight[None, :]
    return values


@triton.jit
def _factors(first, tokens, TOKENS: tl.constexpr):
    """Where numbers (B, heads, N) of this program's head and TOKENS tokens are, and which of them exist."""
    token = first + tl.arange(0, TOKENS)
    start = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * tokens
    return start + token, token < tokens


@triton.jit
def _tile(states, row, column, DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """ROWS rows from `row` on, and of them COLUMNS columns, of the state of this program's head."""
    place = (row + tl.arange(0, ROWS))[:, None] * DIM + (column + tl.arange(0, COLUMNS))[None, :]
    return tl.load(states + _start(DIM) + place)


@triton.jit
def _total(states, first, DIM: tl.constexpr, COUNT: tl.constexpr):
    """COUNT elements from `first` on of the sum of this program's head."""
    return tl.load(states + _start(DIM) + DIM * DIM + first + tl.arange(0, COUNT))


@triton.jit
def _start(DIM: tl.constexpr):
    return (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * (DIM + 1) * DIM
