"""Diffusers' models beside ours with the same random weights; without diffusers ours are measured alone."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sana_dit import (
    SANA_0_6B,
    SANA_1_5_1_6B,
    SANA_1_5_4_8B,
    SANA_1_6B,
    SanaConfig,
    SanaTransformer,
)
from sana_dit.diffusers_config import to_diffusers_config
from sana_dit.weights import to_diffusers

HAS_DIFFUSERS = find_spec("diffusers") is not None
REFERENCE = "diffusers" if HAS_DIFFUSERS else "none: diffusers is not installed"
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
    "tiny": replace(
        SANA_1_5_1_6B, num_layers=1, num_attention_heads=2, num_cross_attention_heads=1, cross_attention_head_dim=64
    ),
}


def build(config: SanaConfig, *, device: torch.device, dtype: torch.dtype) -> tuple[SanaTransformer, Any]:
    """Returns our model, its weights off the ones it starts with, and diffusers' with the same, None without it."""
    torch.manual_seed(0)
    with torch.device(device):
        ours = SanaTransformer(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
            parameter.data = parameter.data.to(dtype)
    ours.to(dtype)
    return ours, build_diffusers(ours) if HAS_DIFFUSERS else None


def build_diffusers(ours: SanaTransformer, *, shared: bool = False) -> Any:
    """Returns diffusers' model with a copy of our weights, or over the same memory."""
    from diffusers import SanaTransformer2DModel

    fields: dict[str, Any] = to_diffusers_config(ours.config, ours.config.num_layers)
    fields.pop("_class_name")
    weights = to_diffusers(ours.state_dict(), ours.config)
    if not shared:
        weights = {name: weight.clone() for name, weight in weights.items()}
    with torch.device("meta"):
        theirs = SanaTransformer2DModel(**fields)
    theirs.load_state_dict(weights, assign=True)
    assert not any(tensor.is_meta for tensor in (*theirs.parameters(), *theirs.buffers()))
    return theirs.eval()


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


def call_reference(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Returns the velocity of diffusers' model for our inputs, or that of ours where there is no diffusers."""
    velocity: Tensor
    if isinstance(model, SanaTransformer):
        velocity = model(**inputs)
    else:
        velocity = model(
            inputs["latents"],
            encoder_hidden_states=inputs["caption"],
            timestep=inputs["timestep"],
            encoder_attention_mask=inputs["caption_mask"],
            return_dict=False,
        )[0]
    return velocity
