"""One block: identity for growth, reproducible first values."""

from dataclasses import replace

import pytest
import torch

from sana_dit import SanaBlock


@pytest.fixture
def block(tiny_config):
    return SanaBlock(replace(tiny_config, qk_norm=True))


def draw():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 15, 128), (2, 6, 128), (2, 7, 128))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_residuals_make_the_block_the_identity_to_the_bit(block, dtype):
    x, modulation, caption = (y.to(dtype) for y in draw())
    block.to(dtype)
    assert not torch.equal(block(x, modulation, caption, height=3, width=5), x)
    block.zero_residuals()
    assert torch.equal(block(x, modulation, caption, height=3, width=5), x)


def test_a_block_of_zero_residuals_learns(block):
    x, modulation, caption = draw()
    block.zero_residuals()
    (block(x, modulation, caption, height=3, width=5) * torch.randn_like(x)).sum().backward()
    for projection in (block.self_attn.to_out, block.cross_attn.to_out, block.mix_ffn.point):
        assert projection.weight.grad.any()


def test_reset_is_decided_by_the_generator(block):
    states = []
    for seed in (0, 0, 1):
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.fill_(7.0)
        block.reset_parameters(torch.Generator().manual_seed(seed))
        states.append({name: p.clone() for name, p in block.named_parameters()})
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name
        assert not (weight == 7).any(), name
        if weight.unique().numel() > 1:
            assert not torch.equal(weight, states[2][name]), name


def test_reset_keeps_dtype_and_device(block):
    block.bfloat16().reset_parameters(torch.Generator().manual_seed(0))
    assert {p.dtype for p in block.parameters()} == {torch.bfloat16}


def test_modulation_is_shift_scale_gate_for_attention_then_ffn(block):
    x, modulation, caption = draw()
    with torch.no_grad():
        block.scale_shift_table.zero_()
        modulation[:, 2] = 0  # gate of the self-attention
        modulation[:, 5] = 0  # gate of the FFN
        out = block(x, modulation, caption, height=3, width=5)
        torch.testing.assert_close(out, x + block.cross_attn(x, caption))
