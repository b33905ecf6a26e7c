"""The published checkpoints: their sizes, and the names and shapes diffusers gives them."""

import pytest
import torch
from diffusers import AutoencoderDC

import sana_ae
from sana_ae import DCAE
from sana_ae.presets import PUBLISHED
from sana_ae.weights import to_diffusers

# Parameters of the whole model and of its encoder.
SIZES = {
    "DC_AE_F32C32_SANA": (312_250_275, 153_027_104),
    "DC_AE_F32C32_SANA_1_1": (312_250_275, 153_027_104),
    "DC_AE_F32C32_IN": (323_356_460, 123_172_384),
    "DC_AE_F32C32_MIX": (323_356_460, 123_172_384),
    "DC_AE_F64C128": (676_896_140, 264_550_528),
    "DC_AE_F128C512": (1_120_682_252, 415_661_056),
    "DC_AE_LITE_F32C32": (421_181_228, 153_027_104),
    "DC_AE_1_5_F32C128": (523_609_740, 228_609_408),
    "DC_AE_1_5_F64C128": (714_741_644, 306_478_720),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = DCAE(getattr(sana_ae, name))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (model, model.encoder)]
    assert tuple(sizes) == SIZES[name]


@pytest.mark.parametrize("name", sorted(set(SIZES) - {"DC_AE_F32C32_SANA_1_1", "DC_AE_F32C32_IN"}))
def test_names_and_shapes_are_those_of_diffusers(name):
    config = getattr(sana_ae, name)
    with torch.device("meta"):
        ours, theirs = to_diffusers(DCAE(config).state_dict()), AutoencoderDC(**config.to_dict()).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("name", "scaling_factor"),
    [
        ("f32c32-sana-1.0", 0.41407),
        ("f32c32-sana-1.1", 0.41407),
        ("f32c32-in-1.0", 0.3189),
        ("f32c32-mix-1.0", 0.4552),
        ("f64c128-in-1.0", 0.2889),
        ("f64c128-mix-1.0", 0.4538),
        ("f128c512-in-1.0", 0.4883),
        ("f128c512-mix-1.0", 0.3620),
    ],
)
def test_checkpoints_of_one_shape_keep_their_own_latent_scale(name, scaling_factor):
    assert PUBLISHED[f"dc-ae-{name}"].scaling_factor == scaling_factor
