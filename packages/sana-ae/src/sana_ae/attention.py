"""Multi-scale ReLU linear attention over feature maps (EfficientViT, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.config import NormType
from sana_ae.norm import build_norm


class MultiscaleAttention(nn.Module):
    """x + norm(project(attention(x))), where every scale adds heads whose q, k and v are locally aggregated.

    Rows of `to_qkv` are interleaved by head: [q0 k0 v0 q1 k1 v1 ...], `head_dim` each.
    """

    def __init__(self, channels: int, *, head_dim: int, kernel_sizes: tuple[int, ...], norm: NormType) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(
            Aggregation(3 * channels, head_dim=head_dim, kernel_size=size) for size in kernel_sizes
        )
        self.to_out = nn.Linear(channels * (1 + len(kernel_sizes)), channels, bias=False)
        self.norm_out = build_norm(norm, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over all pixels of x (B, C, H, W)."""
        qkv = self.to_qkv(x.movedim(1, -1)).movedim(-1, 1)  # (B, 3C, H, W)
        scales = [qkv, *(aggregate(qkv) for aggregate in self.to_qkv_multiscale)]
        qkv = torch.cat(scales, dim=1).movedim(1, -1)  # (B, H, W, 3C S)
        heads = qkv.unflatten(-1, (-1, 3 * self.head_dim)).flatten(1, 2)  # (B, N, heads, 3D)
        out = linear_attention(heads.transpose(1, 2)).transpose(1, 2)  # (B, N, heads, D)
        out = out.flatten(2).unflatten(1, x.shape[2:])  # (B, H, W, C S)
        return self.norm_out(self.to_out(out).movedim(-1, 1), x)


class Aggregation(nn.Module):
    """One extra scale: a depthwise convolution, then a 1x1 convolution inside each q, k or v of a head."""

    def __init__(self, channels: int, *, head_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=channels // head_dim, bias=False)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Mix each pixel of qkv (B, 3C, H, W) with its neighbours."""
        out: torch.Tensor = self.proj_out(self.proj_in(qkv))
        return out


def linear_attention(qkv: torch.Tensor, *, eps: float = 1e-15) -> torch.Tensor:
    """ReLU attention at linear cost: out_n = sum_m (q_n . k_m) v_m / (sum_m q_n . k_m + eps), q and k through ReLU.

    qkv is (B, heads, N, 3D); the result (B, heads, N, D) has its dtype. Sums run in fp32 also under autocast: over N
    pixels bf16 would lose all but the first few hundred.
    """
    with torch.autocast(qkv.device.type, enabled=False):
        q, k, v = qkv.float().chunk(3, dim=-1)  # (B, heads, N, D)
        q, k = F.relu(q), F.relu(k)
        numerator = q @ (k.transpose(-1, -2) @ v)  # (B, heads, N, D)
        denominator = q @ k.sum(dim=-2).unsqueeze(-1)  # (B, heads, N, 1)
        return (numerator / (denominator + eps)).to(qkv.dtype)
