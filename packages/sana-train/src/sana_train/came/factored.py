"""A step of CAME for matrices: the vectors between the four passes (CAME, Algorithm 1, lines 5 to 13)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sana_train.came.passes import Factors, Momentum
from sana_train.came.rounding import Noise
from sana_train.came.settings import Settings

AddUp = Callable[[list[Tensor]], list[Tensor]]  # sums over all shards
Sums = list[tuple[Tensor, Tensor]]  # of each matrix, over its rows (r,) and its columns (C,)


class Means(NamedTuple):
    """Running means of a matrix over each row and each column."""

    rows: Tensor  # (r,)
    columns: Tensor  # (C,)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The rows of a matrix that this process holds, as views of the parameter, its gradient and its state."""

    weight: Tensor  # (r, C)
    grad: Tensor  # (r, C)
    momentum: Momentum
    square: Means
    residual: Means
    noise: Noise | None


@dataclass(frozen=True, slots=True)
class Stack:
    """One matrix (R, C), or several joined along their rows: they share all that is computed over the columns."""

    members: Sequence[Matrix]
    rows: int  # R, of all members and shards
    columns: int
    age: int  # the number of this step, from 1


class Passes(Protocol):
    """The four passes over lists of matrices; see `passes` for what each does to one."""

    def square_sums(self, grads: Sequence[Tensor], /) -> Sums:
        """Sums of squared gradients."""

    def update_norm(self, grads: Sequence[Tensor], updates: Sequence[Factors], /) -> list[Tensor]:
        """Sums of squared updates, each ()."""

    def residual_sums(
        self, grads: Sequence[Tensor], updates: Sequence[Factors], momenta: Sequence[Momentum], /, *, beta1: float
    ) -> Sums:
        """Sums of squared residuals."""

    def apply(
        self,
        weights: Sequence[Tensor],
        grads: Sequence[Tensor],
        momenta: Sequence[Momentum],
        updates: Sequence[Factors],
        confidences: Sequence[Factors],
        /,
        *,
        beta1: float,
        lr: float,
        weight_decay: float,
        noises: Sequence[Noise] | None,
    ) -> None:
        """Moves weights and momenta in place."""


class FactoredStep:
    """One step of some stacks: `scale`, then `clip` with the norms of all shards, then `move`."""

    def __init__(self, stacks: Sequence[Stack], settings: Settings, passes: Passes, add_up: AddUp) -> None:
        self.stacks = stacks
        self.settings = settings
        self.passes = passes
        self.add_up = add_up
        self.matrices = [matrix for stack in stacks for matrix in stack.members]
        self.owners = [number for number, stack in enumerate(stacks) for _ in stack.members]
        self.grads = [matrix.grad for matrix in self.matrices]
        self.momenta = [matrix.momentum for matrix in self.matrices]
        self.updates: list[Factors] = []

    def scale(self) -> list[Tensor]:
        """Find the factors of the updates U; returns the sum of the squares of each stack's, over this shard."""
        settings, means = self.settings, [matrix.square for matrix in self.matrices]
        scales = [settings.bias_divisor(1, stack.age) ** 0.5 for stack in self.stacks]
        sums = self.passes.square_sums(self.grads)
        self.updates = self._follow(means, sums, beta=settings.betas[1], eps=settings.eps[0], scales=scales)
        return self._stacked(self.passes.update_norm(self.grads, self.updates))

    def clip(self, norms: list[Tensor]) -> None:
        """Scale each stack's U down to the clip threshold, where its root mean square is above."""
        excess = rms_excess(norms, [stack.rows * stack.columns for stack in self.stacks], self.settings)
        self.updates = [
            Factors(update.rows / excess[owner], update.columns)
            for update, owner in zip(self.updates, self.owners, strict=True)
        ]

    def move(self) -> None:
        """Find the confidence in each update, and move the weights and the momenta."""
        settings, beta1 = self.settings, self.settings.betas[0]
        scales = [
            settings.bias_divisor(2, stack.age) ** 0.5 / settings.bias_divisor(0, stack.age) for stack in self.stacks
        ]
        sums = self.passes.residual_sums(self.grads, self.updates, self.momenta, beta1=beta1)
        means = [matrix.residual for matrix in self.matrices]
        confidences = self._follow(means, sums, beta=settings.betas[2], eps=settings.eps[1], scales=scales)
        noises = [matrix.noise for matrix in self.matrices if matrix.noise is not None]  # of all, or of none
        self.passes.apply(
            [matrix.weight for matrix in self.matrices],
            self.grads,
            self.momenta,
            self.updates,
            confidences,
            beta1=beta1,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            noises=noises or None,
        )

    def _follow(self, means: list[Means], sums: Sums, *, beta: float, eps: float, scales: list[float]) -> list[Factors]:
        """Move running means towards those of `sums`; returns scale / sqrt(rows columns^T / mean(rows))."""
        rows, columns = [mean.rows for mean in means], [mean.columns for mean in means]
        widths = [self.stacks[owner].columns for owner in self.owners]
        heights = [self.stacks[owner].rows for owner in self.owners]
        _approach(rows, [of_rows for of_rows, _ in sums], widths, eps=eps, share=1 - beta)
        column_sums = self._stacked([of_columns for _, of_columns in sums])
        totals = self.add_up(column_sums + self._stacked([row.sum() for row in rows]))
        _approach(columns, [totals[owner] for owner in self.owners], heights, eps=eps, share=1 - beta)
        row_means = torch._foreach_div(totals[len(self.stacks) :], [stack.rows for stack in self.stacks])
        numerators = torch._foreach_mul(torch._foreach_sqrt(row_means), scales)
        downward, across = torch._foreach_sqrt(rows), torch._foreach_sqrt(columns)
        torch._foreach_reciprocal_(across)
        return [
            Factors(numerators[owner] / root, factors)
            for owner, root, factors in zip(self.owners, downward, across, strict=True)
        ]

    def _stacked(self, parts: list[Tensor]) -> list[Tensor]:
        """The sum of the parts of each stack's members."""
        totals: list[Tensor] = []
        for part, owner in zip(parts, self.owners, strict=True):
            if owner == len(totals):
                totals.append(part)
            else:
                totals[owner] = totals[owner] + part
        return totals


def rms_excess(norms: list[Tensor], counts: list[int], settings: Settings) -> Sequence[Tensor]:
    """How many times above the clip threshold root mean squares are, or 1; `norms` are sums of `counts` squares."""
    means = torch.stack(torch._foreach_div(norms, counts))
    return (means.sqrt() / settings.clip_threshold).clamp(min=1.0).unbind()


def _approach(means: list[Tensor], sums: list[Tensor], counts: list[int], *, eps: float, share: float) -> None:
    """Move running means by `share` of the way to sum / count + eps, in place."""
    now = torch._foreach_div(sums, counts)
    torch._foreach_add_(now, eps)
    torch._foreach_lerp_(means, list(now), share)
