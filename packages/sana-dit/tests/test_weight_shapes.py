"""Configurations read off weights, and weights that do not fit."""

from dataclasses import replace

import pytest
import torch

import sana_dit
from sana_dit import SanaTransformer
from sana_dit.weight_shapes import check_weights, infer_config
from sana_dit.weights import read_names, to_diffusers, to_native


def on_meta(config):
    with torch.device("meta"):
        return SanaTransformer(config).state_dict()


@pytest.mark.parametrize(
    "preset",
    [
        "SANA_0_6B",
        "SANA_1_6B",
        "SANA_1_5_1_6B",
        "SANA_1_5_3_2B",
        "SANA_1_5_4_8B",
        "SANA_SPRINT_0_6B",
        "SANA_SPRINT_1_6B",
    ],
)
def test_a_public_model_is_recognised_by_its_weights(preset):
    config = getattr(sana_dit, preset)
    weights = on_meta(config)
    assert infer_config(read_names(to_diffusers(weights, config))) == config
    assert infer_config(read_names(to_native(weights, config, None))) == config


@pytest.mark.parametrize(
    ("cells", "sample_size", "scale"), [(16, 16, None), (32, 32, None), (64, 64, 1.0), (128, 128, 2.0)]
)
def test_a_position_embedding_tells_the_resolution(cells, sample_size, scale):
    config = replace(sana_dit.SANA_0_6B, num_layers=1)
    state = to_native(on_meta(config), config, None)
    state["pos_embed"] = torch.empty(1, cells**2, 1152, device="meta")
    inferred = infer_config(read_names(state))
    assert (inferred.sample_size, inferred.interpolation_scale) == (sample_size, scale)


def test_another_width_asks_for_a_config(tiny_config):
    with pytest.raises(ValueError, match=r"is 128 wide, and only the widths \[1152, 2240\] .* config.json beside"):
        infer_config(read_names(to_diffusers(on_meta(tiny_config), tiny_config)))


def test_other_channels_and_captions_are_recognised():
    config = replace(sana_dit.SANA_0_6B, num_layers=2, in_channels=16, out_channels=8, caption_channels=640)
    assert infer_config(read_names(to_diffusers(on_meta(config), config))) == config


@pytest.mark.parametrize("layout", ["diffusers", "native"])
def test_what_does_not_fit_is_named_as_in_the_file_and_counted(tiny_config, layout):
    expected = on_meta(tiny_config)
    weights = dict(expected)
    del weights["blocks.1.self_attn.to_k.weight"]
    weights["extra.weight"] = torch.empty(1, device="meta")
    weights["final.proj.weight"] = torch.empty(4, 64, device="meta")
    names = {
        "diffusers": (r"transformer_blocks.1.attn1.to_k.weight", "proj_out.weight"),
        "native": (r"blocks.1.attn.qkv.weight", "final_layer.linear.weight"),
    }[layout]
    message = (
        rf"2 layers and width 128, which has {len(expected)} weights: 1 missing \({names[0]}\); "
        rf"1 unknown \(extra.weight\); 1 of another shape \({names[1]} is \(4, 64\), not \(4, 128\)\)"
    )
    with pytest.raises(ValueError, match=message):
        check_weights(weights, expected, tiny_config, layout=layout)


def test_a_long_list_is_cut_and_still_counted(tiny_config):
    expected = on_meta(tiny_config)
    with pytest.raises(ValueError, match=rf"{len(expected)} missing \(patch_embed.proj.weight, .*, \.\.\.\)"):
        check_weights({}, expected, tiny_config, layout="diffusers")
