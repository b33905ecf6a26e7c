"""Tiny models of ours and of diffusers with the same weights, and their inputs."""

import os
from collections.abc import Callable
from typing import Any

os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported

import pytest
import torch
from torch import Tensor

from sana_dit import SanaConfig, SanaTransformer
from sana_dit.diffusers_config import from_diffusers_config
from sana_dit.weights import read_names

TINY: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 64,
    "cross_attention_dim": 128,
    "caption_channels": 16,
    "sample_size": 8,
}


@pytest.fixture
def tiny_config() -> SanaConfig:
    return SanaConfig(**{name: value for name, value in TINY.items() if name != "cross_attention_dim"})


@pytest.fixture
def make_diffusers() -> Callable[..., Any]:
    """Builds a tiny diffusers model whose every weight is off its first value, so that none hides behind a 1 or 0."""
    diffusers = pytest.importorskip("diffusers")

    def make(**changes: Any) -> Any:
        torch.manual_seed(0)
        model = diffusers.SanaTransformer2DModel(**TINY | changes).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def ours() -> Callable[..., SanaTransformer]:
    """Builds our model with a copy of the weights of diffusers' one."""

    def make(theirs: Any) -> SanaTransformer:
        model = SanaTransformer(from_diffusers_config(theirs.config)).eval()
        model.load_state_dict(read_names(theirs.state_dict()).weights)
        return model

    return make


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Tensor]]:
    """Draws latents, timestep, caption and mask, and a guidance where asked, for the tiny model."""

    def make(height: int = 8, width: int = 8, *, guidance: bool = False, seed: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        inputs = {
            "latents": torch.randn(2, 4, height, width, generator=generator),
            "timestep": torch.tensor([3.0, 731.0]),
            "caption": torch.randn(2, 10, 16, generator=generator),
            "caption_mask": torch.tensor([[1] * 4 + [0] * 6, [1] * 10]),
        }
        return inputs | ({"guidance": torch.tensor([0.45, 0.1])} if guidance else {})

    return make


@pytest.fixture
def call_diffusers() -> Callable[..., Tensor]:
    """Calls diffusers' model with the inputs of ours."""

    def call(model: Any, inputs: dict[str, Tensor | None]) -> Tensor:
        return model(
            inputs["latents"],
            encoder_hidden_states=inputs["caption"],
            timestep=inputs["timestep"],
            encoder_attention_mask=inputs.get("caption_mask"),
            guidance=inputs.get("guidance"),
            return_dict=False,
        )[0]

    return call
