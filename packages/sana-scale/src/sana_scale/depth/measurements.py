"""Observations of blocks, gathered into a table of blocks x time bins x parts of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sana_scale.depth.block_hooks import Observation
from sana_scale.depth.moments import Moments

# Observations wait on their device and are brought over together, so that a GPU is not stopped at each block.
_WAITING = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The sizes of the table: L blocks, T time bins of equal width over [0, span], P equal parts of a batch."""

    blocks: int
    bins: int
    span: float
    parts: int
    quantities: int

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 100:
            raise ValueError(f"bins is {self.bins}; it must be 1 to 100")
        if not self.span > 0:
            raise ValueError(f"time_span is {self.span}; it must be positive, the largest timestep of the model")

    def bin(self, timesteps: Tensor) -> Tensor:
        """The time bin (n,) of timesteps (n,); the last one takes its upper border too."""
        outside = timesteps[(timesteps < 0) | (timesteps > self.span)]
        if len(outside):
            raise ValueError(
                f"timestep {outside[0].item():g} is outside [0, {self.span:g}]: give the largest as time_span"
            )
        return (timesteps / self.span * self.bins).long().clamp(max=self.bins - 1)


class Measurements:
    """Takes observations in and gives weighted means out.

    Attributes:
        grid: the table's sizes.
        moments: the sums so far; its cells are bins x parts.
        by_unit: whether observations up to `end_unit` belong together; else each sample of each forward is a unit.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.moments = Moments(grid.blocks, grid.bins * grid.parts, grid.quantities)
        self.by_unit = False
        self._waiting: list[Observation] = []
        self._unit: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(self, observation: Observation) -> None:
        """Take in one call of a block."""
        if len(observation.quantities) % self.grid.parts:
            raise ValueError(
                f"a batch of {len(observation.quantities)} has no {self.grid.parts} equal parts: "
                "batch_parts names the parts that every batch consists of"
            )
        self._waiting.append(observation)
        if len(self._waiting) == _WAITING:
            self._fetch()

    def end_unit(self) -> None:
        """What was observed since the last call is one unit, where units are told apart."""
        self._fetch()
        if self._unit:
            self.moments.add_unit(*(torch.cat(column) for column in zip(*self._unit, strict=True)))
            self._unit.clear()

    def check_reached(self) -> None:
        """Raise ValueError where a block was never called."""
        missing = [index for index, count in enumerate(self.moments.count.sum(1).tolist()) if count == 0]
        if missing:
            raise ValueError(
                f"run() never reached block {', '.join(map(str, missing))}: it must do forward passes of the model "
                "that holds these very blocks"
            )

    def time_weights(self, sampler_timesteps: Sequence[float] | None) -> Tensor:
        """The weight of each time bin (L, T): as often as the sampler visits it, or as it was measured."""
        count = self._counts.sum(2)  # (L, T)
        if sampler_timesteps is None:
            return count / count.sum(1, keepdim=True)
        visits = self.grid.bin(torch.as_tensor(sampler_timesteps, dtype=torch.float64)).bincount(
            minlength=self.grid.bins
        )
        empty = ((visits > 0) & (count == 0)).nonzero()
        if len(empty):
            block, bin = empty[0].tolist()
            width = self.grid.span / self.grid.bins
            raise ValueError(
                f"the sampler visits timesteps {bin * width:g} to {(bin + 1) * width:g}, where block {block} was not "
                "measured: let run() visit them, or use fewer bins"
            )
        return (visits / visits.sum()).to(count).expand_as(count)

    def one_bin(self, bin: int) -> Tensor:
        """Weights (L, T) of one time bin alone."""
        return torch.eye(self.grid.bins, dtype=torch.float64)[bin].expand(self.grid.blocks, -1)

    def mean(self, time_weights: Tensor, *, part: int | None = None) -> tuple[Tensor, Tensor]:
        """Means and standard errors (L, Q) in fp32 under weights (L, T); NaN for blocks with nothing there.

        Within a bin the parts of a batch weigh as they were measured, or `part` counts alone.
        """
        counts = self._counts
        if part is not None:
            counts = torch.zeros_like(counts).index_copy_(2, torch.tensor([part]), counts[:, :, [part]])
        shares = counts / counts.sum(2, keepdim=True).clamp(min=1)  # (L, T, P)
        weights = (time_weights[:, :, None] * shares).flatten(1)  # (L, T*P)
        known = weights.sum(1, keepdim=True) > 0
        means = torch.where(known, self.moments.means(weights), torch.nan)
        errors = torch.where(known, self.moments.standard_errors(weights), torch.nan)
        return means.float(), errors.float()

    @property
    def _counts(self) -> Tensor:
        return self.moments.count.view(-1, self.grid.bins, self.grid.parts)  # (L, T, P)

    def _fetch(self) -> None:
        """Bring over what waits: the block (n,), cell (n,) and quantities (n, Q) of each sample."""
        if not self._waiting:
            return
        values = torch.cat([o.quantities for o in self._waiting]).cpu().double()
        timesteps = torch.cat([o.timesteps for o in self._waiting]).cpu()
        blocks = torch.cat([torch.full((len(o.quantities),), o.block) for o in self._waiting])
        parts = torch.cat([_parts(len(o.quantities), self.grid.parts) for o in self._waiting])
        self._waiting.clear()
        if not values.isfinite().all():
            wrong = blocks[(~values.isfinite()).any(1)].min().item()
            raise ValueError(f"the tokens of block {wrong} hold NaN or infinity: nothing can be measured there")
        cells = self.grid.bin(timesteps) * self.grid.parts + parts
        if self.by_unit:
            self._unit.append((blocks, cells, values))
        else:
            self.moments.add_units(blocks, cells, values)


def _parts(batch: int, parts: int) -> Tensor:
    return torch.arange(batch) * parts // batch
