"""The gated residual against its definition."""

import pytest
import torch

from sana_dit import gated_residual

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def draw(batch, tokens, width):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, batch, tokens, width, generator=generator).unbind()
    return x, y, torch.randn(batch, width, generator=generator)


@pytest.mark.parametrize(("batch", "tokens", "width"), [(1, 1, 16), (2, 7, 33)])
def test_equals_the_definition(batch, tokens, width):
    x, y, gate = draw(batch, tokens, width)
    out = gated_residual(x, y, gate)
    for b in range(batch):
        for n in range(tokens):
            torch.testing.assert_close(out[b, n], x[b, n] + gate[b] * y[b, n])


def test_the_gate_may_keep_the_dimension_of_the_tokens():
    x, y, gate = draw(2, 5, 16)
    assert torch.equal(gated_residual(x, y, gate[:, None]), gated_residual(x, y, gate))


def test_zeros_leave_the_residual_as_it_is_to_the_bit():
    x, y, gate = draw(2, 5, 16)
    assert torch.equal(gated_residual(x.bfloat16(), 0 * y.bfloat16(), gate.bfloat16()), x.bfloat16())


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(gated_residual, [x.double().requires_grad_() for x in draw(2, 3, 4)])
