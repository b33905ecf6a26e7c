"""config.json in both directions."""

import pytest
import torch
from diffusers import SanaTransformer2DModel

import sana_dit
from sana_dit.diffusers_config import from_diffusers_config, to_diffusers_config


@pytest.mark.parametrize("preset", ["SANA_0_6B", "SANA_1_6B", "SANA_1_6B_4K", "SANA_1_5_4_8B", "SANA_SPRINT_0_6B"])
def test_presets_go_there_and_back(preset):
    config = getattr(sana_dit, preset)
    assert from_diffusers_config(to_diffusers_config(config, config.num_layers)) == config


def test_all_fields_of_diffusers_are_written(make_diffusers, tiny_config):
    theirs = make_diffusers().config
    assert set(to_diffusers_config(tiny_config, 2)) - {"_class_name"} == {
        name for name in theirs if not name.startswith("_")
    }


def test_fields_left_out_have_the_defaults_of_diffusers():
    with torch.device("meta"):
        defaults = SanaTransformer2DModel().config
    assert from_diffusers_config({}) == from_diffusers_config(defaults) == sana_dit.SANA_1_6B


def test_depth_is_what_the_caller_counts(tiny_config):
    assert to_diffusers_config(tiny_config, 7)["num_layers"] == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "AutoencoderDC"}, "describes a AutoencoderDC; it must be a SanaTransformer2DModel"),
        ({"qk_norm": "layer_norm"}, "has qk_norm = 'layer_norm'"),
        ({"attention_bias": True}, "has attention_bias = True; Sana transformers have False"),
        ({"cross_attention_dim": 7}, "has cross_attention_dim = 7; captions are projected to the width 2240"),
        ({"quantization_config": {}}, r"has unknown fields \['quantization_config'\]"),
    ],
)
def test_a_config_of_another_model_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        from_diffusers_config(fields)


def test_the_message_names_the_configuration():
    with pytest.raises(ValueError, match=r"^here/config\.json has unknown fields \['more'\]"):
        from_diffusers_config({"more": 1}, where="here/config.json")


def test_out_channels_default_to_in_channels():
    assert from_diffusers_config({"in_channels": 16, "out_channels": None}).out_channels == 16
