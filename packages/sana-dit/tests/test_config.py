"""Configurations and the public presets."""

from dataclasses import replace

import pytest
import torch

import sana_dit
from sana_dit import SANA_1_6B, SANA_1_6B_2K, SANA_1_6B_4K, SanaConfig, SanaTransformer


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("SANA_0_6B", 591_747_872),
        ("SANA_1_6B", 1_604_462_752),
        ("SANA_1_6B_2K", 1_604_462_752),
        ("SANA_1_6B_4K", 1_604_462_752),
        ("SANA_1_5_1_6B", 1_604_641_952),
        ("SANA_1_5_3_2B", 3_163_233_952),
        ("SANA_1_5_4_8B", 4_721_825_952),
        ("SANA_SPRINT_0_6B", 593_501_216),
        ("SANA_SPRINT_1_6B", 1_610_237_472),
    ],
)
def test_presets_have_the_parameters_of_the_public_checkpoints(preset, parameters):
    with torch.device("meta"):
        model = SanaTransformer(getattr(sana_dit, preset))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_large_pictures_have_a_position_embedding_and_others_none():
    assert (SANA_1_6B.sample_size, SANA_1_6B.interpolation_scale) == (32, None)
    assert (SANA_1_6B_2K.sample_size, SANA_1_6B_2K.interpolation_scale) == (64, 1.0)
    assert (SANA_1_6B_4K.sample_size, SANA_1_6B_4K.interpolation_scale) == (128, 2.0)


def test_compat_decides_where_the_references_differ(tiny_config):
    native = replace(tiny_config, compat="native")
    assert (tiny_config.linear_attention_eps, native.linear_attention_eps) == (1e-15, 1e-8)
    assert (tiny_config.cross_norm_eps, native.cross_norm_eps) == (1e-5, 1e-6)
    assert (tiny_config.linear_attention_upcast, native.linear_attention_upcast) == (True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; it must be at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0 and width 128"),
        ({"cross_attention_head_dim": 63}, r"2 heads x 63 = 126 wide and self-attention 4 x 32 = 128"),
        ({"compat": "nvlabs"}, r"compat is 'nvlabs'; it must be one of \('diffusers', 'native'\)"),
        ({"sample_size": 9, "patch_size": 2}, "sample_size is 9 and patch_size 2"),
        ({"interpolation_scale": 0.0}, "interpolation_scale is 0.0"),
    ],
)
def test_impossible_values_are_named(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_config, **changes)


def test_a_position_embedding_needs_a_width_of_four_parts():
    odd = {"num_layers": 1, "num_attention_heads": 1, "num_cross_attention_heads": 1}
    config = SanaConfig(attention_head_dim=6, cross_attention_head_dim=6, **odd)
    with pytest.raises(ValueError, match="width is 6; a position embedding needs a multiple of 4"):
        replace(config, interpolation_scale=1.0)
