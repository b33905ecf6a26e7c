"""oneDNN's product where it is a gain, PyTorch's own everywhere else: the same numbers."""

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sana_dit.cpu_linear import linear

onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="needs oneDNN and AVX-512",
)


def calls_onednn(x, weight, bias):
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as events:
        linear(x, weight, bias)
    return any("mkldnn" in event.key for event in events.key_averages())


def draw(rows, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(2, rows, 96, dtype=dtype), torch.randn(64, 96, dtype=dtype), torch.randn(64, dtype=dtype)


@pytest.mark.parametrize("rows", [1, 17, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_the_product_is_that_of_pytorch(rows, dtype, biased):
    x, weight, bias = draw(rows, dtype)
    with torch.inference_mode():
        torch.testing.assert_close(
            linear(x, weight, bias if biased else None), F.linear(x, weight, bias if biased else None)
        )
    strided = x[:, ::2]
    with torch.no_grad():
        torch.testing.assert_close(linear(strided, weight, bias), F.linear(strided, weight, bias))


@onednn
def test_onednn_multiplies_many_rows_in_inference():
    with torch.no_grad():
        assert calls_onednn(*draw(200))


@onednn
def test_operations_are_counted_in_inference_too():
    x, weight, bias = draw(200)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 2 * 200 * 96 * 64


@onednn
def test_gradients_autocast_and_few_rows_take_the_usual_way():
    x, weight, bias = draw(200)
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    assert weight.grad.any()
    with torch.no_grad():
        assert not calls_onednn(*draw(20))
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
