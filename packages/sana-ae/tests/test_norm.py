"""The RMS norm against its formula."""

import pytest
import torch
import torch.nn.functional as F

from sana_ae.norm import BatchNorm2d, RMSNorm2d

EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-8}  # half a unit in the last place


def make_norm(channels):
    norm = RMSNorm2d(channels)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias)
    return norm


def formula(norm, x, residual):
    normal = x * torch.rsqrt(x.square().mean(1, keepdim=True) + norm.eps)
    return residual + normal * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "shape", [(2, 8, 3, 5), (2, 64, 70, 31), (1, 1024, 17, 17)], ids=str
)  # below and above a slice
def test_it_is_the_formula_plus_the_residual(shape, memory_format, relative_error):
    norm = make_norm(shape[1]).double()
    x, residual = (torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format) for _ in "xr")
    # 5 roundings of values below 10 or so.
    assert relative_error(norm(x, residual), formula(norm, x, residual)) < 1e-14
    assert relative_error(norm(x), formula(norm, x, 0 * x)) < 1e-14


def test_every_gradient_is_that_of_the_formula():
    norm = make_norm(4).double()
    x, residual = (torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in "xr")
    assert torch.autograd.gradcheck(lambda x, r, w, b: norm(x, r), (x, residual, norm.weight, norm.bias))
    assert torch.autograd.gradcheck(lambda x, w, b: norm(x), (x, norm.weight, norm.bias))


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_it_rounds_to_the_dtype_once(dtype):
    norm = make_norm(64)
    x, residual = torch.randn(2, 64, 9, 9).to(dtype), torch.randn(2, 64, 9, 9).to(dtype)
    exact = formula(norm.double(), x.double(), residual.double())
    error = (norm.float()(x, residual).double() - exact).abs()
    # One rounding to the dtype, and a dozen in fp32 before.
    assert (error <= exact.abs() * EPS[dtype] + 12 * 2**-24 * (exact.abs() + 10)).all()


def test_under_autocast_it_keeps_the_dtype_of_its_input():
    with torch.autocast("cpu", torch.bfloat16):
        y = make_norm(8)(torch.randn(1, 8, 2, 2).bfloat16(), torch.randn(1, 8, 2, 2).bfloat16())
    assert y.dtype == torch.bfloat16


def test_channels_last_stays_channels_last():
    y = make_norm(8)(torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("act", ["silu", "relu"])
def test_the_activation_after_it_is_the_same_in_one_call(act):
    norm, x = make_norm(8), torch.randn(2, 8, 4, 4)
    assert torch.equal(norm(x, act=act), getattr(F, act)(norm(x)))


def test_the_form_other_devices_run_has_the_same_shapes_and_dtype():
    norm = make_norm(8).to("meta")
    y = norm(torch.empty(2, 8, 4, 4, device="meta", dtype=torch.bfloat16), torch.empty(2, 8, 4, 4, device="meta"))
    assert (y.shape, y.dtype) == ((2, 8, 4, 4), torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same(relative_error):
    norm, x, residual = make_norm(64), torch.randn(2, 64, 9, 9), torch.randn(2, 64, 9, 9)
    on_gpu = norm.cuda()(x.cuda(), residual.cuda()).cpu()
    assert relative_error(on_gpu, norm.cpu()(x, residual)) < 1e-6


def test_batch_norm_adds_its_residual():
    norm, x, residual = BatchNorm2d(8).eval(), torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    plain = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x, residual), plain + residual)
