"""A matrix in 8 bits: blocks of neighbours share a range (SANA-1.5, CAME-8bit)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_VECTOR = 16
_SMALLEST = torch.finfo(torch.float32).tiny


def row_blocks(columns: int, block_size: int) -> tuple[int, int]:
    """How many blocks a row of `columns` values has, and their width: at most `block_size`, all alike but the last.

    Where `block_size` allows it the width is a multiple of 16, so that a kernel reads whole vectors.
    """
    width = math.ceil(columns / math.ceil(columns / block_size))
    width = min(_VECTOR * math.ceil(width / _VECTOR), block_size)
    return math.ceil(columns / width), width


@dataclass(frozen=True, slots=True)
class Quantized:
    """Values as low + scale * code, code = round((value - low) / scale), scale = (high - low) / 255 for each block.

    A block is `width` neighbours, the last one possibly fewer: of a row (layout "row": scale and low are (r, blocks)),
    or of the whole matrix read row by row (layout "flat": scale and low are (blocks,)). A block of equal values is
    exact: its scale is 0. One with a NaN or an infinity in it reads as NaN throughout, and touches no other block.
    """

    codes: Tensor  # (r, C) uint8, contiguous
    scale: Tensor  # float32
    low: Tensor  # float32
    width: int

    def read(self) -> Tensor:
        """The values, (r, C) float32, in a tensor of their own."""
        values = self.codes.float()
        for block, scale, low in self._blocks(values):
            block.mul_(scale).add_(low)
        return values

    def write(self, values: Tensor) -> None:
        """Keep `values` (r, C) float32."""
        steps = torch.empty_like(values)
        for (source, scale, low), (target, _, _) in zip(self._blocks(values), self._blocks(steps), strict=True):
            low.copy_(source.amin(-1, keepdim=True))
            spacing = (source.amax(-1, keepdim=True) - low) / 255
            spacing = torch.where(spacing.isfinite(), spacing, torch.nan)
            level = spacing < _SMALLEST  # 1 / spacing would overflow
            scale.copy_(spacing.masked_fill(level, 0.0))
            inverse = spacing.reciprocal().masked_fill_(level, 0.0)
            torch.sub(source, low, out=target).mul_(inverse)
        self.codes.copy_(steps.round_().nan_to_num_(0.0).to(torch.int16))  # straight to uint8 takes five times as long

    @property
    def row_step(self) -> int:
        """A part must start at a multiple of so many rows."""
        return 1 if self.scale.ndim == 2 else _flat_row_step(self.codes, self.width)

    def part(self, start: int, stop: int) -> Self:
        """Rows `start` to `stop`, in the same memory."""
        blocks = slice(start, stop) if self.scale.ndim == 2 else _flat_blocks(self.codes, self.width, start, stop)
        return type(self)(self.codes[start:stop], self.scale[blocks], self.low[blocks], self.width)

    def _blocks(self, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Views of `matrix` as (n, k, width) with scale and low as (n, k, 1): all whole blocks, then what is left."""
        flat = self.scale.ndim == 1
        matrix = matrix.view(1, -1) if flat else matrix
        scale, low = (x[None, :, None] if flat else x[:, :, None] for x in (self.scale, self.low))
        whole = matrix.shape[1] // self.width
        edge = whole * self.width
        if whole:
            yield torch.unflatten(matrix[:, :edge], 1, (whole, self.width)), scale[:, :whole], low[:, :whole]
        if edge < matrix.shape[1]:
            yield matrix[:, None, edge:], scale[:, whole:], low[:, whole:]


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Values as scale * map[code] with bitsandbytes' dynamic map, scale the greatest absolute value of a flat block.

    A block with a NaN or an infinity in it reads as NaN throughout. Source: 8-bit Optimizers via Block-wise
    Quantization, section 2.
    """

    codes: Tensor  # (r, C) uint8, contiguous
    scale: Tensor  # (blocks,) float32
    width: int

    def read(self) -> Tensor:
        """The values, (r, C) float32, in a tensor of their own."""
        import bitsandbytes.functional as bnb

        values: Tensor = bnb.dequantize_blockwise(self.codes, absmax=self.scale, blocksize=self.width)
        return values

    def write(self, values: Tensor) -> None:
        """Keep `values` (r, C) float32."""
        import bitsandbytes.functional as bnb

        codes, state = bnb.quantize_blockwise(values, blocksize=self.width)
        self.codes.copy_(codes)
        self.scale.copy_(state.absmax)
        edge = values.numel() // self.width * self.width
        blocks = [values.view(-1)[:edge].view(-1, self.width), values.view(1, -1)[:, edge:]]
        sums = torch.cat([block.sum(1) for block in blocks])[: len(self.scale)]  # the last block may be empty
        self.scale.add_(sums.mul_(0.0))  # bitsandbytes passes over a NaN

    @property
    def row_step(self) -> int:
        """A part must start at a multiple of so many rows."""
        return _flat_row_step(self.codes, self.width)

    def part(self, start: int, stop: int) -> Self:
        """Rows `start` to `stop`, in the same memory."""
        blocks = _flat_blocks(self.codes, self.width, start, stop)
        return type(self)(self.codes[start:stop], self.scale[blocks], self.width)


def _flat_row_step(codes: Tensor, width: int) -> int:
    """The fewest rows that are whole blocks."""
    return width // math.gcd(codes.shape[1], width)


def _flat_blocks(codes: Tensor, width: int, start: int, stop: int) -> slice:
    columns = codes.shape[1]
    assert start * columns % width == 0
    return slice(start * columns // width, math.ceil(stop * columns / width))
