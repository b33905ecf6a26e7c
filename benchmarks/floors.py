"""The least work a measurement stands for, counted on shapes without weights; `floor_seconds` makes time of it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import floor_seconds
from benchmarks.references import CAPTION_TOKENS
from sana import SanaPipeline
from sana_ae import DCAE, DCAEConfig
from sana_dit import SanaConfig, SanaTransformer


def count_flops(config: SanaConfig, *, batch: int, side: int) -> int:
    """Returns the operations of a forward of the transformer (2 for a product and sum)."""
    with torch.device("meta"):
        model, inputs = SanaTransformer(config), draw_meta(config, batch, side)
        return counted(lambda: model(**inputs))


def draw_meta(config: SanaConfig, batch: int, side: int) -> dict[str, Tensor]:
    """Returns the shapes of `draw_inputs`, with the guidance that Sprint models take."""
    inputs = {
        "latents": torch.empty(batch, config.in_channels, side, side),
        "timestep": torch.empty(batch),
        "caption": torch.empty(batch, CAPTION_TOKENS, config.caption_channels),
        "caption_mask": torch.empty(batch, CAPTION_TOKENS),
    }
    return inputs | ({"guidance": torch.empty(batch)} if config.guidance_embeds else {})


def count_autoencoder(config: DCAEConfig, shape: tuple[int, ...], direction: str) -> int:
    """Returns the operations of decoding latents or encoding images of this shape."""
    with torch.device("meta"):
        model, x = DCAE(config).eval(), torch.empty(shape)
        return counted(lambda: model.decode(x) if direction == "decode" else model.encode(x))


def picture_floor(
    pipeline: SanaPipeline, *, pixels: int, batch: int, steps: int, rates: Mapping[str, float]
) -> dict[str, float]:
    """Returns the floor of pictures of one prompt with guidance, and of its parts: text, steps, decoding.

    The plain count: two prompts of 300 tokens, and the whole transformer on both halves of every step; one for Sprint.
    """
    model, autoencoder = pipeline.transformer, pipeline.autoencoder
    text_encoder: Any = pipeline.caption_encoder.text_encoder
    side = pixels // autoencoder.config.compression
    linears = sum(layer.weight.numel() for layer in text_encoder.modules() if isinstance(layer, nn.Linear))
    branches = 1 if model.config.guidance_embeds else 2
    flops = count_flops(model.config, batch=branches * batch, side=side)
    latents = (batch, autoencoder.config.latent_channels, side, side)
    decoding = count_autoencoder(autoencoder.config, latents, "decode")
    parts = {
        "text": floor_seconds(2 * linears * branches * CAPTION_TOKENS, weight_bytes(text_encoder), rates),
        "steps": steps * floor_seconds(flops, weight_bytes(model), rates),
        "decoding": floor_seconds(decoding, weight_bytes(autoencoder.decoder), rates),
    }
    return {"floor_seconds": sum(parts.values()), **{f"floor_seconds_{name}": part for name, part in parts.items()}}


def weight_bytes(model: nn.Module) -> int:
    """Returns the bytes of all weights: each is read at least once."""
    return sum(weight.nbytes for weight in model.parameters())


def counted(run: Callable[[], object]) -> int:
    """Returns the operations of what this runs (2 for a product and sum), without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
