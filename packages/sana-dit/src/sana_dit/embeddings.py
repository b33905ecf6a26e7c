"""What enters the transformer: latents, timestep, guidance, caption (SANA, sections 2.2 and 2.3).

B batch, N tokens, D width, L caption tokens.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sana_dit.config import SanaConfig
from sana_dit.layers import Linear
from sana_dit.ops import rms_norm

_FREQUENCIES = 128
_CAPTION_SCALE = 0.01


class PatchEmbedding(nn.Module):
    """Latents to tokens, plus a fixed position embedding where the configuration asks for one (2K and 4K)."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.base_size = config.sample_size // config.patch_size
        self.interpolation_scale = config.interpolation_scale
        self.proj = Linear(config.in_channels * config.patch_size**2, config.width)

    def forward(self, latents: Tensor) -> Tensor:
        """Maps (B, C, h, w) to (B, N, D)."""
        p = self.patch_size
        batch, channels, height, width = latents.shape
        x = latents.reshape(batch, channels, height // p, p, width // p, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, C*p*p)
        x = self.proj(x)  # (B, N, D)
        if self.interpolation_scale is None:
            return x
        positions = sincos_positions(
            height // p,
            width // p,
            dim=x.shape[-1],
            stretch=self.base_size / self.interpolation_scale,
            device=x.device,
        )  # (N, D)
        return (x + positions).to(x.dtype)


def sincos_positions(
    height: int, width: int, *, dim: int, stretch: float, device: torch.device | None = None
) -> Tensor:
    """Returns a 2-D sine-cosine embedding (height * width, dim) in float32: columns first, then rows.

    Positions run from 0 to `stretch` whatever the grid, so a larger image is a finer grid over the same range.
    """
    columns = _sincos(width, stretch, dim=dim // 2, device=device).expand(height, -1, -1)  # (h, w, D/2)
    rows = _sincos(height, stretch, dim=dim // 2, device=device)[:, None].expand(-1, width, -1)  # (h, w, D/2)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)  # (N, D)


def _sincos(count: int, stretch: float, *, dim: int, device: torch.device | None) -> Tensor:
    # Angles in float64, as in both references: at 128 cells float32 is off by 1e-5. Apple's GPUs have none.
    dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
    positions = torch.arange(count, device=device, dtype=torch.float32) * (stretch / count)
    frequencies = 10000.0 ** -(torch.arange(dim // 2, device=device, dtype=dtype) / (dim // 2))
    angles = torch.outer(positions.to(dtype), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


class ScalarEmbedding(nn.Module):
    """One number per sample to one vector: 256 sinusoids and a two-layer network."""

    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = Linear(2 * _FREQUENCIES, width, std=0.02)
        self.linear_2 = Linear(width, width, std=0.02)

    def forward(self, value: Tensor) -> Tensor:
        """Maps (B,) to (B, D); the sinusoids are computed in float32."""
        x = _sinusoids(value).to(self.linear_1.weight.dtype)  # (B, 256)
        x = F.silu(self.linear_1(x))  # (B, D)
        return self.linear_2(x)  # (B, D)


def _sinusoids(value: Tensor) -> Tensor:
    exponents = torch.arange(_FREQUENCIES, dtype=torch.float32, device=value.device) / _FREQUENCIES
    angles = value[:, None].float() * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeStates(NamedTuple):
    """What the transformer needs of a timestep.

    Attributes:
        vector: For the final layer (B, D).
        modulation: For all blocks, which add their own tables to it (B, 6, D).
    """

    vector: Tensor
    modulation: Tensor


class TimeEmbedding(nn.Module):
    """Timestep and, in Sprint, guidance to the modulation that all blocks share (adaLN-single)."""

    __call__: Callable[..., TimeStates]

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.timestep = ScalarEmbedding(config.width)
        self.guidance = ScalarEmbedding(config.width) if config.guidance_embeds else None
        self.modulation = Linear(config.width, 6 * config.width, std=0.02)

    def forward(self, timestep: Tensor, guidance: Tensor | None) -> TimeStates:
        """Maps (B,) and (B,) or None to the time vector (B, D) and the modulation of the blocks (B, 6, D)."""
        t = self.timestep(timestep)  # (B, D)
        if self.guidance is not None:
            t = t + self.guidance(guidance)
        return TimeStates(t, self.modulation(F.silu(t)).reshape(t.shape[0], 6, -1))


class CaptionEmbedding(nn.Module):
    """Text-encoder states to caption tokens of small, learned norm, which keeps cross-attention stable."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.linear_1 = Linear(config.caption_channels, config.width, std=0.02)
        self.linear_2 = Linear(config.width, config.width, std=0.02)
        self.norm = nn.Parameter(torch.full((config.width,), _CAPTION_SCALE))

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Puts every weight back to a first value."""
        self.linear_1.reset_parameters(generator)
        self.linear_2.reset_parameters(generator)
        nn.init.constant_(self.norm, _CAPTION_SCALE)

    def forward(self, caption: Tensor) -> Tensor:
        """Maps (B, L, caption_channels) to (B, L, D)."""
        x = F.gelu(self.linear_1(caption), approximate="tanh")  # (B, L, D)
        x = self.linear_2(x)  # (B, L, D)
        return rms_norm(x, self.norm, eps=1e-5)
