"""The linear diffusion transformer of SANA: latents, time and caption in, velocity out (SANA, section 2.2)."""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from sana_dit.block import SanaBlock
from sana_dit.conditioning import Conditioning, drop_padding, stack_memories
from sana_dit.config import SanaConfig
from sana_dit.embeddings import CaptionEmbedding, PatchEmbedding, TimeEmbedding, TimeStates
from sana_dit.initialization import fill_normal
from sana_dit.layers import Linear
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
        adapters: The LoRAs in it and their scales. Another dictionary whenever one is loaded, fused or taken out.

    Example:
        >>> model = SanaTransformer(SANA_0_6B)
        >>> velocity = model(latents, timestep, caption, caption_mask)  # (B, 32, h, w)
    """

    __call__: Callable[..., Tensor]

    def __init__(self, config: SanaConfig):
        super().__init__(config)
        self.adapters: dict[str, float] = {}
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
        self._check_latents(latents)
        self._check_time(timestep, guidance, len(latents))
        self._check_caption(caption, caption_mask, len(latents))
        dtype = self.final.proj.weight.dtype
        height, width = self._grid(latents)

        x = self.patch(latents.to(dtype))  # (B, N, D)
        t, modulation = self.time(timestep, guidance)  # (B, D), (B, 6, D)
        y = self.caption(caption.to(dtype))  # (B, L, D)
        bias = None if caption_mask is None else _attention_bias(caption_mask, dtype)  # (B, 1, 1, L)

        for block in self.blocks:
            x = block(x, modulation, y, bias, height=height, width=width)  # (B, N, D)

        return self._to_latents(self.final(x, t), height, width)  # (B, C, h, w)

    @torch.no_grad()
    def prepare(self, caption: Tensor, caption_mask: Tensor | None = None) -> Conditioning:
        """Reads captions once for all the steps of a sampler: what `denoise` needs of them.

        The keys and values of every block are computed here, tokens that the mask leaves out are dropped, and the
        cross-attention to captions of one token, such as the empty negative prompt, becomes a constant. Captions and
        mask are those of `forward`; no gradients flow.
        """
        self._check_caption(caption, caption_mask, len(caption))
        dtype = self.final.proj.weight.dtype
        bias = None if caption_mask is None else _attention_bias(caption_mask, dtype)  # (B, 1, 1, L)
        caption, bias, folded = drop_padding(caption.to(dtype), bias)  # (B, L', caption_channels)
        y = self.caption(caption)  # (B, L', D)
        blocks = cast(Iterable[SanaBlock], self.blocks)
        return stack_memories([block.cross_attn.read(y, bias, folded=folded) for block in blocks])

    def denoise(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> Tensor:
        """Returns the velocity (k B, C, h, w) as `forward` does, from what `time` and `prepare` returned before.

        Args:
            latents: Noisy latents (B, C, h, w), times the autoencoder's scaling factor.
            time: Of these samples (B), or one for all (1).
            conditioning: Of k B captions, sample after sample in each of k branches: guidance has two, which share
                the latents.
        """
        self._check_latents(latents)
        self._check_branches(latents, time, conditioning)
        height, width = self._grid(latents)

        x = self.patch(latents.to(self.final.proj.weight.dtype))  # (B, N, D)
        repeats = conditioning.batch // len(time.vector)
        t = time.vector.repeat(repeats, 1)  # (k B, D)
        modulation = time.modulation.repeat(repeats, 1, 1)  # (k B, 6, D), so that the first block makes x (k B, N, D)

        for block, memory in zip(self.blocks, conditioning.memories(), strict=True):
            x = block(x, modulation, memory, height=height, width=width)  # (k B, N, D)

        return self._to_latents(self.final(x, t), height, width)  # (k B, C, h, w)

    def _grid(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[2] // self.config.patch_size, latents.shape[3] // self.config.patch_size

    def _to_latents(self, x: Tensor, height: int, width: int) -> Tensor:
        p = self.config.patch_size
        x = x.reshape(x.shape[0], height, width, p, p, -1)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).contiguous()  # (B, C, h, w)

    def _check_branches(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> None:
        batch, captions = len(latents), conditioning.batch
        if captions % batch:
            raise ValueError(f"{captions} captions for {batch} samples; the first must be a multiple of the second")
        if len(time.vector) not in (1, batch):
            raise ValueError(f"{len(time.vector)} timesteps for {batch} samples; give one for all, or one for each")

    def _check_latents(self, latents: Tensor) -> None:
        c = self.config
        if latents.ndim != 4 or latents.shape[1] != c.in_channels:
            raise ValueError(f"latents are {tuple(latents.shape)}; expected (B, {c.in_channels}, h, w)")
        if latents.shape[2] % c.patch_size or latents.shape[3] % c.patch_size:
            raise ValueError(
                f"latents are {tuple(latents.shape)}; sides must be multiples of patch_size {c.patch_size}"
            )

    def _check_time(self, timestep: Tensor, guidance: Tensor | None, batch: int) -> None:
        if timestep.shape != (batch,):
            raise ValueError(
                f"timestep is {tuple(timestep.shape)}; expected one per sample, ({batch},): try t.expand({batch})"
            )
        if (guidance is not None) != self.config.guidance_embeds:
            given = "not given" if guidance is None else "given"
            raise ValueError(
                f"guidance is {given}, but the model has guidance_embeds={self.config.guidance_embeds}: pass "
                "guidance (B,) to Sprint models and to no others"
            )
        if guidance is not None and guidance.shape != (batch,):
            raise ValueError(f"guidance is {tuple(guidance.shape)}; expected one per sample, ({batch},)")

    def _check_caption(self, caption: Tensor, caption_mask: Tensor | None, batch: int) -> None:
        channels = self.config.caption_channels
        if caption.ndim != 3 or caption.shape[0] != batch or caption.shape[2] != channels:
            raise ValueError(f"caption is {tuple(caption.shape)}; expected ({batch}, L, {channels})")
        if caption_mask is not None and caption_mask.shape != caption.shape[:2]:
            raise ValueError(
                f"caption_mask is {tuple(caption_mask.shape)}; expected {tuple(caption.shape[:2])}, as the caption"
            )


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


def is_called_whole(model: SanaTransformer) -> bool:
    """Whether somebody relies on whole forwards: it was compiled so, or there are hooks, as FSDP and offloading set."""
    if "_orig_mod" in model._modules or model._compiled_call_impl is not None:
        return True
    return any(
        module._forward_hooks or module._forward_pre_hooks or "_hf_hook" in module.__dict__
        for module in model.modules()
    )


def _attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # Finite, so that a caption whose mask is empty attends to all of it and gives no NaN.
    return ((1 - mask.to(dtype)) * -10000.0)[:, None, None, :]
