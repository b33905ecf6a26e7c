"""Names of the weights against diffusers' models and NVlabs' files."""

import pytest
import torch
from diffusers import SanaTransformer2DModel

import sana_dit
from sana_dit import SanaTransformer
from sana_dit.diffusers_config import to_diffusers_config
from sana_dit.weights import read_names, to_diffusers, to_native

PRESETS = [
    ("SANA_0_6B", 548),
    ("SANA_1_6B", 396),
    ("SANA_1_5_1_6B", 476),
    ("SANA_1_5_3_2B", 936),
    ("SANA_1_5_4_8B", 1396),
    ("SANA_SPRINT_1_6B", 480),
    ("SANA_SPRINT_0_6B", 664),
]


def shapes(state):
    return {name: tuple(weight.shape) for name, weight in state.items()}


@pytest.mark.parametrize(("preset", "count"), PRESETS)
def test_names_and_shapes_of_public_models_are_those_of_diffusers(preset, count):
    config = getattr(sana_dit, preset)
    fields = to_diffusers_config(config, config.num_layers)
    del fields["_class_name"]
    with torch.device("meta"):
        theirs = SanaTransformer2DModel(**fields).state_dict()
        ours = SanaTransformer(config).state_dict()
    assert shapes(to_diffusers(ours, config)) == shapes(theirs)
    assert shapes(read_names(theirs).weights) == shapes(ours)
    assert len(theirs) == count


@pytest.mark.parametrize(("preset", "count"), PRESETS)
def test_names_of_public_models_go_to_nvlabs_and_back(preset, count):
    config = getattr(sana_dit, preset)
    with torch.device("meta"):
        ours = SanaTransformer(config).state_dict()
    native = to_native(ours, config, None)
    assert shapes(read_names(native).weights) == shapes(ours)
    assert len(native) == count - 4 * config.num_layers  # q, k, v in one weight; k and v in one weight and one bias


def test_names_of_nvlabs_are_the_published_ones():
    config = sana_dit.SANA_SPRINT_0_6B
    with torch.device("meta"):
        native = shapes(to_native(SanaTransformer(config).state_dict(), config, torch.empty(300, 2304)))
    expected = {
        "x_embedder.proj.weight": (1152, 32, 1, 1),
        "y_embedder.y_embedding": (300, 2304),
        "y_embedder.y_proj.fc1.weight": (1152, 2304),
        "attention_y_norm.weight": (1152,),
        "t_embedder.mlp.0.weight": (1152, 256),
        "cfg_embedder.mlp.2.bias": (1152,),
        "t_block.1.weight": (6912, 1152),
        "blocks.27.scale_shift_table": (6, 1152),
        "blocks.27.attn.qkv.weight": (3456, 1152),
        "blocks.27.attn.proj.bias": (1152,),
        "blocks.27.attn.q_norm.weight": (1152,),
        "blocks.27.cross_attn.q_linear.bias": (1152,),
        "blocks.27.cross_attn.kv_linear.weight": (2304, 1152),
        "blocks.27.cross_attn.kv_linear.bias": (2304,),
        "blocks.27.cross_attn.k_norm.weight": (1152,),
        "blocks.27.mlp.inverted_conv.conv.weight": (5760, 1152, 1, 1),
        "blocks.27.mlp.depth_conv.conv.weight": (5760, 1, 3, 3),
        "blocks.27.mlp.point_conv.conv.weight": (1152, 2880, 1, 1),
        "final_layer.linear.weight": (32, 1152),
        "final_layer.scale_shift_table": (2, 1152),
    }
    assert expected.items() <= native.items()
    assert "blocks.0.attn.qkv.bias" not in native


def test_fused_projections_are_q_k_v_in_that_order():
    state = {
        "x_embedder.proj.weight": torch.zeros(2, 4, 1, 1),
        "blocks.0.attn.qkv.weight": torch.arange(6.0)[:, None].expand(6, 2).clone(),
        "blocks.0.cross_attn.kv_linear.bias": torch.arange(4.0),
    }
    weights = read_names(state).weights
    assert weights["blocks.0.self_attn.to_k.weight"].tolist() == [[2, 2], [3, 3]]
    assert weights["blocks.0.cross_attn.to_k.bias"].tolist() == [0, 1]
    assert weights["blocks.0.cross_attn.to_v.bias"].tolist() == [2, 3]


def test_parts_of_a_fused_projection_own_their_memory():
    state = {"x_embedder.proj.weight": torch.zeros(2, 4, 1, 1), "blocks.0.attn.qkv.weight": torch.zeros(6, 2)}
    parts = [w for name, w in read_names(state).weights.items() if "self_attn" in name]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 3


def test_what_training_left_in_a_file_of_nvlabs_is_dropped_and_the_null_caption_kept():
    state = {
        "x_embedder.proj.weight": torch.zeros(2, 4, 1, 1),
        "pos_embed": torch.zeros(1, 64 * 64, 2),
        "y_embedder.y_embedding": torch.ones(300, 16),
        "logvar_linear.weight": torch.zeros(1, 2),
        "logvar_linear.bias": torch.zeros(1),
    }
    checkpoint = read_names(state)
    assert list(checkpoint.weights) == ["patch.proj.weight"]
    assert torch.equal(checkpoint.null_caption, torch.ones(300, 16))
    assert checkpoint.cells == 64


def test_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"is not a Sana transformer: .* among its 4 weights \(a, b, c, ...\)"):
        read_names(dict.fromkeys("abcd", torch.zeros(1)))
