"""The two attention modules: what compat changes, masks, float16."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sana_dit.attention import CrossAttention, LinearAttention


def pass_through(attention):
    """Makes every projection the identity, so that a formula on the input says what the output is."""
    with torch.no_grad():
        for linear in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
            linear.weight.copy_(torch.eye(len(linear.weight)))
    return attention


@pytest.mark.parametrize(("compat", "eps"), [("diffusers", 1e-15), ("native", 1e-8)])
def test_linear_attention_divides_with_the_eps_of_its_reference(tiny_config, compat, eps):
    attention = pass_through(LinearAttention(replace(tiny_config, compat=compat)))
    x = torch.full(
        (1, 2, 128), 1e-5
    )  # per head: q . sum(k) = 32 * 1e-5 * 2e-5 = 6.4e-9, below one eps, above the other
    expected = 1e-5 * 6.4e-9 / (6.4e-9 + eps)
    torch.testing.assert_close(attention(x), torch.full_like(x, expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("compat", "eps"), [("diffusers", 1e-5), ("native", 1e-6)])
def test_cross_attention_norms_with_the_eps_of_its_reference(tiny_config, compat, eps):
    attention = pass_through(CrossAttention(replace(tiny_config, compat=compat, qk_norm=True)))
    x, caption = 1e-3 * torch.randn(1, 3, 128), 1e-3 * torch.randn(1, 5, 128)  # squares of 1e-6: eps decides
    q, k = (y / (y.square().mean(-1, keepdim=True) + eps).sqrt() for y in (x, caption))
    out = []
    for head in (slice(0, 64), slice(64, 128)):
        scores = q[..., head] @ k[..., head].transpose(1, 2) / 64**0.5
        out.append(scores.softmax(-1) @ caption[..., head])
    torch.testing.assert_close(attention(x, caption), torch.cat(out, -1), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("compat", ["diffusers", "native"])
def test_self_attention_norms_with_the_same_eps_in_both(tiny_config, compat):
    attention = LinearAttention(replace(tiny_config, compat=compat, qk_norm=True))
    with torch.no_grad():
        attention.norm_q.mul_(0.5)
    x = 1e-3 * torch.randn(1, 4, 128)
    q, k = (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() for y in (attention.to_q(x), attention.to_k(x)))
    q, k, v = (y.reshape(4, 4, 32).transpose(0, 1) for y in ((0.5 * q).relu(), k.relu(), attention.to_v(x)))
    out = q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1)[:, :, None])
    torch.testing.assert_close(attention(x), attention.to_out(out.transpose(0, 1).reshape(1, 4, 128)))


def test_only_native_rounds_the_products_of_a_bfloat16_model(tiny_config):
    x = torch.randn(1, 16, 128)
    exact = LinearAttention(tiny_config)
    outputs = []
    for compat in ("diffusers", "native"):
        attention = LinearAttention(replace(tiny_config, compat=compat))
        attention.load_state_dict(exact.state_dict())
        outputs.append(attention.bfloat16()(x.bfloat16()).float())
    errors = [(y - exact(x)).abs().mean() for y in outputs]
    assert errors[0] < errors[1]


def test_float16_stays_finite_where_the_output_projection_overflows(tiny_config):
    attention = LinearAttention(tiny_config).half()
    with torch.no_grad():
        attention.to_out.weight.fill_(60.0)
        attention.to_v.weight.fill_(10.0)
    out = attention(torch.ones(1, 4, 128, dtype=torch.float16))  # 128 * 60 * 1280
    assert torch.equal(out, torch.full_like(out, 65504.0))


def test_a_norm_has_weights_only_where_the_config_asks(tiny_config):
    assert LinearAttention(tiny_config).norm_q is None
    assert CrossAttention(replace(tiny_config, qk_norm=True)).norm_k.shape == (128,)


def test_projections_are_linear_layers_that_adapters_find(tiny_config):
    for attention in (LinearAttention(tiny_config), CrossAttention(tiny_config)):
        for name in ("to_q", "to_k", "to_v", "to_out"):
            assert isinstance(getattr(attention, name), nn.Linear)
