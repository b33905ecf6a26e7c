"""Modulated layer norm against its definition."""

import pytest
import torch

from sana_dit import modulated_norm

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def draw(batch, tokens, width):
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(batch, tokens, width, generator=generator)
    return x, *torch.randn(2, batch, width, generator=generator).unbind()


@pytest.mark.parametrize(("batch", "tokens", "width"), [(1, 1, 16), (2, 7, 33), (3, 4, 128)])
def test_equals_the_definition(batch, tokens, width):
    x, shift, scale = draw(batch, tokens, width)
    out = modulated_norm(x, shift, scale)
    for b in range(batch):
        for n in range(tokens):
            token = x[b, n].double()
            normed = (token - token.mean()) / (token.var(correction=0) + 1e-6).sqrt()
            expected = normed * (1 + scale[b].double()) + shift[b].double()
            torch.testing.assert_close(out[b, n], expected, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_shift_and_scale_may_keep_the_dimension_of_the_tokens():
    x, shift, scale = draw(2, 5, 16)
    assert torch.equal(modulated_norm(x, shift[:, None], scale[:, None]), modulated_norm(x, shift, scale))


def test_eps_is_added_to_the_variance():
    x, shift, scale = draw(1, 3, 16)
    normed = modulated_norm(x, 0 * shift, 0 * scale, eps=1.0)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1).sqrt()
    torch.testing.assert_close(normed, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    inputs = [x.double().requires_grad_() for x in draw(2, 3, 8)]
    assert torch.autograd.gradcheck(modulated_norm, inputs)
