"""The linear diffusion transformer of SANA: latents, time and caption in, velocity out (SANA, section 2.2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sana_dit.block import SanaBlock
from sana_dit.config import SanaConfig
from sana_dit.embeddings import CaptionEmbedding, PatchEmbedding, TimeEmbedding
from sana_dit.initialization import Linear, fill_normal
from sana_dit.ops import modulated_norm
from sana_dit.pretrained import Pretrained


class SanaTransformer(Pretrained):
    """Predicts the velocity of a flow from noise to images.

    B batch, C latent channels, h and w latent cells, N tokens, L caption tokens, D width.

    Attributes:
        config: The model's shape. Depth surgery replaces both it and `blocks`.
        blocks: The `SanaBlock`s in order.
        null_caption: The caption states (L, caption_channels) that stand for "no caption" in training, or None
            where a checkpoint does not say. A buffer, not part of `state_dict()`.

    Example:
        >>> model = SanaTransformer(SANA_0_6B)
        >>> velocity = model(latents, timestep, caption, caption_mask)  # (B, 32, h, w)
    """

    __call__: Callable[..., Tensor]

    def __init__(self, config: SanaConfig):
        super().__init__(config)
        self.patch = PatchEmbedding(config)
        self.time = TimeEmbedding(config)
        self.caption = CaptionEmbedding(config)
        self.blocks = nn.ModuleList(SanaBlock(config) for _ in range(config.num_layers))
        self.final = FinalLayer(config)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        caption: Tensor,
        caption_mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Returns the velocity (B, C, h, w) in the dtype of the model.

        Args:
            latents: Noisy latents (B, C, h, w), times the autoencoder's scaling factor.
            timestep: Time (B,), integer or float, in [0, 1000); Sprint in [0, 1].
            caption: States of the text encoder (B, L, caption_channels).
            caption_mask: 1 or True where a caption token counts (B, L), any dtype; None counts them all.
            guidance: Guidance scale times `config.guidance_embeds_scale` (B,), for Sprint and only for it.
        """
        self._check(latents, timestep, caption, caption_mask, guidance)
        dtype, p = self.final.proj.weight.dtype, self.config.patch_size
        height, width = latents.shape[2] // p, latents.shape[3] // p

        x = self.patch(latents.to(dtype))  # (B, N, D)
        t, modulation = self.time(timestep, guidance)  # (B, D), (B, 6, D)
        y = self.caption(caption.to(dtype))  # (B, L, D)
        bias = None if caption_mask is None else _attention_bias(caption_mask, dtype)  # (B, 1, 1, L)

        for block in self.blocks:
            x = block(x, modulation, y, bias, height=height, width=width)  # (B, N, D)

        x = self.final(x, t)  # (B, N, p*p*C)
        x = x.reshape(x.shape[0], height, width, p, p, -1)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).contiguous()  # (B, C, h, w)

    def _check(
        self,
        latents: Tensor,
        timestep: Tensor,
        caption: Tensor,
        caption_mask: Tensor | None,
        guidance: Tensor | None,
    ) -> None:
        c = self.config
        batch = latents.shape[0]
        if latents.ndim != 4 or latents.shape[1] != c.in_channels:
            raise ValueError(f"latents are {tuple(latents.shape)}; expected (B, {c.in_channels}, h, w)")
        if latents.shape[2] % c.patch_size or latents.shape[3] % c.patch_size:
            raise ValueError(
                f"latents are {tuple(latents.shape)}; sides must be multiples of patch_size {c.patch_size}"
            )
        if timestep.shape != (batch,):
            raise ValueError(
                f"timestep is {tuple(timestep.shape)}; expected one per sample, ({batch},): try t.expand({batch})"
            )
        if caption.ndim != 3 or caption.shape[0] != batch or caption.shape[2] != c.caption_channels:
            raise ValueError(f"caption is {tuple(caption.shape)}; expected ({batch}, L, {c.caption_channels})")
        if caption_mask is not None and caption_mask.shape != caption.shape[:2]:
            raise ValueError(
                f"caption_mask is {tuple(caption_mask.shape)}; expected {tuple(caption.shape[:2])}, as the caption"
            )
        if (guidance is not None) != c.guidance_embeds:
            given = "not given" if guidance is None else "given"
            raise ValueError(
                f"guidance is {given}, but the model has guidance_embeds={c.guidance_embeds}: pass guidance (B,) "
                "to Sprint models and to no others"
            )
        if guidance is not None and guidance.shape != (batch,):
            raise ValueError(f"guidance is {tuple(guidance.shape)}; expected one per sample, ({batch},)")


class FinalLayer(nn.Module):
    """Tokens to patches: a norm modulated by the time vector and a linear layer."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.proj = Linear(config.width, config.patch_size**2 * config.out_channels)
        self.scale_shift_table = nn.Parameter(torch.empty(2, config.width))
        fill_normal(self.scale_shift_table, 1 / math.sqrt(config.width), None)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Maps (B, N, D) and the time vector (B, D) to (B, N, p*p*C)."""
        shift, scale = (self.scale_shift_table + t[:, None]).unbind(1)  # (B, D), (B, D)
        return self.proj(modulated_norm(x, shift, scale))


def _attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # Finite, so that a caption whose mask is empty attends to all of it and gives no NaN.
    return ((1 - mask.to(dtype)) * -10000.0)[:, None, None, :]
