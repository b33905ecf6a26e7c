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
