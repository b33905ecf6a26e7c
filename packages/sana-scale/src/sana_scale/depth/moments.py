"""Streaming means over the cells of a table, with standard errors over units that fill several cells each."""

import torch
from torch import Tensor


class Moments:
    """Sums from which the mean of each quantity in each cell follows, and the error of any weighted mean of cells.

    A unit is what is drawn independently of all others, such as a prompt: its observations in different cells
    belong together, and only the spread between units says how sure a mean is. Memory does not grow with units.

    Attributes:
        count: observations (L, C) of L blocks in C cells.
        total: their sums (L, C, Q) for Q quantities; float64 on the CPU, like everything here.
        units: units that had an observation of each block (L,).
    """

    def __init__(self, blocks: int, cells: int, quantities: int) -> None:
        self.count = torch.zeros(blocks, cells, dtype=torch.float64)
        self.total = torch.zeros(blocks, cells, quantities, dtype=torch.float64)
        self.units = torch.zeros(blocks, dtype=torch.float64)
        self._count_count = torch.zeros(blocks, cells, cells, 1, dtype=torch.float64)
        self._total_count = torch.zeros(blocks, cells, cells, quantities, dtype=torch.float64)
        self._total_total = torch.zeros_like(self._total_count)

    def add_unit(self, blocks: Tensor, cells: Tensor, values: Tensor) -> None:
        """Add the observations of one unit: the block (n,) and cell (n,) of each and its quantities (n, Q)."""
        count, total = self._sums(blocks, cells, values)
        self.units += count.sum(1) > 0
        self.count += count
        self.total += total
        self._count_count += (count[:, :, None] * count[:, None, :])[..., None]
        self._total_count += total[:, :, None] * count[:, None, :, None]
        self._total_total += total[:, :, None] * total[:, None]

    def add_units(self, blocks: Tensor, cells: Tensor, values: Tensor) -> None:
        """Add observations each of which is a unit of its own."""
        count, total = self._sums(blocks, cells, values)
        self.units += count.sum(1)
        self.count += count
        self.total += total
        diagonal = torch.arange(count.shape[1])
        self._count_count[:, diagonal, diagonal, 0] += count
        self._total_count[:, diagonal, diagonal] += total
        self._total_total[:, diagonal, diagonal] += self._sums(blocks, cells, values**2)[1]

    def means(self, weights: Tensor) -> Tensor:
        """The mean over cells (L, Q) under `weights` (L, C), which are 0 where a cell is empty."""
        return (weights[..., None] * self._cell_means).sum(1)

    def standard_errors(self, weights: Tensor) -> Tensor:
        """The standard error of `means(weights)` (L, Q), linearised for ratios; NaN where there is only one unit.

        Source: Cochran, Sampling Techniques, section 2.11, a ratio to estimated counts, over clusters.
        """
        means = self._cell_means  # (L, C, Q)
        across = self._total_count * means[:, None]  # (L, C, C', Q): total in C, count in C' times its mean
        # Twice one cross term: the sum below takes (C, C') and (C', C) alike.
        spread = self._total_total - 2 * across + self._count_count * means[:, :, None] * means[:, None]
        shares = weights / self.count.clamp(min=1)  # (L, C)
        variance = torch.einsum("lc,ld,lcdq->lq", shares, shares, spread).clamp(min=0)
        units = self.units[:, None]
        return torch.where(units > 1, (variance * units / (units - 1)).sqrt(), torch.nan)

    @property
    def _cell_means(self) -> Tensor:
        return self.total / self.count.clamp(min=1)[..., None]

    def _sums(self, blocks: Tensor, cells: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        count, total = torch.zeros_like(self.count), torch.zeros_like(self.total)
        count.index_put_((blocks, cells), torch.ones(len(values), dtype=count.dtype), accumulate=True)
        total.index_put_((blocks, cells), values, accumulate=True)
        return count, total
