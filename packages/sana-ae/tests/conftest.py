"""Shrunk versions of the published autoencoders, ours and diffusers' with the same weights."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported

import pytest
import torch

import sana_ae
from sana_ae import DCAE, DCAEConfig
from sana_ae.weights import from_diffusers

SHAPES = {
    "sana": sana_ae.DC_AE_F32C32_SANA,
    "lite": sana_ae.DC_AE_LITE_F32C32,
    "f32c32": sana_ae.DC_AE_F32C32_MIX,
    "f64c128": sana_ae.DC_AE_F64C128,
    "f128c512": sana_ae.DC_AE_F128C512,
    "1.5-f32c128": sana_ae.DC_AE_1_5_F32C128,
    "1.5-f64c128": sana_ae.DC_AE_1_5_F64C128,
}

Pair = tuple[DCAE, Any]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shrink() -> Callable[..., DCAEConfig]:
    """Makes a published configuration 16 times narrower, with at most two blocks per stage; by the names in SHAPES."""

    def shrink(shape: str, **changes: object) -> DCAEConfig:
        config = SHAPES[shape]
        widths = tuple(max(32, width // 16) for width in config.encoder_block_out_channels)
        small = replace(
            config,
            latent_channels=config.latent_channels // 16 * 4,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_layers_per_block=tuple(min(2, layers) for layers in config.encoder_layers_per_block),
            decoder_layers_per_block=tuple(min(2, layers) for layers in config.decoder_layers_per_block),
        )
        return replace(small, **changes)

    return shrink


@pytest.fixture
def make_pair() -> Callable[[DCAEConfig], Pair]:
    """Builds ours and diffusers' autoencoder with the same weights, none of which hides behind a 0 or a 1."""
    diffusers = pytest.importorskip("diffusers")

    def make(config: DCAEConfig) -> Pair:
        theirs = diffusers.AutoencoderDC(**config.to_dict()).eval()
        with torch.no_grad():
            for name, tensor in theirs.state_dict().items():
                if "norm" in name and tensor.is_floating_point():  # weights, biases, running means and variances
                    tensor.copy_(0.5 + torch.rand_like(tensor))
        ours = DCAE(config).eval()
        ours.load_state_dict(from_diffusers(theirs.state_dict()))
        return ours, theirs

    return make


@pytest.fixture
def make_model(shrink: Callable[..., DCAEConfig]) -> Callable[..., DCAE]:
    """Builds a shrunk autoencoder of ours in eval mode with random norms."""

    def make(shape: str = "sana", **changes: object) -> DCAE:
        model = DCAE(shrink(shape, **changes)).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "norm" in name and tensor.is_floating_point():
                    tensor.copy_(0.5 + torch.rand_like(tensor))
        return model

    return make


@pytest.fixture
def relative_error() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Measures |a - b| / |b|."""

    def measure(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a.detach().double(), b.detach().double()
        return float((a - b).norm() / b.norm())

    return measure
