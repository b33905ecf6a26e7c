"""Diffusers' models beside ours with the same random weights."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sana_dit import (
    SANA_0_6B,
    SANA_1_5_1_6B,
    SANA_1_5_4_8B,
    SANA_1_6B,
    SanaConfig,
    SanaTransformer,
)
from sana_dit.diffusers_config import to_diffusers_config
from sana_dit.weights import read_names

CAPTION_TOKENS = 300
TRANSFORMERS = {
    "0.6b": SANA_0_6B,
    "1.6b": SANA_1_6B,
    "1.5-1.6b": SANA_1_5_1_6B,
    "1.5-4.8b": SANA_1_5_4_8B,
    # Small enough for a processor: width 512, 8 layers.
    "small": replace(
        SANA_1_5_1_6B, num_layers=8, num_attention_heads=16, num_cross_attention_heads=8, cross_attention_head_dim=64
    ),
}


def build(
    config: SanaConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[SanaTransformer, SanaTransformer2DModel]:
    """Returns our model and diffusers' with the same weights, off the ones they start with."""
    torch.manual_seed(0)
    fields: dict[str, Any] = to_diffusers_config(config, config.num_layers)
    fields.pop("_class_name")
    with torch.device(device):
        theirs = SanaTransformer2DModel(**fields).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
            parameter.data = parameter.data.to(dtype)
    with torch.device(device):
        ours = SanaTransformer(config).to(dtype).eval()
    ours.load_state_dict(read_names(theirs.state_dict()).weights)
    return ours, theirs


def draw_inputs(
    config: SanaConfig, *, batch: int, side: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Returns latents, timestep, caption and a mask in which every caption token counts."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    return {
        "latents": draw(batch, config.in_channels, side, side),
        "timestep": torch.full((batch,), 500.0, device=device),
        "caption": draw(batch, CAPTION_TOKENS, config.caption_channels),
        "caption_mask": torch.ones(batch, CAPTION_TOKENS, device=device),
    }


def call_diffusers(model: SanaTransformer2DModel, inputs: dict[str, Tensor]) -> Tensor:
    """Returns the velocity of diffusers' model for our inputs."""
    velocity: Tensor = model(
        inputs["latents"],
        encoder_hidden_states=inputs["caption"],
        timestep=inputs["timestep"],
        encoder_attention_mask=inputs["caption_mask"],
        return_dict=False,
    )[0]
    return velocity


def count_flops(config: SanaConfig, *, batch: int, side: int) -> int:
    """Returns the operations of a forward, counted without weights (2 for a product and sum)."""
    with torch.device("meta"), torch.no_grad():
        model = SanaTransformer(config)
        inputs = draw_meta(config, batch, side)
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    return int(counter.get_total_flops())


def draw_meta(config: SanaConfig, batch: int, side: int) -> dict[str, Tensor]:
    """Returns the shapes of `draw_inputs`."""
    return {
        "latents": torch.empty(batch, config.in_channels, side, side),
        "timestep": torch.empty(batch),
        "caption": torch.empty(batch, CAPTION_TOKENS, config.caption_channels),
        "caption_mask": torch.empty(batch, CAPTION_TOKENS),
    }
