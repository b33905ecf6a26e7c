"""The four passes of CAME over one matrix (CAME, Algorithm 1): what its step does with every element, and nothing else.

Between the passes lie only vectors and sums, which the driver adds up over chunks of rows, over shards and over joined
matrices. Each pass is a function of some rows, in float32 whatever the dtypes of gradient and weight; these are the
reference for the compiled and the Triton passes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sana_train.came.blocks import Dynamic, Quantized
from sana_train.came.rounding import Noise, round_to_bfloat16

Momentum = Tensor | Quantized | Dynamic  # a tensor is float32, (r, C)


class Factors(NamedTuple):
    """The matrix `rows[:, None] * columns[None, :]`, kept as its two vectors in float32."""

    rows: Tensor  # (r,)
    columns: Tensor  # (C,)


def square_sums(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the squared gradient (r, C) over each row (r,) and over each column (C,)."""
    squares = grad.float().square()  # (r, C)
    return squares.sum(1), squares.sum(0)


def update_norm(grad: Tensor, update: Factors) -> Tensor:
    """Sum of the squares of U = grad * update, () : what clips U by its root mean square."""
    return _scaled(grad, update).square_().sum()


def residual_sums(grad: Tensor, update: Factors, momentum: Momentum, *, beta1: float) -> tuple[Tensor, Tensor]:
    """Sums of the instability (U - M)^2 over each row (r,) and over each column (C,).

    U = grad * update, M = beta1 * momentum + (1 - beta1) * U.
    """
    residual = _scaled(grad, update).sub_(_read(momentum)).mul_(beta1)  # U - M, (r, C)
    squares = residual.square_()
    return squares.sum(1), squares.sum(0)


def apply(
    weight: Tensor,
    grad: Tensor,
    momentum: Momentum,
    update: Factors,
    confidence: Factors,
    *,
    beta1: float,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    noise: Noise | None = None,
) -> None:
    """Move `weight` (r, C) by -lr * M * confidence and store M, the new momentum; both in place.

    The weight moves by the exact M, whatever is then stored of it. With `noise`, a bfloat16 weight is rounded
    stochastically.
    """
    moving = _read(momentum).lerp_(_scaled(grad, update), 1 - beta1)  # M, (r, C)
    if not isinstance(momentum, Tensor):
        momentum.write(moving)
    step = (moving * (lr * confidence.rows)[:, None]).mul_(confidence.columns)  # (r, C)
    move(weight, step, decay=lr * weight_decay if weight_decay else None, noise=noise)


def move(weight: Tensor, step: Tensor, *, decay: float | Tensor | None, noise: Noise | None) -> None:
    """Take `step`, which is overwritten, and decay * weight from `weight`; in float32 at least, and rounded once.

    The two are added first: 1 - decay would round a decay of 1e-7 to 1.2e-7.
    """
    exact = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    if decay is not None:
        step.add_(exact * decay)
    exact.sub_(step)
    if noise is not None and weight.dtype == torch.bfloat16:
        weight.copy_(round_to_bfloat16(exact, noise))
    elif exact is not weight:
        weight.copy_(exact)


def _scaled(grad: Tensor, factors: Factors) -> Tensor:
    return (grad.float() * factors.rows[:, None]).mul_(factors.columns)


def _read(momentum: Momentum) -> Tensor:
    return momentum if isinstance(momentum, Tensor) else momentum.read()
