"""Halving and doubling resolution around parameter-free shortcuts: residual autoencoding (DC-AE, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.config import Downsampling, Upsampling


class Downsample(nn.Module):
    """Half the resolution: a convolution, plus space-to-channel with averaged channels as its shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, kind: Downsampling, shortcut: bool = True) -> None:
        super().__init__()
        self.unshuffle = kind == "pixel_unshuffle"
        self.shortcut = shortcut
        if self.unshuffle:
            self.conv = nn.Conv2d(in_channels, out_channels // 4, 3, padding=1)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring x (B, C, H, W) to (B, C', H/2, W/2)."""
        h: torch.Tensor = self.conv(x)
        if self.unshuffle:
            h = pixel_unshuffle(h)  # (B, C', H/2, W/2)
        return h.add_(space_to_channel(x, h.shape[1])) if self.shortcut else h


class Upsample(nn.Module):
    """Twice the resolution: a convolution, plus channel-to-space of duplicated channels as its shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, kind: Upsampling, shortcut: bool = True) -> None:
        super().__init__()
        self.interpolate = kind == "interpolate"
        self.shortcut = shortcut
        if self.interpolate:
            self.conv: nn.Conv2d = NearestConv2d(in_channels, out_channels, 3, padding=1)
        else:
            self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring x (B, C, H, W) to (B, C', 2H, 2W)."""
        h: torch.Tensor = self.conv(x)
        if not self.interpolate:
            h = pixel_shuffle(h)  # (B, C', 2H, 2W)
        return h.add_(channel_to_space(x, h.shape[1])) if self.shortcut else h


class NearestConv2d(nn.Conv2d):
    """A 3x3 convolution of the image that nearest-neighbour upsampling makes of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring x (B, C, H, W) to (B, C', 2H, 2W)."""
        return nearest_then_convolve(x, self.weight, self.bias)


def nearest_then_convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Double x (B, C, H, W) by nearest neighbour, then apply a padded 3x3 `weight` (C', C, 3, 3): (B, C', 2H, 2W).

    Three neighbours in the doubled image are copies of only two pixels, so this is a transposed convolution of stride 2
    whose 4x4 kernel holds, along each axis, (w2, w1 + w2, w0 + w1, w0): 4 multiplications per output instead of 9.
    """
    row, tap = torch.arange(4, device=weight.device), torch.arange(3, device=weight.device)
    sums = ((row.unsqueeze(1) + tap) // 2 == 1).to(weight.dtype)  # (4, 3): row k sums the taps 2 - k and 3 - k
    kernel = torch.unflatten(weight.flatten(2) @ torch.kron(sums, sums).T, 2, (4, 4))  # (C', C, 4, 4)
    return F.conv_transpose2d(x, kernel.transpose(0, 1), bias, stride=2, padding=1)


def pixel_unshuffle(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to (B, 4C, H/2, W/2), channels-last on every device: PyTorch's own is so on a CPU only."""
    return F.pixel_unshuffle(x, 2) if x.device.type == "cpu" else permuted_unshuffle(x)


def permuted_unshuffle(x: torch.Tensor) -> torch.Tensor:
    """`pixel_unshuffle` by a permutation of channels-last cells."""
    cells = torch.unflatten(torch.unflatten(x.movedim(1, -1), 2, (-1, 2)), 1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(3).movedim(-1, 1)  # (B, 4C, H/2, W/2)


def pixel_shuffle(x: torch.Tensor) -> torch.Tensor:
    """(B, 4C, H, W) to (B, C, 2H, 2W), the inverse."""
    return F.pixel_shuffle(x, 2) if x.device.type == "cpu" else permuted_shuffle(x)


def permuted_shuffle(x: torch.Tensor) -> torch.Tensor:
    """`pixel_shuffle` by a permutation of channels-last cells."""
    cells = torch.unflatten(x.movedim(1, -1), -1, (-1, 2, 2))  # (B, H, W, C, 2, 2)
    return cells.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).movedim(-1, 1)  # (B, C, 2H, 2W)


def space_to_channel(x: torch.Tensor, channels: int) -> torch.Tensor:
    """average_channels(pixel_unshuffle(x), channels), by fewer copies where the channels stay or double."""
    if channels == x.shape[1]:  # a group is one 2x2 cell
        return F.avg_pool2d(x, 2)
    if channels == 2 * x.shape[1]:  # a group is one row of a cell
        rows = torch.unflatten(F.avg_pool2d(x, (1, 2)).movedim(1, -1), 1, (-1, 2))  # (B, H/2, 2, W/2, C)
        return rows.permute(0, 1, 3, 4, 2).flatten(3).movedim(-1, 1)  # (B, 2C, H/2, W/2)
    return average_channels(pixel_unshuffle(x), channels)


def channel_to_space(x: torch.Tensor, channels: int) -> torch.Tensor:
    """pixel_shuffle(duplicate_channels(x, 4 * channels)), by fewer copies where the channels stay or halve."""
    if channels == x.shape[1]:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    if 2 * channels == x.shape[1]:
        rows = torch.unflatten(x.movedim(1, -1), -1, (channels, 2)).permute(0, 1, 4, 2, 3)  # (B, H, 2, W, C/2)
        return F.interpolate(rows.flatten(1, 2).movedim(-1, 1), scale_factor=(1.0, 2.0), mode="nearest")
    return pixel_shuffle(duplicate_channels(x, 4 * channels))


def average_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Average neighbouring channels of x (B, C, H, W) until `channels` are left."""
    return torch.unflatten(x.movedim(1, -1), -1, (channels, -1)).mean(dim=-1).movedim(-1, 1)


def duplicate_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Repeat each channel of x (B, C, H, W) next to itself until there are `channels`."""
    return x.movedim(1, -1).repeat_interleave(channels // x.shape[1], dim=-1).movedim(-1, 1)
