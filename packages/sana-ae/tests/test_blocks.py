"""Blocks against diffusers', with gradients."""

import pytest
import torch
from diffusers.models.autoencoders import autoencoder_dc
from diffusers.models.transformers.sana_transformer import GLUMBConv as DiffusersGLUMBConv
from torch.utils._python_dispatch import TorchDispatchMode

from sana_ae.blocks import EfficientViTBlock, GLUMBConv, ResBlock, activate


def compare(ours, theirs, relative_error):
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 32, 6, 5)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = ours(inputs[0]), theirs(inputs[1])
    grad = torch.randn_like(x)
    for out in outputs:
        out.backward(grad)
    assert relative_error(*outputs) < 1e-6
    assert relative_error(inputs[0].grad, inputs[1].grad) < 1e-6
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert relative_error(mine.grad, other.grad) < 1e-5, name


@pytest.mark.parametrize("act", ["silu", "relu"])
@pytest.mark.parametrize("norm", ["rms_norm", "batch_norm"])
def test_res_block_and_its_gradients_are_those_of_diffusers(norm, act, relative_error):
    theirs = autoencoder_dc.ResBlock(32, 32, norm_type=norm, act_fn=act)
    compare(ResBlock(32, norm=norm, act=act), theirs, relative_error)


def test_glu_block_and_its_gradients_are_those_of_diffusers(relative_error):
    compare(GLUMBConv(32), DiffusersGLUMBConv(32, 32, norm_type="rms_norm"), relative_error)


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_activations_take_no_memory_where_no_gradient_is_wanted(kind):
    x = torch.randn(4)
    assert activate(x, kind) is not x
    with torch.no_grad():
        assert activate(x, kind) is x


class Copies(TorchDispatchMode):
    """Notes every operation that copies a tensor into another layout or dtype."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name in ("clone", "contiguous", "_to_copy"):
            self.names.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("block", "copies"),
    [
        (ResBlock(32, norm="rms_norm", act="silu"), []),
        (GLUMBConv(32), []),
        # Heads are attended one after the other, and projected side by side.
        (EfficientViTBlock(32, head_dim=8, kernel_sizes=(5,), norm="rms_norm"), ["clone"]),
    ],
    ids=["res", "glu", "vit"],
)
@torch.no_grad()
def test_blocks_work_channels_last_without_changing_layouts(block, copies):
    x = torch.randn(1, 32, 6, 5).contiguous(memory_format=torch.channels_last)
    with Copies() as seen:
        y = block(x)
    assert seen.names == copies
    assert y.is_contiguous(memory_format=torch.channels_last)
