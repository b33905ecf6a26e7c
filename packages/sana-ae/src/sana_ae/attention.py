"""Multi-scale ReLU linear attention over feature maps (EfficientViT, section 3.2)."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from sana_ae.config import NormType
from sana_ae.norm import build_norm


class MultiscaleAttention(nn.Module):
    """x + norm(project(attention(x))), where every scale adds heads whose q, k and v are aggregated locally.

    Rows of `to_qkv` are interleaved by head: [q0 k0 v0 q1 k1 v1 ...], `head_dim` each.
    """

    def __init__(self, channels: int, *, head_dim: int, kernel_sizes: tuple[int, ...], norm: NormType) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.margin = max(kernel_sizes, default=1) // 2  # pixels around one that its q, k and v depend on
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(
            Aggregation(3 * channels, head_dim=head_dim, kernel_size=size) for size in kernel_sizes
        )
        self.to_out = nn.Linear(channels * (1 + len(kernel_sizes)), channels, bias=False)
        self.norm_out = build_norm(norm, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over all pixels of x (B, C, H, W)."""
        heads = self.heads(self.qkv(x))  # (B, heads, N, 3D)
        return self.project(x, attend(heads, summarise(heads)))

    def qkv(self, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of x (B, C, H, W) at all S scales: (B, 3C S, H, W)."""
        qkv = self.to_qkv(x.movedim(1, -1)).movedim(-1, 1)  # (B, 3C, H, W)
        scales = [aggregate(qkv) for aggregate in self.to_qkv_multiscale]
        return torch.cat([qkv, *scales], dim=1) if scales else qkv

    def heads(self, qkv: torch.Tensor) -> torch.Tensor:
        """Rearrange (B, 3C S, H, W) into (B, heads, H W, 3D)."""
        pixels = qkv.movedim(1, -1).flatten(1, 2)  # (B, N, 3C S)
        return torch.unflatten(pixels, -1, (-1, 3 * self.head_dim)).transpose(1, 2)

    def project(self, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Join the attended values (B, heads, H W, D) of all heads and add them to x (B, C, H, W)."""
        out = torch.unflatten(self.to_out(values.transpose(1, 2).flatten(2)), 1, x.shape[2:])  # (B, H, W, C)
        y: torch.Tensor = self.norm_out(out.movedim(-1, 1), x)
        return y


class Aggregation(nn.Module):
    """One extra scale: a depthwise convolution, then a 1x1 convolution inside each q, k or v of a head."""

    def __init__(self, channels: int, *, head_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=channels // head_dim, bias=False)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Mix each pixel of qkv (B, 3C, H, W) with its neighbours."""
        out: torch.Tensor = self.proj_out(self.proj_in(qkv))
        return out


def summarise(qkv: torch.Tensor) -> torch.Tensor:
    """All that queries have to know of keys and values: sum_n relu(k_n) (v_n, 1) in fp32, (B, heads, D, D + 1).

    qkv is (B, heads, N, 3D). Summaries of parts of an image add up to that of the whole. In bf16 the sum over N would
    stop growing after a few hundred pixels.
    """
    with _full_precision(qkv.device):
        _, k, v = qkv.float().chunk(3, dim=-1)  # (B, heads, N, D)
        k = F.relu(k).transpose(-1, -2)  # (B, heads, D, N)
        return torch.cat((k @ v, k.sum(dim=-1, keepdim=True)), dim=-1)


def attend(qkv: torch.Tensor, summary: torch.Tensor, *, eps: float = 1e-15) -> torch.Tensor:
    """Linear attention: sum_m (q_n . k_m) v_m / (sum_m q_n . k_m + eps), q and k through ReLU.

    qkv is (B, heads, N, 3D), `summary` (B, heads, D, D + 1); the result (B, heads, N, D) has the dtype of qkv.
    """
    with _full_precision(qkv.device):
        q = F.relu(qkv[..., : qkv.shape[-1] // 3].float())  # (B, heads, N, D)
        sums = q @ summary  # (B, heads, N, D + 1)
        return (sums[..., :-1] / (sums[..., -1:] + eps)).to(qkv.dtype)


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
