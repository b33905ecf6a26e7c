"""One transformer block: modulated self-attention, cross-attention, modulated Mix-FFN (SANA, figure 5)."""

import math

import torch
from torch import Generator, Tensor, nn

from sana_dit.attention import CrossAttention, LinearAttention
from sana_dit.conditioning import CaptionMemory
from sana_dit.config import SanaConfig
from sana_dit.initialization import fill_normal
from sana_dit.mix_ffn import GLUMBConv
from sana_dit.ops import gated_residual, modulated_norm


class SanaBlock(nn.Module):
    """A block of the transformer; B batch, N image tokens, L caption tokens, D width."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.self_attn = LinearAttention(config)
        self.cross_attn = CrossAttention(config)
        self.mix_ffn = GLUMBConv(config)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))
        self._reset_table(None)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        caption: Tensor | CaptionMemory,
        caption_bias: Tensor | None = None,
        *,
        height: int,
        width: int,
    ) -> Tensor:
        """Maps tokens to tokens.

        Args:
            x: Image tokens (B, N, D), N = height * width.
            modulation: The time's part of shifts, scales and gates (B, 6, D). With k B of them and as many captions,
                tokens become (k B, N, D): branches that differ in their captions only share the self-attention.
            caption: Caption tokens (B, L, D), or what `cross_attn.read` made of them before.
            caption_bias: Added to the attention scores of the caption tokens (B, 1, 1, L).
            height: Rows of the token grid.
            width: Columns of the token grid.
        """
        modulation = self.scale_shift_table + modulation  # (k B, 6, D)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.unbind(1)  # 6 x (k B, D)

        b, k = len(x), len(modulation) // len(x)
        y = self.self_attn(modulated_norm(x, shift_msa[:b], scale_msa[:b]))  # (B, N, D)
        x = gated_residual(x, y, gate_msa[:b])
        x = x.repeat(k, 1, 1) if k > 1 else x  # (k B, N, D)

        x = x + self.cross_attn(x, caption, caption_bias)

        y = self.mix_ffn(modulated_norm(x, shift_mlp, scale_mlp), height=height, width=width)  # (k B, N, D)
        return gated_residual(x, y, gate_mlp)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Makes the block a fresh one; equal generators give equal blocks."""
        self.self_attn.reset_parameters(generator)
        self.cross_attn.reset_parameters(generator)
        self.mix_ffn.reset_parameters(generator)
        self._reset_table(generator)

    def zero_residuals(self) -> None:
        """Makes the block the identity: its three output projections become zero (SANA-1.5, depth growth)."""
        for projection in (self.self_attn.to_out, self.cross_attn.to_out, self.mix_ffn.point):
            for parameter in projection.parameters():
                nn.init.zeros_(parameter)

    def _reset_table(self, generator: Generator | None) -> None:
        fill_normal(self.scale_shift_table, 1 / math.sqrt(self.scale_shift_table.shape[1]), generator)
