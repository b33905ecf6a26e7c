"""What a configuration accepts, refuses, and reads from diffusers."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderDC

from sana_ae import DC_AE_1_5_F32C128, DC_AE_F32C32_SANA, DC_AE_F128C512, DC_AE_LITE_F32C32, DCAEConfig


@pytest.mark.parametrize("config", [DC_AE_F32C32_SANA, DC_AE_F128C512, DC_AE_LITE_F32C32])
def test_a_configuration_survives_json(config):
    assert DCAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_private_keys_of_diffusers_are_ignored():
    fields = DC_AE_F32C32_SANA.to_dict() | {"_class_name": "AutoencoderDC", "_diffusers_version": "0.42.1"}
    assert DCAEConfig.from_dict(fields) == DC_AE_F32C32_SANA


def test_one_word_stands_for_all_stages():
    fields = DC_AE_LITE_F32C32.to_dict() | {"decoder_block_types": "ResBlock", "decoder_norm_types": "rms_norm"}
    assert DCAEConfig.from_dict(fields) == DC_AE_LITE_F32C32


def test_every_word_but_pixel_unshuffle_means_a_strided_convolution_as_in_diffusers():
    assert DCAEConfig.from_dict({"downsample_block_type": "Conv"}).downsample_block_type == "conv"


def test_missing_keys_take_the_defaults_of_diffusers():
    with torch.device("meta"):
        defaults = AutoencoderDC().config
    assert DCAEConfig.from_dict({}) == DCAEConfig.from_dict(defaults)


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"unknown autoencoder settings \['latents_mean'\]"):
        DCAEConfig.from_dict({"latents_mean": 0.5})


@pytest.mark.parametrize(
    "fields", [{"latent_channels": "x"}, {"encoder_block_out_channels": 3}, {"latent_channels": 0}]
)
def test_values_of_another_kind_are_told_with_the_file(fields):
    with pytest.raises(ValueError, match=r"^here/config\.json: "):
        DCAEConfig.from_dict(fields, where="here/config.json")


def test_compression_counts_stages():
    assert (DC_AE_F32C32_SANA.compression, DC_AE_F128C512.compression) == (32, 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_conv_act_fn": "gelu"}, "decoder_conv_act_fn holds 'gelu'"),
        ({"encoder_block_types": ("ResBlok",) * 6}, "encoder_block_types holds 'ResBlok'"),
        (
            {"decoder_norm_types": ("rms_norm",) * 5},
            "decoder_norm_types has 5 entries and encoder_block_out_channels 6",
        ),
        ({"encoder_layers_per_block": (2, 0, 2, 3, 3, 3)}, r"encoder_layers_per_block is \(2, 0, 2, 3, 3, 3\)"),
        ({"decoder_block_out_channels": (128, 256, 512, 512, 768, 1024)}, "go from 512 to 768"),
        ({"encoder_block_out_channels": (126, 252, 504, 504, 1008, 1008)}, "multiples of 4"),
        ({"attention_head_dim": 48}, "512 channels cannot be cut into heads of 48"),
        ({"latent_channels": 48}, "last encoder stage has 1024 channels and the latent 48"),
        ({"adaptive_channels": True}, "adaptive_channels is True, encoder_out_shortcut True"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DC_AE_F32C32_SANA, **changes)


def test_one_stage_is_not_enough():
    fields = {
        key: value[:1] if isinstance(value, tuple) else value for key, value in DC_AE_F32C32_SANA.to_dict().items()
    }
    with pytest.raises(ValueError, match=r"1 stage\(s\)"):
        DCAEConfig(**fields)


def test_adaptive_channels_stay_out_of_the_files_of_diffusers():
    assert "adaptive_channels" not in DC_AE_1_5_F32C128.to_dict()
