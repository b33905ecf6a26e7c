"""RMS norm against its definition."""

import pytest
import torch

from sana_dit import rms_norm

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.mark.parametrize("shape", [(1, 1, 16), (2, 7, 33), (128,)])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_equals_the_definition(shape, eps):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(shape[-1], generator=torch.Generator().manual_seed(1))
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    torch.testing.assert_close(rms_norm(x, weight, eps=eps), expected, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_sixteen_bits_are_normed_in_float32():
    x = torch.full((1, 32), 3e4, dtype=torch.float16)  # its square is beyond float16
    out = rms_norm(x, torch.ones(32, dtype=torch.float16), eps=1e-5)
    assert torch.equal(out, torch.ones(1, 32, dtype=torch.float16))


def test_the_dtype_of_the_input_is_kept():
    assert rms_norm(torch.ones(1, 8).bfloat16(), torch.ones(8), eps=1e-5).dtype == torch.bfloat16
