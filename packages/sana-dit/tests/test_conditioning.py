"""What is computed once per picture gives the velocity of the plain forward."""

import itertools
from dataclasses import replace

import pytest
import torch

from sana_dit import SanaTransformer
from sana_dit.conditioning import drop_padding

TOKENS = 40
# One batch of rows against another, with fewer tokens: fp32 sums in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def rows(*lengths):
    return torch.stack([(torch.arange(TOKENS) < length).long() for length in lengths])


SCATTERED = rows(0, 0).clone()
SCATTERED[0, 3::5] = 1
SCATTERED[1, 39] = 1

MASKS = {
    "none": None,
    "full": rows(TOKENS, TOKENS),
    "ragged": rows(7, 21),
    "one-token-first": rows(1, 9),
    "one-token-last": rows(9, 1),
    "one-token-each": rows(1, 1),
    "one-token-scattered": SCATTERED.flip(0),
    "scattered": SCATTERED,
    "bool": rows(7, 21).bool(),
    "half": rows(7, 21).half(),
    "soft": rows(7, 21) * 0.9996 + 0.0004 * rows(20, 30),
    "empty": rows(0, 9),
}


@pytest.fixture
def make_model(tiny_config):
    def make(**changes):
        torch.manual_seed(0)
        model = SanaTransformer(replace(tiny_config, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            model.caption.norm.fill_(1)  # a caption's part in an untrained model is small: make it count
        return model

    return make


def draw(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, 6, 8, generator=generator), torch.randn(2, TOKENS, 16, generator=generator)


@pytest.mark.parametrize("mask", list(MASKS.values()), ids=list(MASKS))
@pytest.mark.parametrize("compat", ["diffusers", "native"])
def test_a_prepared_model_gives_the_velocity_of_the_plain_forward(make_model, compat, mask):
    model, (latents, caption), t = make_model(compat=compat, qk_norm=True), draw(), torch.tensor([3.0, 731.0])
    with torch.no_grad():
        plain = model(latents, t, caption, mask)
        prepared = model.denoise(latents, model.time(t, None), model.prepare(caption, mask))
    torch.testing.assert_close(prepared, plain, **CLOSE)


@pytest.mark.parametrize(
    ("qk_norm", "sprint", "scale", "patch_size"),
    list(itertools.product([False, True], [False, True], [None, 2.0], [1, 2])),
)
def test_every_kind_of_model_can_be_prepared(make_model, qk_norm, sprint, scale, patch_size):
    kind = {"qk_norm": qk_norm, "guidance_embeds": sprint, "interpolation_scale": scale, "patch_size": patch_size}
    model, (latents, caption), t = make_model(**kind), draw(), torch.tensor([3.0, 731.0])
    guidance = torch.tensor([0.45, 0.1]) if sprint else None
    with torch.no_grad():
        plain = model(latents, t, caption, rows(1, 9), guidance)
        prepared = model.denoise(latents, model.time(t, guidance), model.prepare(caption, rows(1, 9)))
    torch.testing.assert_close(prepared, plain, **CLOSE)


def test_two_captions_share_the_latents_of_a_sample(make_model):
    model, (latents, caption), t = make_model(), draw(batch=1), torch.tensor([500.0])
    with torch.no_grad():
        plain = model(torch.cat([latents, latents]), t.expand(2), caption, rows(1, 9))
        shared = model.denoise(latents, model.time(t, None), model.prepare(caption, rows(1, 9)))
    torch.testing.assert_close(shared, plain, **CLOSE)


@pytest.mark.parametrize("times", [[500.0], [500.0, 20.0, 999.0]], ids=["one-time", "own-times"])
def test_branches_share_the_first_self_attention(make_model, times):
    model, seen = make_model(qk_norm=True), []
    latents, caption = torch.randn(3, 4, 6, 8), torch.cat([draw()[1]] * 3)
    mask, t = rows(1, 1, 1, 9, 21, 7), torch.tensor(times)
    with torch.no_grad():
        plain = model(latents.repeat(2, 1, 1, 1), t.expand(3).repeat(2), caption, mask)
        for block in model.blocks:
            block.self_attn.register_forward_hook(lambda attention, args, output: seen.append(len(output)))
        shared = model.denoise(latents, model.time(t, None), model.prepare(caption, mask))
    torch.testing.assert_close(shared, plain, **CLOSE)
    assert seen == [3, 6]


def test_one_time_serves_every_sample(make_model):
    model, (latents, caption), t = make_model(), draw(), torch.tensor([500.0])
    conditioning = model.prepare(caption, rows(4, 9))
    with torch.no_grad():
        expected = model.denoise(latents, model.time(t.expand(2), None), conditioning)
        torch.testing.assert_close(model.denoise(latents, model.time(t, None), conditioning), expected, **CLOSE)


@pytest.mark.parametrize(("given", "rest"), [(rows(1, 9), (1, 16)), (rows(7, 21), (2, 32)), (rows(1, 1), (0, 16))])
def test_padding_is_dropped_and_one_token_captions_are_folded(make_model, given, rest):
    conditioning = make_model().prepare(draw()[1], given)
    folded = 2 - rest[0]
    assert (conditioning.keys.shape[1], conditioning.keys.shape[3]) == rest
    assert (0 if conditioning.constants is None else conditioning.constants.shape[1]) == folded
    assert conditioning.batch == 2


def test_a_folded_caption_needs_no_attention(make_model, monkeypatch):
    model, (latents, caption) = make_model(), draw()
    conditioning = model.prepare(caption, rows(1, 1))
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    assert model.denoise(latents, model.time(torch.tensor([5.0]), None), conditioning).isfinite().all()


def test_tokens_that_count_come_first_and_in_order():
    caption = torch.arange(2.0 * TOKENS).reshape(2, TOKENS, 1)
    bias = ((1 - SCATTERED.float()) * -10000.0)[:, None, None]
    kept, bias, folded = drop_padding(caption, bias)
    assert (folded, kept.shape[1]) == (0, 16)
    assert kept[0, :8, 0].tolist() == [3, 8, 13, 18, 23, 28, 33, 38]
    assert kept[1, 0, 0] == TOKENS + 39
    assert (bias[:, 0, 0] == 0).sum(1).tolist() == [8, 1]


def test_no_bias_is_kept_where_every_token_counts(make_model):
    assert make_model().prepare(draw()[1], rows(16, 16)).bias is None
    assert make_model().prepare(draw()[1], rows(16, 15)).bias is not None


def test_no_gradients_flow_into_what_is_prepared(make_model):
    assert not make_model().prepare(draw()[1].requires_grad_(), rows(7, 21)).keys.requires_grad


def test_samples_and_captions_that_do_not_fit_are_named(make_model):
    model, (latents, caption) = make_model(), draw(batch=3)
    conditioning, times = model.prepare(caption), model.time(torch.tensor([1.0, 2.0]), None)
    with pytest.raises(ValueError, match="2 captions for 3 samples"):
        model.denoise(latents, times, conditioning)
    with pytest.raises(ValueError, match="2 timesteps for 1 samples"):
        model.denoise(latents[:1], times, conditioning)
    with pytest.raises(ValueError, match=r"caption_mask is \(2, 9\); expected \(2, 40\)"):
        model.prepare(caption, torch.ones(2, 9))
