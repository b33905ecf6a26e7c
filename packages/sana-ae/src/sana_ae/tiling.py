"""Large images piece by piece, with the result of doing them whole.

Where a stage is convolutional, a tile is computed from its pixels and a margin as wide as the layers can see, and the
margin is cut off again: after every stage, so little is computed twice. Linear attention sees the whole image, but only
through sums over pixels (`attention.summarise`), which are added up over all tiles first. Both are exact up to the
rounding of sums, on every compression ratio.

Activations of the sana decoder for 4096 x 4096 pixels in bf16: 18.1 GiB whole; 1.7 GiB with tile=1024, for 1.12 times
the work; 0.9 GiB with tile=512, for 1.26 times (`benchmarks/results/counts.json` of the repository).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from tqdm import tqdm

from sana_ae.attention import MultiscaleAttention, attend, summarise
from sana_ae.blocks import EfficientViTBlock
from sana_ae.decoder import Decoder
from sana_ae.encoder import Encoder
from sana_ae.resample import Downsample, Upsample

Span = tuple[int, int]  # first and one past the last row (or column)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A local operation: halves (zoom -1), keeps or doubles (1) resolution and sees `margin` coarse cells around."""

    apply: Callable[[torch.Tensor], torch.Tensor]
    zoom: Literal[-1, 0, 1] = 0
    margin: int

    def scale(self, length: int) -> int:
        """What becomes of a length."""
        return length * 2 if self.zoom == 1 else length // 2 if self.zoom == -1 else length

    def source(self, span: Span, limit: int) -> Span:
        """The part of an input of length `limit` that the part `span` of the output depends on."""
        start, stop = span
        if self.zoom == 1:
            start, stop = start // 2, -(-stop // 2)
        start, stop = start - self.margin, stop + self.margin
        if self.zoom == -1:
            start, stop = 2 * start, 2 * stop
        return max(start, 0), min(stop, limit)

    def cut(self, given: Span, wanted: Span) -> slice:
        """Where in the output made from the part `given` of the input the part `wanted` of the output is."""
        start = self.scale(given[0])
        return slice(wanted[0] - start, wanted[1] - start)


def decode(decoder: Decoder, z: torch.Tensor, *, tile: int, progress: bool = True) -> torch.Tensor:
    """decoder(z) with full-size activations for one tile of `tile` pixels per side at a time."""
    stages = _stages(decoder.up_blocks)
    local = _local_stages(stages)
    x = decoder.from_latent(z)  # (B, Ck, h, w)
    for index in reversed(range(local, len(stages))):
        x = _whole(stages[index], x, tile=tile >> index)  # (B, Ci, H/2^i, W/2^i)
    steps = [_resampling(stage, zoom=1) for stage in reversed(stages[:local]) if len(stage)]
    steps.append(Step(apply=decoder.to_image, zoom=1 if isinstance(decoder.conv_out, Upsample) else 0, margin=1))
    return _in_tiles(steps, x, tile=tile, progress=progress)


def encode(
    encoder: Encoder, x: torch.Tensor, *, tile: int, channels: int | None = None, progress: bool = True
) -> torch.Tensor:
    """encoder(x, channels=channels) with full-size activations for one tile of `tile` pixels per side at a time."""
    stages = _stages(encoder.down_blocks)
    local = _local_stages(stages)
    first = Step(apply=encoder.conv_in, zoom=-1 if isinstance(encoder.conv_in, Downsample) else 0, margin=1)
    steps = [first, *(_resampling(stage, zoom=-1) for stage in stages[:local] if len(stage))]
    x = _in_tiles(steps, x, tile=tile >> local, progress=progress)
    for index in range(local, len(stages)):
        x = _whole(stages[index], x, tile=tile >> index)
    return encoder.to_latent(x, channels=channels)


def _stages(blocks: nn.ModuleList) -> list[nn.Sequential]:
    return [stage for stage in blocks if isinstance(stage, nn.Sequential)]


def _local_stages(stages: Sequence[nn.Sequential]) -> int:
    """How many stages from full resolution on run in tiles: those above 1/8, as far as they are convolutional.

    From 1/8 on, a whole feature map is small: 512 channels there are 1/16 of 128 channels at full resolution.
    """
    for index, stage in enumerate(stages):
        if index == 3 or index + 1 == len(stages) or any(isinstance(block, EfficientViTBlock) for block in stage):
            return index
    raise AssertionError("an autoencoder has stages")


def _resampling(stage: nn.Sequential, *, zoom: Literal[-1, 1]) -> Step:
    # Each ResBlock sees 2 fine cells around, one coarse one; the convolution next to the resampling at most one more.
    return Step(apply=stage, zoom=zoom, margin=len(stage))


def _whole(stage: nn.Sequential, x: torch.Tensor, *, tile: int) -> torch.Tensor:
    for block in stage:
        if isinstance(block, EfficientViTBlock):  # its inside has 8 times the channels of its result
            x = _attend(block.attn, x, tile=tile)
            x = _in_tiles([Step(apply=block.conv_out, margin=1)], x, tile=tile)
        else:
            x = block(x)
    return x


def _attend(attention: MultiscaleAttention, x: torch.Tensor, *, tile: int) -> torch.Tensor:
    step = Step(apply=attention.qkv, margin=attention.margin)
    tiles = _tiles([step], x, tile=tile)
    summary = sum(summarise(attention.heads(qkv)) for _, _, qkv in tiles)  # (B, heads, D, D + 1)
    assert isinstance(summary, torch.Tensor)

    def apply(piece: torch.Tensor) -> torch.Tensor:
        return attention.project(piece, attend(attention.heads(attention.qkv(piece)), summary))

    return _in_tiles([Step(apply=apply, margin=attention.margin)], x, tile=tile)


def _in_tiles(steps: Sequence[Step], x: torch.Tensor, *, tile: int, progress: bool = False) -> torch.Tensor:
    """Run x (B, C, H, W) through all steps; `tile` counts cells of the result."""
    height, width = _sizes(steps, x.shape[2])[-1], _sizes(steps, x.shape[3])[-1]
    total = -(-height // tile) * -(-width // tile)
    y: torch.Tensor | None = None
    for rows, columns, piece in tqdm(
        _tiles(steps, x, tile=tile), total=total, unit="tile", leave=False, delay=1, disable=not progress
    ):
        if y is None:
            shape = (*piece.shape[:2], height, width)
            y = piece.new_empty(shape).contiguous(memory_format=torch.channels_last)
        y[:, :, slice(*rows), slice(*columns)] = piece
    assert y is not None
    return y


def _tiles(steps: Sequence[Step], x: torch.Tensor, *, tile: int) -> Iterator[tuple[Span, Span, torch.Tensor]]:
    """The result in tiles: rows, columns, and what is there."""
    for rows in _chains(steps, x.shape[2], tile=tile):
        for columns in _chains(steps, x.shape[3], tile=tile):
            piece = x[:, :, slice(*rows[0]), slice(*columns[0])]
            for step, row, column in zip(steps, pairwise(rows), pairwise(columns), strict=True):
                piece = step.apply(piece.contiguous(memory_format=torch.channels_last))
                piece = piece[:, :, step.cut(*row), step.cut(*column)]
            yield rows[-1], columns[-1], piece


def _chains(steps: Sequence[Step], length: int, *, tile: int) -> Iterator[list[Span]]:
    """For each tile along one axis, the part needed before each step, and last the tile itself."""
    sizes = _sizes(steps, length)
    for start in range(0, sizes[-1], tile):
        spans = [(start, min(start + tile, sizes[-1]))]
        for step, limit in zip(reversed(steps), reversed(sizes[:-1]), strict=True):
            spans.insert(0, step.source(spans[0], limit))
        yield spans


def _sizes(steps: Sequence[Step], length: int) -> list[int]:
    sizes = [length]
    for step in steps:
        sizes.append(step.scale(sizes[-1]))
    return sizes
