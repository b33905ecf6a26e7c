"""The gated depthwise convolution against its definition, tap by tap in float64."""

import pytest
import torch

from sana_dit import gated_depthwise

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def silu(x):
    return x / (1 + torch.exp(-x))


def definition(u, weight, bias, *, height, width):
    """Walks over cells and taps; outside of the grid is zero."""
    grid = silu(u.double()).reshape(len(u), height, width, -1)
    out = bias.double().expand_as(grid).clone()
    for i in range(height):
        for j in range(width):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        out[:, i, j] += weight[:, 0, di + 1, dj + 1].double() * grid[:, i + di, j + dj]
    value, gate = out.reshape(u.shape).chunk(2, dim=2)
    return value * silu(gate)


def draw(height, width, channels, *, batch=2):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, height * width, channels, generator=generator),
        torch.randn(channels, 1, 3, 3, generator=generator),
        torch.randn(channels, generator=generator),
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (3, 5), (4, 4)])
@pytest.mark.parametrize("channels", [2, 6, 64])
def test_equals_the_definition(height, width, channels):
    inputs = draw(height, width, channels)
    expected = definition(*inputs, height=height, width=width)
    out = gated_depthwise(*inputs, height=height, width=width)
    torch.testing.assert_close(out, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_the_input_is_left_as_it_was():
    u, weight, bias = draw(3, 3, 8)
    before = u.clone()
    with torch.no_grad():
        gated_depthwise(u, weight, bias, height=3, width=3)
    assert torch.equal(u, before)


def test_tokens_run_along_rows():
    u, weight, bias = draw(2, 3, 4)
    wide = gated_depthwise(u, weight, bias, height=2, width=3)
    assert not torch.allclose(wide, gated_depthwise(u, weight, bias, height=3, width=2))


def test_gradients_are_those_of_finite_differences():
    inputs = [x.double().requires_grad_() for x in draw(2, 3, 4, batch=1)]
    assert torch.autograd.gradcheck(lambda u, w, b: gated_depthwise(u, w, b, height=2, width=3), inputs)
