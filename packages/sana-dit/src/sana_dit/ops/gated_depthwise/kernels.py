"""The gated depthwise convolution and its gradients as Triton kernels that slide down strips of the token grid.

A program takes CHANNELS channels of a strip of COLUMNS columns. It keeps three rows of the strip and of one column to
either side in registers, as tuples of COLUMNS + 2 vectors of channels, so that it loads and activates a row once for
the three rows of outputs that need it.
"""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call, no-untyped-def, untyped-decorator"
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl


@triton.jit
def forward(
    u,
    weight,
    bias,
    out,
    height,
    width,
    features,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = value * silu(gate), where (value, gate) = depthwise3x3(silu(u)), on ROWS rows of a strip."""
    first, column, channel = _place(width, ROWS, COLUMNS, CHANNELS)
    inside = channel < features
    cells = tl.program_id(2).to(tl.int64) * height * width
    value_u = u + cells * 2 * features + channel
    gate_u = value_u + features
    value_taps, value_bias = _parameters(weight, bias, channel, inside)
    gate_taps, gate_bias = _parameters(weight, bias, features + channel, inside)
    here, below = _zeros(COLUMNS + 2, CHANNELS), _zeros(COLUMNS + 2, CHANNELS)
    gate_here, gate_below = here, below
    for row in range(first - 2, min(first + ROWS, height)):
        above, here = here, below
        gate_above, gate_here = gate_here, gate_below
        below = _row(value_u, row + 1, column, height, width, 2 * features, inside, COLUMNS, True)
        gate_below = _row(gate_u, row + 1, column, height, width, 2 * features, inside, COLUMNS, True)
        for t in tl.static_range(COLUMNS):
            value = value_bias + _convolved(above, here, below, value_taps, t)
            gate = gate_bias + _convolved(gate_above, gate_here, gate_below, gate_taps, t)
            place = (cells + row * width + column + t) * features + channel
            seen = inside & (row >= first) & (column + t < width)
            tl.store(out + place, (value * gate / (1 + tl.exp(-gate))).to(out.dtype.element_ty), mask=seen)


@triton.jit
def backward_of_gate(
    grad,
    u,
    weight,
    bias,
    convolved_grad,
    height,
    width,
    features,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The gradient of (value, gate), on ROWS rows of a strip; the convolution is computed again."""
    first, column, channel = _place(width, ROWS, COLUMNS, CHANNELS)
    inside = channel < features
    cells = tl.program_id(2).to(tl.int64) * height * width
    value_u = u + cells * 2 * features + channel
    gate_u = value_u + features
    value_taps, value_bias = _parameters(weight, bias, channel, inside)
    gate_taps, gate_bias = _parameters(weight, bias, features + channel, inside)
    here, below = _zeros(COLUMNS + 2, CHANNELS), _zeros(COLUMNS + 2, CHANNELS)
    gate_here, gate_below = here, below
    for row in range(first - 2, min(first + ROWS, height)):
        above, here = here, below
        gate_above, gate_here = gate_here, gate_below
        below = _row(value_u, row + 1, column, height, width, 2 * features, inside, COLUMNS, True)
        gate_below = _row(gate_u, row + 1, column, height, width, 2 * features, inside, COLUMNS, True)
        for t in tl.static_range(COLUMNS):
            value = value_bias + _convolved(above, here, below, value_taps, t)
            gate = gate_bias + _convolved(gate_above, gate_here, gate_below, gate_taps, t)
            cell = cells + row * width + column + t
            seen = inside & (row >= first) & (column + t < width)
            upstream = tl.load(grad + cell * features + channel, mask=seen, other=0.0).to(tl.float32)
            place = convolved_grad + cell * 2 * features + channel
            silu, slope = _silu_and_slope(gate)
            tl.store(place, (upstream * silu).to(convolved_grad.dtype.element_ty), mask=seen)
            tl.store(place + features, (upstream * value * slope).to(convolved_grad.dtype.element_ty), mask=seen)


@triton.jit
def backward_of_convolution(
    convolved_grad,
    u,
    weight,
    u_grad,
    partials,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """u_grad, and the gradients of taps and bias from ROWS rows of a strip: (sample, program_id(0), 10, channel)."""
    first, column, channel = _place(width, ROWS, COLUMNS, CHANNELS)
    inside = channel < channels
    cells = tl.program_id(2).to(tl.int64) * height * width
    grads = convolved_grad + cells * channels + channel
    turned_taps = _taps(weight, channel, inside, True)
    here, below = _zeros(COLUMNS + 2, CHANNELS), _zeros(COLUMNS + 2, CHANNELS)
    turned_sums = _zeros(9, CHANNELS)
    bias_sum = tl.zeros((CHANNELS,), tl.float32)
    for row in range(first - 2, min(first + ROWS, height)):
        above, here = here, below
        below = _row(grads, row + 1, column, height, width, channels, inside, COLUMNS, False)
        for t in tl.static_range(COLUMNS):
            seen = inside & (row >= first) & (column + t < width)
            place = (cells + row * width + column + t) * channels + channel
            silu, slope = _silu_and_slope(tl.load(u + place, mask=seen, other=0.0).to(tl.float32))
            result = slope * _convolved(above, here, below, turned_taps, t)
            tl.store(u_grad + place, result.to(u_grad.dtype.element_ty), mask=seen)
            turned_sums = _correlated(turned_sums, silu, above, here, below, t)
            bias_sum += tl.where(row >= first, here[t + 1], 0.0)
    place = partials + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * 10 * channels + channel
    for tap in tl.static_range(9):
        tl.store(place + tap * channels, turned_sums[8 - tap], mask=inside)
    tl.store(place + 9 * channels, bias_sum, mask=inside)


@triton.jit
def _place(width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """First row, first column and channels of a program."""
    strips = tl.cdiv(width, COLUMNS)
    first = tl.program_id(0) // strips * ROWS
    column = tl.program_id(0) % strips * COLUMNS
    return first, column, tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _parameters(weight, bias, channel, inside):
    return _taps(weight, channel, inside, False), tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _taps(weight, channel, inside, TURNED: tl.constexpr):
    """The nine taps along rows, or turned by half a circle: those of the transposed convolution."""
    taps = ()
    for tap in tl.static_range(9):
        place = weight + channel * 9 + (8 - tap if TURNED else tap)
        taps = taps + (tl.load(place, mask=inside, other=0.0).to(tl.float32),)  # noqa: RUF005
    return taps


@triton.jit
def _row(cells, row, column, height, width, channels, inside, COLUMNS: tl.constexpr, ACTIVATED: tl.constexpr):
    """Columns column - 1 to column + COLUMNS of a row, after SiLU if asked; zero outside of the grid."""
    vectors = ()
    for t in tl.static_range(COLUMNS + 2):
        at = column + t - 1
        seen = inside & (row >= 0) & (row < height) & (at >= 0) & (at < width)
        x = tl.load(cells + (row * width + at) * channels, mask=seen, other=0.0).to(tl.float32)
        vectors = vectors + (x / (1 + tl.exp(-x)) if ACTIVATED else x,)  # noqa: RUF005
    return vectors


@triton.jit
def _convolved(above, here, below, taps, t: tl.constexpr):
    """The convolution at the t-th column."""
    total = taps[0] * above[t] + taps[1] * above[t + 1] + taps[2] * above[t + 2]
    total += taps[3] * here[t] + taps[4] * here[t + 1] + taps[5] * here[t + 2]
    return total + (taps[6] * below[t] + taps[7] * below[t + 1] + taps[8] * below[t + 2])


@triton.jit
def _correlated(sums, centre, above, here, below, t: tl.constexpr):
    """Nine sums, plus the products of a centre with its neighbourhood."""
    sums_above = (sums[0] + centre * above[t], sums[1] + centre * above[t + 1], sums[2] + centre * above[t + 2])
    sums_here = (sums[3] + centre * here[t], sums[4] + centre * here[t + 1], sums[5] + centre * here[t + 2])
    sums_below = (sums[6] + centre * below[t], sums[7] + centre * below[t + 1], sums[8] + centre * below[t + 2])
    return sums_above + sums_here + sums_below


@triton.jit
def _zeros(COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (tl.zeros((CHANNELS,), tl.float32),)  # noqa: RUF005
    return zeros


@triton.jit
def _silu_and_slope(x):
    share = 1 / (1 + tl.exp(-x))
    return x * share, share * (1 + x * (1 - share))
