"""Our transformer in the place of diffusers' own, inside a diffusers pipeline."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sana_dit.transformer import SanaTransformer

Pipeline = TypeVar("Pipeline")


class TransformerOutput(NamedTuple):
    """What diffusers' pipelines read: `.sample` or `[0]`."""

    sample: Tensor


class DiffusersTransformer(nn.Module):
    """A `SanaTransformer` behind the interface of diffusers' SanaTransformer2DModel.

    Attributes:
        model: The transformer that does the work.
        config: The configuration object of the replaced model, which pipelines read.
    """

    def __init__(self, model: SanaTransformer, config: Any):
        super().__init__()
        self.model = model
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        controlnet_block_samples: tuple[Tensor, ...] | None = None,
        return_dict: bool = True,
    ) -> TransformerOutput | tuple[Tensor]:
        """Velocity (B,C,h,w) of latents (B,C,h,w), as one of diffusers' two forms of output."""
        ...
