import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, SanaTransformer2DModel

from sana_scale.depth import block_importance, prune_depth

LATENTS = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))  # two images, unguided and guided
CAPTION = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))
TIMES = torch.tensor([900, 100, 900, 100])


def sana():
    model = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=5,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=12,
        sample_size=8,
    )  # fmt: skip
    return model, {"encoder_hidden_states": CAPTION, "timestep": TIMES}, ("attn1", "attn2", "ff")


def pixart():
    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=5, norm_num_groups=1,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    inputs = {"encoder_hidden_states": CAPTION, "timestep": TIMES, "added_cond_kwargs": added}
    return model, inputs, ("attn1", "attn2", "ff")


def dit():
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=5, sample_size=8, num_embeds_ada_norm=10
    )
    return model, {"timestep": TIMES, "class_labels": torch.tensor([1, 2, 3, 4])}, ("attn1", "ff")


@pytest.mark.parametrize("make", [sana, pixart, dit])
def test_a_model_of_diffusers_is_measured_pruned_saved_and_loaded(make, tmp_path):
    torch.manual_seed(0)
    model, inputs, branches = make()
    model.eval()
    importance = block_importance(
        model.transformer_blocks, lambda: model(LATENTS, **inputs), model=model, bins=2, branches=branches,
        batch_parts=("unconditional", "conditional"),
    )  # fmt: skip
    assert importance.by_time.shape == (5, 2)
    assert all((values > 0).all() for values in importance.branches.values())
    parts = torch.stack(list(importance.parts.values())).mean(0)
    assert torch.allclose(parts, importance.values, rtol=1e-6)  # both halves are as large

    prune_depth(model, keep=[0, 2, 4], importance=importance)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.num_layers == len(loaded.transformer_blocks) == 3
    with torch.no_grad():
        assert torch.equal(loaded(LATENTS, **inputs).sample, model(LATENTS, **inputs).sample)


def test_a_pruned_model_does_what_the_blocks_that_stay_do():
    model, inputs, _ = sana()
    model.eval()
    for index in (1, 3):  # blocks that do nothing
        for projection in ("attn1.to_out.0", "attn2.to_out.0", "ff.conv_point"):
            for parameter in model.transformer_blocks[index].get_submodule(projection).parameters():
                torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        before = model(LATENTS, **inputs).sample
        importance = block_importance(model.transformer_blocks, lambda: model(LATENTS, **inputs))
        _, plan = prune_depth(model, keep=3, importance=importance)
        assert plan.removed == (1, 3)
        assert torch.equal(model(LATENTS, **inputs).sample, before)


def test_a_depth_that_was_the_default_is_written_too():
    # from_config leaves out what `_use_default_values` lists.
    model = SanaTransformer2DModel(
        num_attention_heads=1, attention_head_dim=4, num_cross_attention_heads=1, cross_attention_head_dim=4,
        cross_attention_dim=4, caption_channels=4,
    )  # fmt: skip
    prune_depth(model, keep=range(12))
    assert len(SanaTransformer2DModel.from_config(model.config).transformer_blocks) == 12


def test_a_plan_for_one_model_of_diffusers_is_refused_by_another():
    model, _, _ = sana()
    _, plan = prune_depth(model, keep=[0, 1])
    other, _, _ = sana()
    with pytest.raises(ValueError, match="weights with the hash"):
        plan.apply(other)
    assert len(other.transformer_blocks) == 5
