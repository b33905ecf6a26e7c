"""Names of weights: diffusers' and efficientvit's against ours."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_autoencoder_dc_checkpoint_to_diffusers

from sana_ae.weights import from_diffusers, from_efficientvit, to_diffusers, to_ours

SHAPES = ["sana", "lite", "f32c32", "f128c512", "1.5-f32c128"]

# What efficientvit calls a parameter inside a block, by what it is here.
BLOCK_NAMES = {
    "conv1": "main.conv1.conv",
    "conv2": "main.conv2.conv",
    "norm": "main.conv2.norm",
    "attn.to_qkv": "context_module.main.qkv.conv",
    "attn.to_qkv_multiscale.0.proj_in": "context_module.main.aggreg.0.0",
    "attn.to_qkv_multiscale.0.proj_out": "context_module.main.aggreg.0.1",
    "attn.to_out": "context_module.main.proj.conv",
    "attn.norm_out": "context_module.main.proj.norm",
    "conv_out.conv_inverted": "local_module.main.inverted_conv.conv",
    "conv_out.conv_depth": "local_module.main.depth_conv.conv",
    "conv_out.conv_point": "local_module.main.point_conv.conv",
    "conv_out.norm": "local_module.main.point_conv.norm",
}


def efficientvit_name(name, config):
    """The name of one of our parameters in efficientvit, whose layers nest main > op_list > ConvLayer.conv."""
    module, leaf = name.rsplit(".", 1)
    side, rest = module.split(".", 1)
    if rest.startswith(("down_blocks.", "up_blocks.")):
        _, stage, block, inner = rest.split(".", 3)
        resampling = "main.conv" if side == "encoder" and config.downsample_block_type == "conv" else "main.conv.conv"
        inner = resampling if inner == "conv" else BLOCK_NAMES[inner]
        return f"{side}.stages.{stage}.op_list.{block}.{inner}.{leaf}"
    ends = {
        "encoder.conv_in": "project_in.conv",
        "encoder.conv_in.conv": "project_in.conv.conv",
        "encoder.conv_out": "project_out.main.op_list.0.conv"
        if config.encoder_out_shortcut
        else "project_out.op_list.0.conv",
        "decoder.conv_in": "project_in.main.conv" if config.decoder_in_shortcut else "project_in.conv",
        "decoder.norm_out": "project_out.op_list.0",
        "decoder.conv_out": "project_out.op_list.2.conv",
        "decoder.conv_out.conv": "project_out.op_list.2.conv.conv",
    }
    return f"{side}.{ends[module]}.{leaf}"


@pytest.fixture
def efficientvit_state(make_model):
    """Builds the state dict efficientvit would have: 1x1 convolutions where we have linear layers."""

    def build(model):
        linear = (".to_qkv.weight", ".to_out.weight")
        return {
            efficientvit_name(name, model.config): tensor[..., None, None] if name.endswith(linear) else tensor
            for name, tensor in model.state_dict().items()
        }

    return build


def assert_same(given, wanted):
    assert sorted(given) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(given[name], tensor), name


@pytest.mark.parametrize("shape", SHAPES)
def test_names_of_efficientvit_become_ours(shape, make_model, efficientvit_state):
    model = make_model(shape)
    assert_same(to_ours(efficientvit_state(model)), model.state_dict())


@pytest.mark.parametrize("shape", ["sana", "f32c32"])
def test_the_converter_of_diffusers_agrees(shape, make_model, efficientvit_state):
    model = make_model(shape)
    theirs = convert_autoencoder_dc_checkpoint_to_diffusers(efficientvit_state(model))
    assert_same(theirs, to_diffusers(model.state_dict()))


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_names_are_ours_but_for_the_thirds_of_qkv(shape, make_pair, shrink):
    ours, theirs = make_pair(shrink(shape))
    assert_same(to_diffusers(ours.state_dict()), theirs.state_dict())
    assert_same(to_ours(theirs.state_dict()), ours.state_dict())


def test_our_own_names_pass(make_model):
    state = make_model("sana").state_dict()
    assert_same(to_ours(state), state)


def test_thirds_that_do_not_fit_together_are_left_for_the_error_message():
    alone = {"a.to_q.weight": torch.ones(2, 2), "a.to_k.weight": torch.ones(2, 2)}
    uneven = {**alone, "a.to_v.weight": torch.ones(3, 2)}
    assert sorted(from_diffusers(alone)) == sorted(alone)
    assert sorted(from_diffusers(uneven)) == sorted(uneven)


def test_names_that_mean_nothing_stay_for_the_error_message():
    assert list(from_efficientvit({"discriminator.weight": torch.ones(1)})) == ["discriminator.weight"]
