import logging

import pytest
import torch
from torch import nn

from sana_judge import VILAJudge
from sana_judge.quantization import quantize_linears

PROMPT = "a photo of a red dog"


# Rounding is off by 0.29 steps in the mean square. int8 has steps of 1/127 of the largest of a row: 0.4% of uniform
# weights, 0.8% of normal inputs. nf4 has 16 uneven steps, 1/7 of the largest apart near it: 7% of uniform weights.
@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("nf4", 0.15)])
def test_a_quantized_layer_computes_nearly_the_same(kind, error):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(256, 128)), torch.randn(64, 256)
    exact = model(x)
    quantize_linears(model, kind, device=torch.device("cpu"))
    with torch.no_grad():
        off = (model(x) - exact).norm() / exact.norm()
    assert 1e-4 < off < error


def test_widths_that_blocks_of_64_do_not_divide_are_quantized_or_left():
    layers, x = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 16), nn.Linear(16, 64)), torch.randn(3, 96)
    with torch.no_grad():
        exact = layers(x)
        quantize_linears(layers, "nf4", device=torch.device("cpu"))
        assert (layers(x) - exact).norm() < 0.15 * exact.norm()
    assert [layer.weight.dtype for layer in layers] == [torch.uint8, torch.float32, torch.float32]


def test_a_width_that_blocks_of_64_do_not_divide_loses_no_more_than_one_that_they_do():
    torch.manual_seed(0)
    errors = []
    for width in (5600, 5632):
        model, x = nn.Sequential(nn.Linear(width, 64)), torch.randn(64, width)
        with torch.no_grad():
            exact = model(x)
            quantize_linears(model, "nf4", device=torch.device("cpu"))
            errors.append(float((model(x) - exact).norm() / exact.norm()))
    assert errors[0] < errors[1]  # blocks of 32 have a scale each where others share one between 64


def test_bitsandbytes_does_not_log_every_product(caplog):
    model = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    quantize_linears(model, "int8", device=torch.device("cpu"))
    with torch.no_grad():
        model(torch.randn(3, 64).bfloat16())
    logging.getLogger("bitsandbytes.autograd._functions").warning("MatMul8bitLt: inputs will be cast from bfloat16")
    assert caplog.text == ""


@pytest.mark.parametrize(("kind", "dtype"), [("int8", torch.int8), ("nf4", torch.uint8)])
def test_only_the_layers_of_the_language_model_are_quantized(nvila_tiny, images, kind, dtype):
    judge = VILAJudge.from_pretrained(nvila_tiny, quantize=kind, dtype=torch.bfloat16)
    quantized = [name for name, weight in judge.model.named_parameters() if weight.dtype == dtype]
    assert len(quantized) == 2 * 7
    assert all(name.startswith("llm.model.layers.") for name in quantized)
    assert all(0 < p < 1 for p in judge(PROMPT, images))


def test_a_cache_tells_a_quantized_judge_from_a_whole_one(nvila_tiny, images, tmp_path):
    whole, small = (
        VILAJudge.from_pretrained(nvila_tiny, quantize=kind, cache=tmp_path / "scores.db") for kind in (None, "nf4")
    )
    assert whole(PROMPT, images) != small(PROMPT, images)


def test_another_number_of_bits_is_refused(nvila_tiny):
    with pytest.raises(ValueError, match=r"'int4'; it must be one of \('int8', 'nf4'\)"):
        VILAJudge.from_pretrained(nvila_tiny, quantize="int4")
