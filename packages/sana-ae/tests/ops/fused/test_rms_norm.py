"""The fused RMS norm, forward and backward, with every activation and with and without a residual."""

from functools import partial

import pytest
import torch

from sana_ae.ops.rms_norm import fused, reference

SMALL = [(1, 1), (7, 33), (1, 37, 64), (2, 3, 1, 257), (1, 3, 2048)]  # one element, more than a tile of 32, a whole one
REAL = [(1, 512, 512, 128), (2, 32, 32, 1024), (1, 37, 29, 512), (1, 8, 8, 2048)]


def check(shape, dtype, draw, assert_exact, *, act=None, residual=True):
    def norm(function, x, weight, bias, residual):
        return function(x, weight, bias, residual=residual, act=act, eps=1e-5)

    functions = (partial(norm, module.rms_norm) for module in (fused, reference))
    affine = (draw(shape[-1], dtype=dtype) for _ in range(2))
    assert_exact(*functions, draw(*shape, dtype=dtype), *affine, draw(*shape, dtype=dtype) if residual else None)


@pytest.mark.parametrize("shape", SMALL)
def test_is_as_exact_as_plain_pytorch(shape, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("act", ["silu", "relu", None])
def test_activation_and_residual_can_be_left_out(act, residual, draw, assert_exact):
    check((5, 48), torch.float32, draw, assert_exact, act=act, residual=residual)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", ["silu", "relu", None])
@pytest.mark.parametrize("shape", REAL)
def test_is_as_exact_as_plain_pytorch_at_real_sizes(shape, act, dtype, draw, assert_exact):
    check(shape, dtype, draw, assert_exact, act=act)


def test_a_program_sums_over_many_tiles(draw, assert_exact, monkeypatch):
    monkeypatch.setattr(fused, "_PROGRAMS", 2)
    check(
        (1, 130, 96), torch.float32, draw, assert_exact
    )  # 9 tiles of 16 pixels: 3 programs, the last of which has one


def test_weights_and_residual_in_float32_are_used_as_they_are(draw):
    x, residual = draw(5, 48, dtype=torch.float16), 3 + 2**-10 * draw(5, 48, dtype=torch.float32)
    weight, bias = draw(2, 48, dtype=torch.float32)
    exact = reference.rms_norm(x.float(), weight, bias, residual=residual, eps=0.5)
    out = fused.rms_norm(x, weight, bias, residual=residual, eps=0.5)
    # Half a unit in the last place: with any operand in float16 it would be a whole one now and then.
    torch.testing.assert_close(out.float(), exact, rtol=2**-11, atol=1e-6)


def test_nan_is_not_hidden_by_the_relu(draw):
    x = draw(3, 32, dtype=torch.float32)
    x[1, 5] = torch.nan
    nan = fused.rms_norm(x, x[0], x[2], act="relu", eps=1e-5).isnan()
    assert torch.equal(nan, torch.tensor([[False], [True], [False]]).expand(3, 32))


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
def test_torch_compile_and_autograd_see_the_operation(residual, draw):
    x, weight, bias = (draw(*shape, dtype=torch.float32).requires_grad_() for shape in ((2, 3, 16), (16,), (16,)))
    other = draw(2, 3, 16, dtype=torch.float32).requires_grad_() if residual else None
    torch.library.opcheck(torch.ops.sana_ae.rms_norm.default, (x, other, weight, bias, "silu", 1e-5))
