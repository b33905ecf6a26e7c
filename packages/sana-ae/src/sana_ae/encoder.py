"""From image to latent: stages that refine, each ending in a halving (DC-AE, figure 4)."""

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.blocks import EfficientViTBlock, ResBlock
from sana_ae.config import DCAEConfig
from sana_ae.resample import Downsample, average_channels


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, C, H/f, W/f)."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        widths = config.encoder_block_out_channels
        self.out_shortcut = config.encoder_out_shortcut
        self.conv_in = _first_convolution(config)
        self.down_blocks = nn.ModuleList(_stage(config, index) for index in range(config.num_stages))
        self.conv_out = LeadingOutputs(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, *, channels: int | None = None) -> torch.Tensor:
        """Encode x; `channels` keeps only the first ones of the latent (DC-AE 1.5)."""
        x = self.conv_in(x)  # (B, C0, H, W)
        for stage in self.down_blocks:
            x = stage(x)  # (B, Ci, H/2^i, W/2^i)
        return self.to_latent(x, channels=channels)

    def to_latent(self, x: torch.Tensor, *, channels: int | None = None) -> torch.Tensor:
        """Project the last stage's x (B, Ck, h, w) to the latent (B, C, h, w)."""
        z: torch.Tensor = self.conv_out(x, channels=channels)  # (B, C, h, w)
        return z + average_channels(x, z.shape[1]) if self.out_shortcut else z


class LeadingOutputs(nn.Conv2d):
    """A 3x3 convolution that can leave its last output channels out."""

    def forward(self, x: torch.Tensor, *, channels: int | None = None) -> torch.Tensor:
        """Bring x (B, C, h, w) to (B, channels, h, w), all of them where `channels` is None."""
        assert self.bias is not None
        return F.conv2d(x, self.weight[:channels], self.bias[:channels], padding=1)


def _first_convolution(config: DCAEConfig) -> nn.Module:
    widths = config.encoder_block_out_channels
    if config.encoder_layers_per_block[0]:
        return nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
    return Downsample(config.in_channels, widths[1], kind=config.downsample_block_type, shortcut=False)


def _stage(config: DCAEConfig, index: int) -> nn.Sequential:
    widths, layers = config.encoder_block_out_channels, config.encoder_layers_per_block[index]
    blocks: list[nn.Module] = [_block(config, index) for _ in range(layers)]
    if layers and index + 1 < config.num_stages:
        blocks.append(Downsample(widths[index], widths[index + 1], kind=config.downsample_block_type))
    return nn.Sequential(*blocks)


def _block(config: DCAEConfig, index: int) -> nn.Module:
    width = config.encoder_block_out_channels[index]
    if config.encoder_block_types[index] == "ResBlock":
        return ResBlock(width, norm="rms_norm", act="silu")
    scales = config.encoder_qkv_multiscales[index]
    return EfficientViTBlock(width, head_dim=config.attention_head_dim, kernel_sizes=scales, norm="rms_norm")
