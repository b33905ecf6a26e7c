"""RMS norm with what follows it, in plain PyTorch, against its definition."""

import pytest
import torch
import torch.nn.functional as F

from sana_ae.ops import rms_norm

ACTS = {None: lambda y: y, "silu": F.silu, "relu": F.relu}


def definition(x, weight, bias, residual, act):
    normal = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return ACTS[act](normal * weight + bias) + residual


@pytest.mark.parametrize("act", ACTS)
def test_activation_comes_before_the_residual(act):
    x, residual = torch.randn(2, 2, 3, 5, 7, dtype=torch.float64)
    weight, bias = torch.randn(2, 7, dtype=torch.float64)
    expected = definition(x, weight, bias, residual, act)
    torch.testing.assert_close(rms_norm(x, weight, bias, residual=residual, act=act, eps=1e-5), expected)
    expected = definition(x, weight, bias, 0, act)
    torch.testing.assert_close(rms_norm(x, weight, bias, act=act, eps=1e-5), expected)


@pytest.mark.parametrize("act", ["silu", "relu"])
def test_every_gradient_is_that_of_finite_differences(act):
    x, residual = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_().unbind()
    weight, bias = torch.randn(2, 4, dtype=torch.float64).requires_grad_().unbind()

    def norm(x, residual, weight, bias):
        return rms_norm(x, weight, bias, residual=residual, act=act, eps=1e-5)

    assert torch.autograd.gradcheck(norm, (x, residual, weight, bias))


def test_the_dtype_of_x_is_kept():
    x = torch.randn(3, 8).bfloat16()
    y = rms_norm(x, torch.ones(8), torch.zeros(8), residual=torch.randn(3, 8), act="silu", eps=1e-5)
    assert y.dtype == torch.bfloat16
