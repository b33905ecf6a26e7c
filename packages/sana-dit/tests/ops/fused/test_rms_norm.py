"""The fused RMS norm, forward and backward."""

from functools import partial

import pytest
import torch

from sana_dit.ops.rms_norm import fused, reference

SMALL = [(1, 1), (7, 33), (2, 9, 64), (3, 1, 2, 257)]
REAL = [(2, 1024, 2240), (2, 4096, 2240), (2, 300, 1152)]


def check(shape, dtype, draw, assert_exact):
    functions = (partial(function, eps=1e-5) for function in (fused.rms_norm, reference.rms_norm))
    assert_exact(*functions, draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype))


@pytest.mark.parametrize("shape", SMALL)
def test_is_as_exact_as_plain_pytorch(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", REAL)
def test_is_as_exact_as_plain_pytorch_at_real_sizes(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


def test_a_weight_in_float32_is_used_as_it_is(draw, assert_exact):
    functions = (partial(function, eps=0.5) for function in (fused.rms_norm, reference.rms_norm))
    assert_exact(*functions, draw(5, 48, dtype=torch.float16), draw(48, dtype=torch.float32))


def test_squares_beyond_float16_are_normed(device):
    x = torch.full((1, 32), 3e4, dtype=torch.float16, device=device)
    assert torch.equal(fused.rms_norm(x, torch.ones_like(x[0]), eps=1e-5), torch.ones_like(x))


def test_torch_compile_and_autograd_see_the_operation(draw):
    operands = tuple(draw(*shape, dtype=torch.float32).requires_grad_() for shape in ((2, 3, 16), (16,)))
    torch.library.opcheck(torch.ops.sana_dit.rms_norm.default, (*operands, 1e-5))
