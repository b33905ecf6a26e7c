"""Checkpoints of diffusers and of NVlabs, in and out, with the same velocity."""

import json
import re
from dataclasses import replace

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from sana_dit import SanaTransformer

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def theirs(make_diffusers):
    return make_diffusers(qk_norm="rms_norm_across_heads", interpolation_scale=1.0)


@pytest.fixture
def model(theirs, ours):
    model = ours(theirs)
    model.null_caption = torch.randn(5, 16)
    return model


def nvlabs_state(theirs):
    """Names the weights of a diffusers model as NVlabs does, by a list of its own."""
    state = theirs.state_dict()
    pairs = {"patch_embed": "x_embedder", "caption_projection.linear_": "y_embedder.y_proj.fc"}
    pairs |= {"caption_norm": "attention_y_norm", "time_embed.linear": "t_block.1", "proj_out": "final_layer.linear"}
    pairs |= {f"time_embed.emb.timestep_embedder.linear_{i}": f"t_embedder.mlp.{2 * i - 2}" for i in (1, 2)}
    pairs |= {"transformer_blocks": "blocks", "attn1.to_out.0": "attn.proj", "attn2.to_out.0": "cross_attn.proj"}
    pairs |= {"attn2.to_q": "cross_attn.q_linear", "ff.conv_inverted": "mlp.inverted_conv.conv"}
    pairs |= {"ff.conv_depth": "mlp.depth_conv.conv", "ff.conv_point": "mlp.point_conv.conv"}
    pairs |= {f"attn{i}.norm_{x}": f"{a}.{x}_norm" for i, a in ((1, "attn"), (2, "cross_attn")) for x in "qk"}
    named = {}
    for name, weight in state.items():
        if re.search(r"attn1\.to_[qkv]|attn2\.to_[kv]", name):
            continue
        for old, new in pairs.items():
            name = name.replace(old, new)
        named["final_layer." + name if name == "scale_shift_table" else name] = weight
    for i in range(theirs.config.num_layers):
        parts = [state[f"transformer_blocks.{i}.attn1.to_{x}.weight"] for x in "qkv"]
        named[f"blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
        for kind in ("weight", "bias"):
            parts = [state[f"transformer_blocks.{i}.attn2.to_{x}.{kind}"] for x in "kv"]
            named[f"blocks.{i}.cross_attn.kv_linear.{kind}"] = torch.cat(parts)
    return named


def test_a_folder_of_diffusers_gives_the_same_velocity(tmp_path, theirs, model, make_inputs):
    theirs.save_pretrained(tmp_path)
    loaded = SanaTransformer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**make_inputs()), model(**make_inputs()))


@pytest.mark.parametrize("guidance", [False, True])
def test_diffusers_loads_what_we_save(tmp_path, make_diffusers, ours, make_inputs, call_diffusers, guidance):
    theirs = make_diffusers(guidance_embeds=guidance)
    ours(theirs).save_pretrained(tmp_path)
    loaded, report = SanaTransformer2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    inputs = make_inputs(guidance=guidance)
    with torch.no_grad():
        assert torch.equal(call_diffusers(loaded, inputs), call_diffusers(theirs, inputs))


def test_saving_and_loading_changes_nothing(tmp_path, model):
    model.config = replace(model.config, compat="native")
    model.save_pretrained(tmp_path / "model")
    loaded = SanaTransformer.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded.null_caption, model.null_caption)
    for (name, before), (_, after) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(before, after), name
        assert after.requires_grad, name


def test_what_is_ours_stays_out_of_the_files_of_diffusers(tmp_path, model):
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        NAME,
        "sana.json",
        "sana.safetensors",
    ]
    assert json.loads((tmp_path / "sana.json").read_text()) == {"compat": "diffusers"}
    assert list(load_file(tmp_path / "sana.safetensors")) == ["null_caption"]
    assert not any("null" in name or "pos" in name for name in load_file(tmp_path / NAME))


def test_facts_of_others_in_sana_json_are_kept(tmp_path, model):
    (tmp_path / "sana.json").write_text('{"captions": {"chi": false}, "compat": "native"}')
    model.save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "sana.json").read_text())
    assert facts == {"captions": {"chi": False}, "compat": "diffusers"}


def test_the_depth_written_is_that_of_the_blocks(tmp_path, model):
    del model.blocks[1]
    model.save_pretrained(tmp_path)
    assert SanaTransformer2DModel.from_pretrained(tmp_path).config.num_layers == 1
    assert SanaTransformer.from_pretrained(tmp_path).config.num_layers == 1


@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "bare"])
def test_a_pth_of_nvlabs_gives_the_same_velocity(tmp_path, theirs, model, make_inputs, wrapped):
    state = nvlabs_state(theirs)
    state |= {"pos_embed": torch.zeros(1, 64, 128), "y_embedder.y_embedding": torch.ones(5, 16)}
    state |= {"logvar_linear.weight": torch.zeros(1, 128), "logvar_linear.bias": torch.zeros(1)}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "Sana_4Kpx_MultiLing.pth")
    theirs.save_config(tmp_path)
    loaded = SanaTransformer.from_pretrained(tmp_path / "Sana_4Kpx_MultiLing.pth")
    assert loaded.config == replace(model.config, compat="native")
    assert torch.equal(loaded.null_caption, torch.ones(5, 16))
    same = SanaTransformer.from_pretrained(tmp_path / "Sana_4Kpx_MultiLing.pth", compat="diffusers")
    with torch.no_grad():
        assert torch.equal(same(**make_inputs()), model(**make_inputs()))


def test_a_pth_we_save_has_the_names_of_nvlabs(tmp_path, theirs, model):
    model.save_pretrained(tmp_path, layout="native")
    state = torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"]
    expected = nvlabs_state(theirs) | {"y_embedder.y_embedding": model.null_caption}
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(SanaTransformer.from_pretrained(tmp_path).null_caption, model.null_caption)


@pytest.mark.parametrize("native", [False, True])
def test_one_safetensors_file_is_enough(tmp_path, theirs, native):
    save_file(nvlabs_state(theirs) if native else theirs.state_dict(), tmp_path / "anything.safetensors")
    theirs.save_config(tmp_path)
    loaded = SanaTransformer.from_pretrained(str(tmp_path / "anything.safetensors"))
    assert loaded.config.compat == ("native" if native else "diffusers")


def test_shards_are_read_by_both(tmp_path, model, make_inputs, call_diffusers, monkeypatch):
    monkeypatch.setattr("sana_dit.pretrained._SHARD_SIZE", "500KB")
    model.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 2
    loaded, theirs = SanaTransformer.from_pretrained(tmp_path), SanaTransformer2DModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**make_inputs())
        assert torch.equal(loaded(**make_inputs()), expected)
        torch.testing.assert_close(call_diffusers(theirs, make_inputs()), expected, rtol=1e-4, atol=1e-5)


def test_saving_twice_leaves_no_shards_of_the_first(tmp_path, model, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr("sana_dit.pretrained._SHARD_SIZE", "500KB")
        model.save_pretrained(tmp_path)
    model.null_caption = None
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", NAME, "sana.json"]


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_dtype_is_that_of_the_file_unless_asked_for(tmp_path, model, dtype):
    model.bfloat16().save_pretrained(tmp_path)
    loaded = SanaTransformer.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} | {loaded.null_caption.dtype} == {dtype or torch.bfloat16}


def test_compat_given_wins_over_compat_saved(tmp_path, model):
    model.config = replace(model.config, compat="native")
    model.save_pretrained(tmp_path)
    loaded = SanaTransformer.from_pretrained(tmp_path, compat="diffusers")
    assert loaded.config.compat == "diffusers"
    assert loaded.blocks[0].self_attn.eps == 1e-15


def test_an_unknown_compat_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"compat is 'nvlabs'; it must be one of \('diffusers', 'native'\), or None"):
        SanaTransformer.from_pretrained(tmp_path / "missing", compat="nvlabs")


def test_an_unknown_layout_is_refused_before_anything_is_written(tmp_path, model):
    with pytest.raises(ValueError, match="layout is 'onnx'; it must be one of"):
        model.save_pretrained(tmp_path / "new", layout="onnx")
    assert not (tmp_path / "new").exists()


def test_weights_that_do_not_fit_are_named_with_their_file(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / NAME)
    state["extra"] = state.pop("proj_out.weight")
    save_file(state, tmp_path / NAME)
    with pytest.raises(ValueError, match=rf"{NAME} does not fit .* 1 missing \(proj_out.weight\); 1 unknown \(extra\)"):
        SanaTransformer.from_pretrained(tmp_path)


def test_a_config_that_does_not_fit_is_named(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    with pytest.raises(ValueError, match=r"config.json has attention_bias = True"):
        SanaTransformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"{NAME} is 128 wide, .* put the model's config.json beside the file"):
        SanaTransformer.from_pretrained(tmp_path)


def test_an_impossible_compat_in_sana_json_is_named(tmp_path, model):
    model.save_pretrained(tmp_path)
    (tmp_path / "sana.json").write_text('{"compat": "nvlabs"}')
    with pytest.raises(ValueError, match=r"sana.json compat is 'nvlabs'"):
        SanaTransformer.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_earlier_one(tmp_path, model, make_inputs):
    model.save_pretrained(tmp_path / "model")
    broken = SanaTransformer.from_pretrained(tmp_path / "model").to("meta")
    with pytest.raises((NotImplementedError, RuntimeError, ValueError)):
        broken.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with torch.no_grad():
        loaded = SanaTransformer.from_pretrained(tmp_path / "model")
        assert torch.equal(loaded(**make_inputs()), model(**make_inputs()))


def test_loading_draws_no_random_numbers(tmp_path, model):
    model.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded = SanaTransformer.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_publishing_uploads_a_folder_that_loads(model, monkeypatch):
    uploaded = {}

    def upload(folder, repo, *, card, weights, **options):
        uploaded.update(options, repo=repo, card=card, config=SanaTransformer.from_pretrained(folder).config)
        assert {path.name for pattern in weights for path in folder.glob(pattern)} == {NAME, "sana.safetensors"}
        return "https://huggingface.co/owner/name/commit/0"

    monkeypatch.setattr("sana_dit.pretrained.upload", upload)
    assert model.push_to_hub("owner/name", licence="mit", private=True, token="t").endswith("commit/0")
    assert 'from_pretrained("owner/name")' in uploaded.pop("card")
    assert uploaded == {
        "repo": "owner/name", "config": model.config, "licence": "mit", "private": True, "token": "t"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["final.proj.bias", "null_caption"])
def test_weights_that_are_not_finite_are_not_published(model, name):
    weight = model.null_caption if name == "null_caption" else model.get_parameter(name)
    weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=f"{name} hold NaN or infinity"):
        model.push_to_hub("owner/name")


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match=r"missing\.pth is neither a file nor a folder"):
        SanaTransformer.from_pretrained("checkpoints/missing.pth")


def test_a_null_caption_of_another_width_is_refused(model, tmp_path):
    model.null_caption = torch.randn(5, 17)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"null caption of shape \(5, 17\); it must be \(L, 16\)"):
        SanaTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("state", [{1: torch.ones(1)}, {"x_embedder.proj.weight": torch.ones(1, dtype=torch.int64)}])
def test_a_pth_of_other_things_than_weights_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="no state_dict of named floating-point tensors"):
        SanaTransformer.from_pretrained(tmp_path / "model.pth")


def test_a_setting_of_another_type_is_refused_with_its_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": "2"}))
    with pytest.raises(ValueError, match=r"config\.json"):
        SanaTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_a_damaged_index_is_refused(model, tmp_path, weight_map):
    model.save_pretrained(tmp_path)
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((ValueError, FileNotFoundError), match="index"):
        SanaTransformer.from_pretrained(tmp_path)
