"""The four passes of `passes` over lists of matrices, as Triton kernels: one launch for all that are alike.

Each function does to every matrix of its lists what the one of the same name in `passes` does to one. In a step the
kernels read the gradient four times, the momentum twice and the weight once, and write the last two once: 27 bytes per
parameter where gradients and weights are float32, 15 where they are bfloat16. Partial sums add less than 2 %.
"""

from collections.abc import Iterable, Sequence
from math import ceil

import torch
from torch import Tensor

from sana_train.came.blocks import Quantized
from sana_train.came.passes import Factors, Momentum
from sana_train.came.rounding import Noise

try:
    from sana_train.came import kernels
except ModuleNotFoundError as error:
    raise ImportError("backend='triton' needs triton: pip install 'sana-train[triton]'") from error

from sana_train.came.launches import addresses, alike, run
from sana_train.came.tiles import APPLY_COLUMNS, apply_tiling, partials_tiling, sum_tiling


def square_sums(grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """As `passes.square_sums` for each gradient (r, C): sums of squares over rows (r,) and over columns (C,)."""
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for places, (same,) in alike(grads):
        rows, columns = same[0].shape
        tiling = sum_tiling(same[0], width=columns, matrices=len(same))
        row_partials, column_partials = _partial_sums(same[0], tiling.grid)
        run(kernels.square_sums, tiling, addresses(same), row_partials, column_partials, rows, columns)
        sums.update(zip(places, _row_and_column_sums(row_partials, column_partials), strict=True))
    return [sums[place] for place in range(len(grads))]


def update_norm(grads: Sequence[Tensor], updates: Sequence[Factors]) -> list[Tensor]:
    """As `passes.update_norm` for each gradient (r, C): the sum of the squares of U, ()."""
    norms: dict[int, Tensor] = {}
    for places, (same, factors) in alike(grads, updates):
        rows, columns = same[0].shape
        tiling = sum_tiling(same[0], width=columns, matrices=len(same))
        partials = same[0].new_empty(len(same), tiling.grid[0] * tiling.grid[1], 1, dtype=torch.float32)
        run(kernels.update_norm, tiling, addresses(same, *zip(*factors, strict=True)), partials, rows, columns)
        norms.update(zip(places, _sum(partials).squeeze(1), strict=True))
    return [norms[place] for place in range(len(grads))]


def residual_sums(
    grads: Sequence[Tensor], updates: Sequence[Factors], momenta: Sequence[Momentum], *, beta1: float
) -> list[tuple[Tensor, Tensor]]:
    """As `passes.residual_sums` for each matrix (r, C): sums of (U - M)^2 over rows (r,) and over columns (C,)."""
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for places, (same, factors, stored) in alike(grads, updates, momenta):
        rows, columns = same[0].shape
        momentum, width = _tensors(stored), _width(stored[0], columns)
        tiling = sum_tiling(same[0], momentum[0][0], width=width, matrices=len(same))
        row_partials, column_partials = _partial_sums(same[0], tiling.grid)
        table = addresses(same, *zip(*factors, strict=True), *momentum)
        sizes = rows, columns, ceil(columns / width), width
        quantized = isinstance(stored[0], Quantized)
        run(kernels.residual_sums, tiling, table, row_partials, column_partials, *sizes, beta1, QUANTIZED=quantized)
        sums.update(zip(places, _row_and_column_sums(row_partials, column_partials), strict=True))
    return [sums[place] for place in range(len(grads))]


def apply(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Momentum],
    updates: Sequence[Factors],
    confidences: Sequence[Factors],
    *,
    beta1: float,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    noises: Sequence[Noise] | None = None,
) -> None:
    """As `passes.apply` for each matrix (r, C): moves the weights and stores the new momenta, both in place.

    The value of a tensor `lr` is read, which waits for its device.
    """
    numbers = 1 - beta1, float(lr), float(lr) * weight_decay
    named = noises or [Noise(0, 0)] * len(weights)
    operands = weights, grads, momenta, updates, confidences, named
    for _, (moved, same, stored, factors, confidence, noise) in alike(*operands):
        rows, columns = same[0].shape
        momentum, width = _tensors(stored), _width(stored[0], min(columns, APPLY_COLUMNS))
        tiling = apply_tiling(moved[0], same[0], momentum[0][0], width=width, matrices=len(same))
        tensors = (*zip(*factors, strict=True), *momentum, moved, *zip(*confidence, strict=True))
        table = addresses(same, *tensors, [key + first for key, first in noise])
        sizes = rows, columns, ceil(columns / width), width
        flags = {
            "QUANTIZED": isinstance(stored[0], Quantized),
            "STOCHASTIC": noises is not None and moved[0].dtype == torch.bfloat16,
        }
        run(kernels.apply, tiling, table, *sizes, *numbers, **flags)


def _tensors(momenta: Sequence[Momentum]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Codes, scales and lows of momenta in row blocks; momenta in float32 stand for all three."""
    if all(isinstance(momentum, Tensor) for momentum in momenta):
        tensors = [momentum for momentum in momenta if isinstance(momentum, Tensor)]
        return tensors, tensors, tensors
    blocked = [momentum for momentum in momenta if isinstance(momentum, Quantized) and momentum.scale.ndim == 2]
    if len(blocked) < len(momenta):
        raise ValueError("backend='triton' takes the momentum in float32 or in row blocks: use backend='eager'")
    return [m.codes for m in blocked], [m.scale for m in blocked], [m.low for m in blocked]


def _width(momentum: Momentum, otherwise: int) -> int:
    return momentum.width if isinstance(momentum, Quantized) else otherwise


def _partial_sums(grad: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Room for the sums of each tile over its rows (matrices, across, r) and over its columns (matrices, down, C)."""
    across, down, matrices = grid
    rows = grad.new_empty(matrices, across, grad.shape[0], dtype=torch.float32)
    return rows, grad.new_empty(matrices, down, grad.shape[1], dtype=torch.float32)


def _row_and_column_sums(row_partials: Tensor, column_partials: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(_sum(row_partials), _sum(column_partials), strict=True)


def _sum(partials: Tensor) -> Tensor:
    """Sums (matrices, length) of (matrices, parts, length) in an order that depends on nothing else."""
    matrices, parts, length = partials.shape
    sums = partials.new_empty(matrices, length)
    run(kernels.sum_partials, partials_tiling(partials), partials, sums, parts, length)
    return sums
