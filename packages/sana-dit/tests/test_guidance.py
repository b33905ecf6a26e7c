from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sana_dit import SanaConfig, SanaTransformer
from sana_dit.captions import Captions
from sana_dit.guidance import guided_velocity

TINY = SanaConfig(
    in_channels=4,
    out_channels=4,
    sample_size=8,
    caption_channels=6,
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=16,
    num_cross_attention_heads=2,
    cross_attention_head_dim=16,
)
BATCH, LENGTH = 2, 5
CAPTION_MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
EMPTY_MASK = torch.tensor([[1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def captions() -> Captions:
    generator = torch.Generator().manual_seed(1)
    return Captions(torch.randn(BATCH, LENGTH, 6, generator=generator), CAPTION_MASK)


@pytest.fixture(scope="module")
def negative() -> Captions:
    generator = torch.Generator().manual_seed(2)
    return Captions(torch.randn(1, LENGTH, 6, generator=generator), EMPTY_MASK)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(BATCH, 4, 6, 8, generator=torch.Generator().manual_seed(3))


T = torch.tensor([700, 700])


def make_model(**changes: object) -> SanaTransformer:
    torch.manual_seed(0)
    model = SanaTransformer(replace(TINY, **changes)).eval().requires_grad_(False)
    for block in model.blocks:  # a caption's part in an untrained model is small: make it count
        block.cross_attn.to_out.weight *= 4
    model.caption.norm.fill_(1)
    return model


# One batch of 2B rows against two of B: equal up to the order of fp32 sums.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_guidance_moves_from_the_negative_through_the_caption(captions, negative, x) -> None:
    model = make_model()
    u = model(x, T, negative.embeddings.expand(BATCH, -1, -1), EMPTY_MASK.expand(BATCH, -1))
    c = model(x, T, *captions)
    velocity = guided_velocity(model, captions, negative, guidance_scale=4.5)(x, T)
    torch.testing.assert_close(velocity, u + 4.5 * (c - u), **CLOSE)
    assert (velocity - c).abs().max() > 0.1


def test_the_native_convention_gives_the_negative_the_mask_of_the_caption(captions, negative, x) -> None:
    model = make_model(compat="native")
    u = model(x, T, negative.embeddings.expand(BATCH, -1, -1), CAPTION_MASK)
    c = model(x, T, *captions)
    velocity = guided_velocity(model, captions, negative, guidance_scale=3.0)(x, T)
    torch.testing.assert_close(velocity, u + 3.0 * (c - u), **CLOSE)
    own_mask = model(x, T, negative.embeddings.expand(BATCH, -1, -1), EMPTY_MASK.expand(BATCH, -1))
    assert (own_mask - u).abs().max() > 1e-2


@pytest.mark.parametrize("compat", ["diffusers", "native"])
def test_without_a_negative_the_null_caption_stands_in(captions, x, compat: str) -> None:
    model = make_model(compat=compat)
    null = torch.randn(LENGTH + 3, 6, generator=torch.Generator().manual_seed(4))
    model.null_caption = null
    u = model(x, T, null[:LENGTH].expand(BATCH, -1, -1), CAPTION_MASK)
    c = model(x, T, *captions)
    velocity = guided_velocity(model, captions, guidance_scale=2.0)(x, T)
    torch.testing.assert_close(velocity, u + 2.0 * (c - u), **CLOSE)


def test_without_a_negative_and_a_null_caption_there_is_no_guidance(captions) -> None:
    with pytest.raises(ValueError, match="no null caption"):
        guided_velocity(make_model(), captions, guidance_scale=2.0)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_a_scale_of_at_most_one_runs_the_captions_alone(captions, negative, x, scale: float) -> None:
    model, rows = make_model(), []
    model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    velocity = guided_velocity(model, captions, negative, guidance_scale=scale)(x, T)
    assert rows == [BATCH]
    assert torch.equal(velocity, model(x, T, *captions))


def test_each_sample_may_have_its_own_negative(captions, negative, x) -> None:
    model = make_model()
    two = Captions(torch.cat([negative.embeddings, captions.embeddings[:1]]), CAPTION_MASK)
    velocity = guided_velocity(model, captions, two, guidance_scale=2.0)(x, T)
    alone = guided_velocity(
        model, Captions(captions[0][1:], captions[1][1:]), Captions(two[0][1:], two[1][1:]), guidance_scale=2.0
    )
    torch.testing.assert_close(velocity[1:], alone(x[1:], T[1:]), **CLOSE)


def test_the_timestep_is_scaled_for_the_model(captions, negative, x) -> None:
    model = make_model(timestep_scale=0.001)
    for scale in (1.0, 4.5):
        velocity = guided_velocity(model, captions, negative, guidance_scale=scale)(x, T)
        same = guided_velocity(make_model(), captions, negative, guidance_scale=scale)(x, T * 0.001)
        assert torch.equal(velocity, same)


def test_a_sprint_model_takes_the_scale_as_an_input(captions, x) -> None:
    model = make_model(guidance_embeds=True, guidance_embeds_scale=0.1, timestep_scale=1000.0)
    sigma = torch.tensor([0.78, 0.78])
    velocity = guided_velocity(model, captions, guidance_scale=4.5)(x, sigma)
    assert torch.equal(velocity, model(x, sigma, *captions, guidance=torch.full((BATCH,), 0.45)))
    assert not torch.equal(velocity, guided_velocity(model, captions, guidance_scale=1.0)(x, sigma))


def test_a_sprint_model_has_no_negative(captions, negative) -> None:
    with pytest.raises(ValueError, match="leave them out"):
        guided_velocity(make_model(guidance_embeds=True), captions, negative)


def test_a_bfloat16_model_is_guided_in_float32(captions, negative, x) -> None:
    model = make_model().to(torch.bfloat16)
    dtypes = []
    model.register_forward_hook(lambda module, args, output: dtypes.append((args[0].dtype, output.dtype)))
    velocity = guided_velocity(model, captions, negative, guidance_scale=4.5)(x, T)
    assert velocity.dtype == torch.float32
    assert dtypes == [(torch.float32, torch.bfloat16)]
    # A difference of two bf16 numbers times 4.5 is not a bf16 number: guidance did not round.
    assert not torch.equal(velocity, velocity.bfloat16().float())


def test_captions_that_do_not_fit_are_named(captions, negative, x) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="3 samples for 2 captions"):
        guided_velocity(model, captions, negative)(torch.cat([x, x[:1]]), torch.tensor([1, 1, 1]))
    for wrong in (negative.embeddings.expand(3, -1, -1), negative.embeddings[:, :4]):
        with pytest.raises(ValueError, match="one negative or as many as captions"):
            guided_velocity(model, captions, Captions(wrong, EMPTY_MASK))
