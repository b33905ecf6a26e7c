"""The fused gated residual, forward and backward."""

import pytest
import torch

from sana_dit.ops.gated_residual import fused, reference

SMALL = [(1, 1, 1), (2, 7, 33), (1, 65, 64), (3, 2, 130)]
REAL = [(2, 1024, 2240), (2, 4096, 2240), (2, 1023, 1152)]


def check(shape, dtype, draw, assert_exact):
    operands = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype), draw(shape[0], shape[2], dtype=dtype)
    assert_exact(fused.gated_residual, reference.gated_residual, *operands)


@pytest.mark.parametrize("shape", SMALL)
def test_is_as_exact_as_plain_pytorch(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", REAL)
def test_is_as_exact_as_plain_pytorch_at_real_sizes(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


def test_a_gate_is_read_from_its_place_in_the_modulation(draw):
    x, y = draw(2, 5, 48, dtype=torch.float32), draw(2, 5, 48, dtype=torch.float32)
    modulation = draw(2, 6, 48, dtype=torch.float32)
    expected = reference.gated_residual(x, y, modulation[:, 2])
    torch.testing.assert_close(fused.gated_residual(x, y, modulation[:, 2]), expected)
    torch.testing.assert_close(fused.gated_residual(x, y, modulation[:, 2:3]), expected)


def test_dtypes_promote_as_in_plain_pytorch(draw, assert_exact):
    x, y, gate = (draw(*shape, dtype=torch.float16) for shape in ((2, 3, 16), (2, 3, 16), (2, 16)))
    assert_exact(fused.gated_residual, reference.gated_residual, x, y, gate.float())
    assert_exact(fused.gated_residual, reference.gated_residual, x.float(), y, gate)


def test_torch_compile_and_autograd_see_the_operation(draw):
    x, y, gate = (draw(*shape, dtype=torch.float32) for shape in ((2, 3, 16), (2, 3, 16), (2, 16)))
    operands = tuple(leaf.requires_grad_() for leaf in (x, y, gate))
    torch.library.opcheck(torch.ops.sana_dit.gated_residual.default, operands)
