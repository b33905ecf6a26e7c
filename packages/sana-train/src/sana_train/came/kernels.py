"""The four passes of a CAME step as Triton kernels; each takes every matrix of one shape in one launch.

A program works on a tile of matrix `program_id(2)`, whose operands it finds in a table of addresses, (operand, matrix).
Sums leave a program as partial sums of its tile and are added up in a fixed order by `sum_partials`: no atomics, so
that a step gives the same bits every time.
"""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

# The rows of the table of addresses, in the order `passes_triton` fills them.
GRAD = tl.constexpr(0)
UPDATE_ROWS = tl.constexpr(1)
UPDATE_COLUMNS = tl.constexpr(2)
MOMENTUM = tl.constexpr(3)
SCALE = tl.constexpr(4)
LOW = tl.constexpr(5)
WEIGHT = tl.constexpr(6)
CONFIDENCE_ROWS = tl.constexpr(7)
CONFIDENCE_COLUMNS = tl.constexpr(8)
NOISE = tl.constexpr(9)

SMALLEST = tl.constexpr(2.0**-126)  # the smallest normal float32: the reciprocal of less could overflow
ROUND = tl.constexpr(
    1.5 * 2**23
)  # at this size a float32 has no fraction, so adding it rounds to nearest, ties to even


@triton.jit
def square_sums(
    addresses,
    row_partials,
    column_partials,
    rows,
    columns,
    GRAD_TYPE: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Sums of g^2 over the rows (matrix, column tile, r) and columns (matrix, row tile, C) of each tile."""
    start, lane = tl.program_id(0) * COLUMNS, tl.arange(0, COLUMNS)
    column = start + lane
    grad = _operand(addresses, GRAD, GRAD_TYPE, VECTOR)
    row_sums = row_partials + _tile(0) * rows
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = (row.to(tl.int64) * columns + start)[:, None]
        g = tl.load(grad + place + lane[None, :], mask=inside, other=0.0).to(tl.float32)
        squares += g * g
        tl.store(row_sums + row, tl.sum(g * g, 1), mask=row < rows)
    tl.store(column_partials + _tile(1) * columns + column, tl.sum(squares, 0), mask=column < columns)


@triton.jit
def update_norm(
    addresses,
    partials,
    rows,
    columns,
    GRAD_TYPE: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Sum of u^2 over each tile, (matrix, row tile, column tile)."""
    start, lane = tl.program_id(0) * COLUMNS, tl.arange(0, COLUMNS)
    column = start + lane
    grad = _operand(addresses, GRAD, GRAD_TYPE, VECTOR)
    update_rows = _operand(addresses, UPDATE_ROWS, tl.float32, 1)
    update_columns = _operand(addresses, UPDATE_COLUMNS, tl.float32, 1)
    across = tl.load(update_columns + column, mask=column < columns, other=0.0)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = (row.to(tl.int64) * columns + start)[:, None]
        along = tl.load(update_rows + row, mask=row < rows, other=0.0)
        u = (
            tl.load(grad + place + lane[None, :], mask=inside, other=0.0).to(tl.float32)
            * along[:, None]
            * across[None, :]
        )
        squares += u * u
    tl.store(partials + _tile(1) * tl.num_programs(0) + tl.program_id(0), tl.sum(squares))


@triton.jit
def residual_sums(
    addresses,
    row_partials,
    column_partials,
    rows,
    columns,
    blocks,
    width,
    beta1,
    GRAD_TYPE: tl.constexpr,
    QUANTIZED: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Sums of (u - m)^2 over the rows and columns of each tile; a tile lies in one block of the momentum."""
    tiles = tl.num_programs(0) // blocks
    block = tl.program_id(0) // tiles
    within, lane = tl.program_id(0) % tiles * COLUMNS, tl.arange(0, COLUMNS)
    start = block * width + within
    column = start + lane
    in_block = (lane < width - within) & (column < columns)
    grad = _operand(addresses, GRAD, GRAD_TYPE, VECTOR)
    update_rows = _operand(addresses, UPDATE_ROWS, tl.float32, 1)
    update_columns = _operand(addresses, UPDATE_COLUMNS, tl.float32, 1)
    across = tl.load(update_columns + column, mask=in_block, other=0.0)
    momentum = _operand(addresses, MOMENTUM, tl.uint8 if QUANTIZED else tl.float32, VECTOR)
    scale = _operand(addresses, SCALE, tl.float32, 1) + block
    low = _operand(addresses, LOW, tl.float32, 1) + block
    row_sums = row_partials + _tile(0) * rows
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & in_block[None, :]
        place = (row.to(tl.int64) * columns + start)[:, None]
        along = tl.load(update_rows + row, mask=row < rows, other=0.0)
        u = (
            tl.load(grad + place + lane[None, :], mask=inside, other=0.0).to(tl.float32)
            * along[:, None]
            * across[None, :]
        )
        m = tl.load(momentum + place + lane[None, :], mask=inside, other=0).to(tl.float32)  # before this step
        if QUANTIZED:
            m *= tl.load(scale + row * blocks, mask=row < rows, other=0.0)[:, None]
            m += tl.load(low + row * blocks, mask=row < rows, other=0.0)[:, None]
        residual = tl.where(inside, beta1 * (u - m), 0.0)  # u - m, m now being the new momentum
        squares += residual * residual
        tl.store(row_sums + row, tl.sum(residual * residual, 1), mask=row < rows)
    tl.store(column_partials + _tile(1) * columns + column, tl.sum(squares, 0), mask=in_block)


@triton.jit
def sum_partials(
    partials,
    sums,
    parts,
    length,
    STEPS: tl.constexpr,
    PARTS: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """Sums over the middle of `partials` (matrix, parts, length), at most PARTS * STEPS parts."""
    position = tl.program_id(0) * LENGTH + tl.arange(0, LENGTH)
    total = tl.zeros((PARTS, LENGTH), tl.float32)
    for step in range(STEPS):
        part = step * PARTS + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (position < length)[None, :]
        offset = (tl.program_id(2).to(tl.int64) * parts + part)[:, None] * length + position[None, :]
        total += tl.load(partials + offset, mask=inside, other=0.0)
    tl.store(sums + tl.program_id(2).to(tl.int64) * length + position, tl.sum(total, 0), mask=position < length)


@triton.jit
def apply(
    addresses,
    rows,
    columns,
    blocks,
    width,
    share,
    lr,
    decay,
    GRAD_TYPE: tl.constexpr,
    WEIGHT_TYPE: tl.constexpr,
    QUANTIZED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Move the weight by the new momentum and store that; a program has one block of STEPS rows."""
    within = tl.arange(0, BLOCK)
    block = tl.program_id(0)
    column = block * width + within
    inside = (within < width) & (column < columns)
    grad = _operand(addresses, GRAD, GRAD_TYPE, VECTOR)
    weight = _operand(addresses, WEIGHT, WEIGHT_TYPE, VECTOR)
    momentum = _operand(addresses, MOMENTUM, tl.uint8 if QUANTIZED else tl.float32, VECTOR)
    scale = _operand(addresses, SCALE, tl.float32, 1) + block
    low = _operand(addresses, LOW, tl.float32, 1) + block
    update_rows = _operand(addresses, UPDATE_ROWS, tl.float32, 1)
    update_columns = _operand(addresses, UPDATE_COLUMNS, tl.float32, 1)
    confidence_rows = _operand(addresses, CONFIDENCE_ROWS, tl.float32, 1)
    confidence_columns = _operand(addresses, CONFIDENCE_COLUMNS, tl.float32, 1)
    across = tl.load(update_columns + column, mask=inside, other=0.0)
    confidence = tl.load(confidence_columns + column, mask=inside, other=0.0)
    if STOCHASTIC:
        noise = tl.load(addresses + NOISE * tl.num_programs(2) + tl.program_id(2))
    for step in range(STEPS):
        row = tl.program_id(1) * STEPS + step
        if row < rows:
            start = row.to(tl.int64) * columns + block * width
            u = (
                tl.load(grad + start + within, mask=inside, other=0.0).to(tl.float32)
                * tl.load(update_rows + row)
                * across
            )
            m = tl.load(momentum + start + within, mask=inside, other=0).to(tl.float32)
            if QUANTIZED:
                m = m * tl.load(scale + row * blocks) + tl.load(low + row * blocks)
            m += share * (u - m)
            w = tl.load(weight + start + within, mask=inside, other=0.0).to(tl.float32)
            w -= m * (lr * tl.load(confidence_rows + row)) * confidence + decay * w
            if STOCHASTIC:
                w = _round_to_bfloat16(w, noise + start + within)
            tl.store(weight + start + within, w.to(WEIGHT_TYPE), mask=inside)
            if QUANTIZED:
                code, spacing, smallest = _quantize(m, inside)
                tl.store(momentum + start + within, code, mask=inside)
                tl.store(scale + row * blocks, spacing)
                tl.store(low + row * blocks, smallest)
            else:
                tl.store(momentum + start + within, m, mask=inside)


@triton.jit
def _operand(addresses, operand: tl.constexpr, TYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Pointer to this program's matrix or vector; its address is a multiple of VECTOR elements."""
    pointer = tl.load(addresses + operand * tl.num_programs(2) + tl.program_id(2)).to(tl.pointer_type(TYPE))
    return tl.multiple_of(pointer, VECTOR * pointer.dtype.element_ty.primitive_bitwidth // 8)


@triton.jit
def _tile(axis: tl.constexpr):
    """Number of this program's tile along `axis`, counted over all matrices."""
    return tl.program_id(2).to(tl.int64) * tl.num_programs(axis) + tl.program_id(axis)


@triton.jit
def _quantize(m, inside):
    """The block's codes, their spacing and the smallest value, as `blocks.Quantized` defines them."""
    lows, highs = tl.where(inside, m, float("inf")), tl.where(inside, m, float("-inf"))
    smallest, largest = tl.reduce((lows, highs), 0, _extremes)
    spacing = (largest - smallest) / 255
    spacing = tl.where(tl.abs(spacing) < float("inf"), spacing, float("nan"))
    flat = spacing < SMALLEST
    code = (m - smallest) * (1 / tl.where(flat, 1.0, spacing)) + ROUND - ROUND
    code = tl.where(inside & (code == code), code, 0.0)
    return code.to(tl.uint8), tl.where(flat, 0.0, spacing), smallest


@triton.jit
def _extremes(low, high, other_low, other_high):
    low = tl.minimum(low, other_low, propagate_nan=tl.PropagateNan.ALL)
    return low, tl.maximum(high, other_high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _round_to_bfloat16(values, number):
    """Round up or down by the random bits `rounding.round_to_bfloat16` gives the element of this number."""
    bits = number.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15)) * 0x735A2D97
    bits = (bits ^ (bits >> 15)) & 0xFFFF
    rounded = (values.to(tl.uint32, bitcast=True) + bits) & 0xFFFF0000
    return tl.where(values == values, rounded.to(tl.float32, bitcast=True), values)
