"""The whole transformer against diffusers, with the same weights."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from sana_dit import SanaTransformer
from sana_dit.diffusers_config import from_diffusers_config
from sana_dit.weights import read_names

# float32 rounds at 6e-8; a rewrite with the same operations in another order stays within 1e-6 of diffusers over
# six layers, and a wrong epsilon in the cross-attention is 1.6e-4.
FORWARD = 1e-5
GRADIENT = 1e-4

QK_NORMS = [None, "rms_norm_across_heads"]


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().mean()).item()


def relative_norm(actual, expected):
    """Of gradients, whose entries span orders of magnitude: one entry's rounding says nothing about the mean entry."""
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("qk_norm", "guidance", "scale"), list(itertools.product(QK_NORMS, [False, True], [None, 2.0]))
)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)], ids=["square", "wide"])
def test_velocity_is_that_of_diffusers(
    make_diffusers, ours, make_inputs, call_diffusers, qk_norm, guidance, scale, size
):
    theirs = make_diffusers(qk_norm=qk_norm, guidance_embeds=guidance, interpolation_scale=scale)
    inputs = make_inputs(*size, guidance=guidance)
    with torch.no_grad():
        assert relative_error(ours(theirs)(**inputs), call_diffusers(theirs, inputs)) < FORWARD


@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_velocity_is_that_of_diffusers_at_other_depths_and_patches(
    make_diffusers, ours, make_inputs, call_diffusers, depth, patch_size
):
    theirs = make_diffusers(num_layers=depth, patch_size=patch_size, interpolation_scale=1.0)
    inputs = make_inputs(4, 12)
    with torch.no_grad():
        assert relative_error(ours(theirs)(**inputs), call_diffusers(theirs, inputs)) < FORWARD


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.bfloat16])
def test_a_mask_of_any_dtype_is_read_as_diffusers_reads_it(make_diffusers, ours, make_inputs, call_diffusers, dtype):
    theirs, inputs = make_diffusers(), make_inputs()
    inputs["caption_mask"] = inputs["caption_mask"].to(dtype)
    with torch.no_grad():
        assert relative_error(ours(theirs)(**inputs), call_diffusers(theirs, inputs)) < FORWARD


def test_without_a_mask_every_caption_token_counts(make_diffusers, ours, make_inputs, call_diffusers):
    theirs, inputs = make_diffusers(), make_inputs()
    model = ours(theirs)
    with torch.no_grad():
        masked = model(**inputs)
        unmasked = model(**inputs | {"caption_mask": None})
        expected = call_diffusers(theirs, inputs | {"caption_mask": None})
    assert relative_error(unmasked, expected) < FORWARD
    assert relative_error(unmasked[:1], masked[:1]) > 1e-3


def test_masked_caption_tokens_change_nothing(make_diffusers, ours, make_inputs):
    model, inputs = ours(make_diffusers()), make_inputs()
    other = inputs["caption"].clone()
    other[0, 4:] = 100.0
    with torch.no_grad():
        assert torch.equal(model(**inputs), model(**inputs | {"caption": other}))


def test_an_empty_mask_gives_no_nan(make_diffusers, ours, make_inputs):
    model = ours(make_diffusers())
    with torch.no_grad():
        assert model(**make_inputs() | {"caption_mask": torch.zeros(2, 10)}).isfinite().all()


@pytest.mark.parametrize("qk_norm", QK_NORMS)
def test_every_gradient_is_that_of_diffusers(make_diffusers, ours, make_inputs, call_diffusers, qk_norm):
    theirs = make_diffusers(qk_norm=qk_norm, guidance_embeds=True)
    model, inputs = ours(theirs), make_inputs(6, 10, guidance=True)
    weights = torch.randn(2, 4, 6, 10)
    gradients = []
    for call in (lambda x: model(**x), lambda x: call_diffusers(theirs, x)):
        x = inputs | {name: inputs[name].clone().requires_grad_() for name in ("latents", "caption")}
        (call(x) * weights).sum().backward()
        gradients.append((x["latents"].grad, x["caption"].grad))
    expected = read_names({name: p.grad for name, p in theirs.named_parameters()}).weights
    pairs = {name: (p.grad, expected[name]) for name, p in model.named_parameters()}
    pairs |= {"latents": (gradients[0][0], gradients[1][0]), "caption": (gradients[0][1], gradients[1][1])}
    assert len(pairs) == len(expected) + 2
    if qk_norm is None:
        # Softmax does not see a bias of the keys, so this gradient is rounding noise around zero.
        pairs = {name: pair for name, pair in pairs.items() if not name.endswith("cross_attn.to_k.bias")}
    errors = {name: relative_norm(actual, wanted) for name, (actual, wanted) in pairs.items()}
    assert max(errors.values()) < GRADIENT, max(errors, key=errors.get)


@pytest.mark.parametrize("qk_norm", QK_NORMS)
def test_bfloat16_is_no_further_from_float32_than_diffusers_is(
    make_diffusers, ours, make_inputs, call_diffusers, qk_norm
):
    theirs = make_diffusers(qk_norm=qk_norm, num_layers=4).to(torch.bfloat16)
    model, oracle = ours(theirs).bfloat16(), copy.deepcopy(theirs).float()
    mine, other = [], []
    with torch.no_grad():
        for seed in range(8):
            rounded = {name: to_bfloat16(x) for name, x in make_inputs(seed=seed).items()}
            exact = call_diffusers(oracle, {name: x.float() for name, x in rounded.items()})
            mine.append((model(**rounded).float() - exact).abs().mean())
            other.append((call_diffusers(theirs, rounded).float() - exact).abs().mean())
    mine, other = torch.stack(mine), torch.stack(other)
    # Both are rounding noise, so the margin is three standard errors of the mean of their difference. (Weights and
    # inputs are rounded for the oracle too: that error is the same for both models and not theirs.)
    assert mine.mean() <= other.mean() + 3 * (mine - other).std() / len(mine) ** 0.5


def to_bfloat16(x):
    return x.bfloat16() if x.ndim > 2 else x


def test_integer_timesteps_are_taken_as_they_are(make_diffusers, ours, make_inputs):
    model, inputs = ours(make_diffusers()), make_inputs()
    with torch.no_grad():
        assert torch.equal(model(**inputs), model(**inputs | {"timestep": torch.tensor([3, 731])}))


def test_latents_of_another_dtype_are_cast_to_that_of_the_model(make_diffusers, ours, make_inputs):
    model, inputs = ours(make_diffusers()).bfloat16(), make_inputs()
    velocity = model(**inputs)
    assert velocity.dtype == torch.bfloat16
    assert velocity.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["autocast", "pure"])
def test_bfloat16_training_reaches_every_weight(make_diffusers, ours, make_inputs, dtype):
    model, inputs = ours(make_diffusers(qk_norm="rms_norm_across_heads")).to(dtype), make_inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        loss = model(**inputs).float().square().mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_config_counts_for_the_position_embedding_only_at_other_sizes(make_diffusers, ours, make_inputs):
    theirs = make_diffusers(interpolation_scale=1.0)
    model = ours(theirs)
    config = replace(from_diffusers_config(theirs.config), sample_size=16)
    larger = SanaTransformer(config).eval()
    larger.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert not torch.allclose(model(**make_inputs()), larger(**make_inputs()))


def test_position_embedding_is_not_rounded_by_a_cast(make_diffusers, ours):
    model = ours(make_diffusers(interpolation_scale=1.0)).bfloat16()
    assert not dict(model.named_buffers())
    assert not [name for name in model.state_dict() if "pos" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(2, 3, 8, 8)}, r"latents are \(2, 3, 8, 8\); expected \(B, 4, h, w\)"),
        ({"timestep": torch.zeros(1)}, r"timestep is \(1,\); expected one per sample, \(2,\)"),
        ({"caption": torch.zeros(2, 10, 8)}, r"caption is \(2, 10, 8\); expected \(2, L, 16\)"),
        ({"caption_mask": torch.ones(2, 9)}, r"caption_mask is \(2, 9\); expected \(2, 10\)"),
        ({"guidance": torch.ones(2)}, "guidance is given, but the model has guidance_embeds=False"),
    ],
)
def test_inputs_of_a_wrong_shape_are_named(tiny_config, make_inputs, changes, message):
    with pytest.raises(ValueError, match=message):
        SanaTransformer(tiny_config)(**make_inputs() | changes)


def test_a_model_with_guidance_asks_for_one_per_sample(tiny_config, make_inputs):
    model = SanaTransformer(replace(tiny_config, guidance_embeds=True))
    with pytest.raises(ValueError, match="guidance is not given, but the model has guidance_embeds=True"):
        model(**make_inputs())
    with pytest.raises(ValueError, match=r"guidance is \(1,\); expected one per sample, \(2,\)"):
        model(**make_inputs() | {"guidance": torch.ones(1)})


def test_latents_must_divide_into_patches(tiny_config, make_inputs):
    model = SanaTransformer(replace(tiny_config, patch_size=2))
    with pytest.raises(ValueError, match="sides must be multiples of patch_size 2"):
        model(**make_inputs(7, 8))
