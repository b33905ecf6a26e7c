"""Weights in 8 and 4 bits: what shrinks, what does not, and how far the velocity moves."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sana_dit import SanaTransformer, quantize_linears
from sana_dit.low_rank import LowRank, set_additions


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return SanaTransformer(replace(tiny_config, qk_norm=True)).eval().bfloat16()


def inputs():
    generator = torch.Generator().manual_seed(1)
    latents, caption = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 20, 16, generator=generator)
    return latents, torch.tensor([3.0, 731.0]), caption, (torch.arange(20) < torch.tensor([[1], [9]])).long()


def bytes_of(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


# A weight is off by up to 1/254 of its row's largest in 8 bits, and by about a tenth of its size in 4; the residual
# stream, which is not quantised, makes less of it.
@pytest.mark.parametrize(("kind", "share", "error"), [("int8", 0.55, 0.02), ("nf4", 0.35, 0.1)])
def test_blocks_shrink_and_the_velocity_stays_close(model, kind, share, error):
    with torch.inference_mode():
        exact, before = model(*inputs()).float(), bytes_of(model.blocks)
        quantize_linears(model.blocks, kind)
        off = (model(*inputs()).float() - exact).norm() / exact.norm()
    assert 0 < off < error
    assert bytes_of(model.blocks) < share * before


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_model_can_be_prepared(model, kind):
    quantize_linears(model.blocks, kind)
    latents, t, *captions = inputs()
    with torch.inference_mode():
        plain = model(latents, t, *captions).float()
        prepared = model.denoise(latents, model.time(t, None), model.prepare(*captions)).float()
    # 20 rows of a caption or 16: bf16 rounds at 2^-9, a few times in a row.
    assert (prepared - plain).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_only_linear_layers_are_quantised(model, kind):
    before = {name: p.dtype for name, p in model.named_parameters()}
    quantize_linears(model.blocks, kind)
    changed = {name for name, p in model.named_parameters() if p.dtype != before[name]}
    linears = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert changed == {name for name in linears if name.startswith("blocks.")}


def test_widths_that_blocks_of_64_do_not_divide_are_quantised_or_left():
    layers = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 16), nn.Linear(16, 64))
    x = torch.randn(3, 96)
    with torch.inference_mode():
        exact = layers(x)
        quantize_linears(layers, "nf4")
        assert (layers(x) - exact).norm() < 0.15 * exact.norm()
    assert [layer.weight.dtype for layer in layers] == [torch.uint8, torch.float32, torch.float32]


def test_a_second_time_changes_nothing(model):
    quantize_linears(model.blocks, "nf4")
    layers = list(model.modules())
    quantize_linears(model.blocks, "nf4")
    assert list(model.modules()) == layers


def test_what_is_quantised_is_not_saved(model, tmp_path):
    quantize_linears(model.blocks, "int8")
    with pytest.raises(ValueError, match=r"weights are quantised, such as blocks\.0\.self_attn\.to_q\.weight"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_unknown_kind_is_named(model):
    with pytest.raises(ValueError, match="kind is 'fp8'; it must be one of int8, nf4"):
        quantize_linears(model.blocks, "fp8")


def test_a_model_with_adapters_is_quantised_before_they_are_loaded(model):
    linear = model.blocks[0].self_attn.to_q
    set_additions(linear, {"a": LowRank(torch.zeros(2, linear.in_features), torch.zeros(linear.out_features, 2))})
    with pytest.raises(ValueError, match=r"1 layers have LoRA additions, such as 0\.self_attn\.to_q"):
        quantize_linears(model.blocks, "int8")
    assert type(model.blocks[0].self_attn.to_k) is type(model.blocks[1].self_attn.to_k)
