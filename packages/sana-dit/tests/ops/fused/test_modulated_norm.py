"""The fused modulated norm, forward and backward."""

import pytest
import torch

from sana_dit.ops.modulated_norm import fused, reference

SMALL = [(1, 1, 2), (2, 7, 33), (1, 65, 64), (3, 2, 257)]
REAL = [(2, 1024, 2240), (2, 4096, 2240), (2, 1023, 1152)]


def check(shape, dtype, draw, assert_exact):
    tokens = 3 + draw(*shape, dtype=dtype)
    modulations = (draw(shape[0], shape[2], dtype=dtype) for _ in ("shift", "scale"))
    assert_exact(fused.modulated_norm, reference.modulated_norm, tokens, *modulations)


@pytest.mark.parametrize("shape", SMALL)
def test_is_as_exact_as_plain_pytorch(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", REAL)
def test_is_as_exact_as_plain_pytorch_at_real_sizes(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


def test_shift_and_scale_are_read_from_their_places_in_the_modulation(draw):
    x, modulation = draw(2, 5, 48, dtype=torch.float32), draw(2, 6, 48, dtype=torch.float32)
    shift, scale = modulation[:, 1], modulation[:, 4]
    expected = reference.modulated_norm(x, shift, scale, eps=0.1)
    torch.testing.assert_close(fused.modulated_norm(x, shift, scale, eps=0.1), expected)
    torch.testing.assert_close(fused.modulated_norm(x, shift[:, None], scale[:, None], eps=0.1), expected)


def test_the_layout_of_the_tokens_does_not_matter(draw):
    x, shift, scale = (draw(*shape, dtype=torch.float32) for shape in ((2, 48, 5), (2, 48), (2, 48)))
    expected = reference.modulated_norm(x.mT, shift, scale)
    torch.testing.assert_close(fused.modulated_norm(x.mT, shift, scale), expected)


def test_a_modulation_in_float32_is_used_as_it_is(draw, assert_exact):
    x, shift, scale = (draw(*shape, dtype=torch.float32) for shape in ((2, 3, 16), (2, 16), (2, 16)))
    assert_exact(fused.modulated_norm, reference.modulated_norm, x.half(), shift, scale)


def test_torch_compile_and_autograd_see_the_operation(draw):
    shapes = (2, 3, 16), (2, 16), (2, 16)
    operands = tuple(draw(*shape, dtype=torch.float32).requires_grad_() for shape in shapes)
    torch.library.opcheck(torch.ops.sana_dit.modulated_norm.default, (*operands, 1e-6))
