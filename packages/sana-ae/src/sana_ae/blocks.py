"""The two blocks of DC-AE stages: convolutional at high resolution, EfficientViT at low (DC-AE, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.attention import MultiscaleAttention
from sana_ae.config import Activation, NormType
from sana_ae.norm import RMSNorm2d, build_norm


def activate(x: torch.Tensor, kind: Activation) -> torch.Tensor:
    """ReLU or SiLU of a fresh x, in its memory when no gradient needs it any more."""
    function = F.silu if kind == "silu" else F.relu
    return function(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """x + norm(conv(act(conv(x)))), both 3x3."""

    def __init__(self, channels: int, *, norm: NormType, act: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act: Activation = act
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = build_norm(norm, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine x (B, C, H, W)."""
        h = activate(self.conv1(x), self.act)  # (B, C, H, W)
        y: torch.Tensor = self.norm(self.conv2(h), x)
        return y


class GLUMBConv(nn.Module):
    """x + norm(point(value * silu(gate))): an inverted bottleneck; one half of its depthwise output gates the other."""

    def __init__(self, channels: int, *, expand_ratio: int = 4) -> None:
        super().__init__()
        hidden = expand_ratio * channels
        self.conv_inverted = nn.Conv2d(channels, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm = RMSNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels and neighbours of x (B, C, H, W)."""
        h = activate(self.conv_inverted(x), "silu")  # (B, 8C, H, W)
        value, gate = self.conv_depth(h).chunk(2, dim=1)  # (B, 4C, H, W)
        y: torch.Tensor = self.norm(self.conv_point(value * F.silu(gate)), x)
        return y


class EfficientViTBlock(nn.Module):
    """Global context by linear attention, then local mixing by GLUMBConv; each has its own residual."""

    def __init__(self, channels: int, *, head_dim: int, kernel_sizes: tuple[int, ...], norm: NormType) -> None:
        super().__init__()
        self.attn = MultiscaleAttention(channels, head_dim=head_dim, kernel_sizes=kernel_sizes, norm=norm)
        self.conv_out = GLUMBConv(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine x (B, C, H, W)."""
        x = self.attn(x)  # (B, C, H, W)
        x = self.conv_out(x)  # (B, C, H, W)
        return x
