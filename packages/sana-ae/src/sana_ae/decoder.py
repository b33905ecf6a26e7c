"""From latent to image: stages that refine, each beginning with a doubling (DC-AE, figure 4)."""

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.blocks import EfficientViTBlock, ResBlock
from sana_ae.config import DCAEConfig
from sana_ae.norm import RMSNorm2d
from sana_ae.resample import Upsample, duplicate_channels


class Decoder(nn.Module):
    """Latents (B, C, h, w) to images (B, 3, h f, w f). `up_blocks` are stored from full resolution down."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        widths = config.decoder_block_out_channels
        self.in_shortcut = config.decoder_in_shortcut
        self.conv_in = LeadingInputs(config.latent_channels, widths[-1], 3, padding=1)
        self.up_blocks = nn.ModuleList(_stage(config, index) for index in range(config.num_stages))
        self.norm_out = RMSNorm2d(widths[0] if config.decoder_layers_per_block[0] else widths[1])
        self.act = config.decoder_conv_act_fn
        self.conv_out = _last_convolution(config)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode z; it may hold fewer than all latent channels where the model was trained so (DC-AE 1.5)."""
        x = self.from_latent(z)  # (B, Ck, h, w)
        for stage in reversed(self.up_blocks):
            x = stage(x)  # (B, Ci, H/2^i, W/2^i)
        return self.to_image(x)

    def from_latent(self, z: torch.Tensor) -> torch.Tensor:
        """Project z (B, C, h, w) to the width of the last stage."""
        x: torch.Tensor = self.conv_in(z)  # (B, Ck, h, w)
        return x + duplicate_channels(z, x.shape[1]).to(x.dtype) if self.in_shortcut else x

    def to_image(self, x: torch.Tensor) -> torch.Tensor:
        """Turn the features of the largest stage into an image (B, 3, H, W)."""
        x = self.norm_out(x, act=self.act)
        image: torch.Tensor = self.conv_out(x)
        return image


class LeadingInputs(nn.Conv2d):
    """A 3x3 convolution whose last input channels may be missing, and then count as zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring x (B, C, h, w), C at most all channels, to (B, C', h, w)."""
        return F.conv2d(x, self.weight[:, : x.shape[1]], self.bias, padding=1)


def _last_convolution(config: DCAEConfig) -> nn.Module:
    widths = config.decoder_block_out_channels
    if config.decoder_layers_per_block[0]:
        return nn.Conv2d(widths[0], config.in_channels, 3, padding=1)
    return Upsample(widths[1], config.in_channels, kind=config.upsample_block_type, shortcut=False)


def _stage(config: DCAEConfig, index: int) -> nn.Sequential:
    widths, layers = config.decoder_block_out_channels, config.decoder_layers_per_block[index]
    blocks: list[nn.Module] = []
    if layers and index + 1 < config.num_stages:
        blocks.append(Upsample(widths[index + 1], widths[index], kind=config.upsample_block_type))
    blocks.extend(_block(config, index) for _ in range(layers))
    return nn.Sequential(*blocks)


def _block(config: DCAEConfig, index: int) -> nn.Module:
    width, norm = config.decoder_block_out_channels[index], config.decoder_norm_types[index]
    if config.decoder_block_types[index] == "ResBlock":
        return ResBlock(width, norm=norm, act=config.decoder_act_fns[index])
    scales = config.decoder_qkv_multiscales[index]
    return EfficientViTBlock(width, head_dim=config.attention_head_dim, kernel_sizes=scales, norm=norm)
