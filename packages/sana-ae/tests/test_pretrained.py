"""Loading, saving and publishing."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file, save_file

from sana_ae import DC_AE_1_5_F32C128, DC_AE_F32C32_IN, DC_AE_F32C32_SANA, DCAE
from sana_ae.presets import PUBLISHED

SHAPES = ["sana", "lite", "f32c32", "f64c128", "f128c512", "1.5-f32c128"]


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_loads_what_we_save(shape, make_model, tmp_path, relative_error):
    model = make_model(shape)
    model.save_pretrained(tmp_path)
    theirs = AutoencoderDC.from_pretrained(tmp_path)
    x = torch.randn(1, 3, model.config.compression, model.config.compression)
    with torch.no_grad():
        assert relative_error(theirs.encode(x).latent, model.encode(x)) < 1e-5
    assert theirs.config.scaling_factor == model.config.scaling_factor


@pytest.mark.parametrize("shape", SHAPES)
def test_we_load_what_diffusers_saves(shape, shrink, make_pair, tmp_path):
    ours, theirs = make_pair(shrink(shape))
    theirs.save_pretrained(tmp_path)
    loaded = DCAE.from_pretrained(tmp_path)
    assert loaded.config == ours.config
    assert not loaded.training
    for name, tensor in ours.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_we_load_shards_of_diffusers(shrink, make_pair, tmp_path):
    ours, theirs = make_pair(shrink("sana"))
    theirs.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    state = DCAE.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())


def test_a_round_trip_is_exact_also_for_channels_last_weights(make_model, tmp_path):
    model = make_model("sana").to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    state = DCAE.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("adaptive", [True, False])
def test_adaptive_channels_survive_a_round_trip(adaptive, make_model, tmp_path):
    make_model("1.5-f32c128", adaptive_channels=adaptive).save_pretrained(tmp_path)
    assert DCAE.from_pretrained(tmp_path).config.adaptive_channels is adaptive


def test_saving_over_another_model_leaves_nothing_of_it(make_model, tmp_path):
    make_model("1.5-f32c128").save_pretrained(tmp_path)
    make_model("sana").save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert DCAE.from_pretrained(tmp_path).config.latent_channels == 8


def test_a_loaded_model_trains(make_model, tmp_path):
    make_model("sana").save_pretrained(tmp_path)
    loaded = DCAE.from_pretrained(tmp_path).train()
    before = (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes()
    loaded(torch.randn(1, 3, 32, 32)).square().mean().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_a_dtype_can_be_asked_for(make_model, tmp_path):
    make_model("f32c32").save_pretrained(tmp_path)
    state = DCAE.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16, torch.int64}  # batch norm counts its batches


def test_a_checkpoint_of_efficientvit_names_its_configuration(tmp_path, monkeypatch, make_model):
    model = make_model("f32c32")
    monkeypatch.setitem(PUBLISHED, "dc-ae-f32c32-mix-1.0", model.config)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"model_name": "dc-ae-f32c32-mix-1.0"}')
    assert DCAE.from_pretrained(tmp_path).config == model.config


def test_an_unknown_name_of_efficientvit_is_refused(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_name": "dc-ae-f8c4"}')
    with pytest.raises(ValueError, match="is 'dc-ae-f8c4'; it must be one of"):
        DCAE.from_pretrained(tmp_path)


@pytest.fixture
def save_empty(tmp_path):
    """Saves the names and shapes of a full-size model: each tensor is one zero, expanded."""

    def save(config, name):
        with torch.device("meta"):
            state = DCAE(config).state_dict()
        path = tmp_path / name
        torch.save({key: torch.zeros(()).expand(value.shape) for key, value in state.items()}, path)
        return path

    return save


def test_without_a_configuration_the_shapes_tell(save_empty):
    assert DCAE.from_pretrained(save_empty(DC_AE_F32C32_SANA, "model.pt")).config == DC_AE_F32C32_SANA


def test_where_only_the_scale_differs_the_name_of_the_file_tells(save_empty):
    path = save_empty(DC_AE_F32C32_IN, "dc-ae-f32c32-in-1.0.pt")
    assert DCAE.from_pretrained(path).config.scaling_factor == 0.3189
    with pytest.raises(ValueError, match=r"could be any of .*in-1\.0.*mix-1\.0.*name the file after it"):
        DCAE.from_pretrained(path.rename(path.with_name("model.pt")))


@pytest.mark.parametrize("config", [{}, {"model_name": "dc-ae-1.5-f32c128"}], ids=["inferred", "efficientvit"])
def test_a_latent_scale_that_is_not_known_is_told(save_empty, config):
    path = save_empty(DC_AE_1_5_F32C128, "model.pt")
    (path.parent / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"scale of dc-ae-1.5-f32c128 is not known and 1.0 here: set it") as told:
        DCAE.from_pretrained(path)
    assert told[0].filename == __file__


def test_shapes_of_no_published_model_need_a_configuration(make_model, tmp_path):
    torch.save(make_model("sana").state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"mine.pt has no config.json beside it and its shapes are those of none of"):
        DCAE.from_pretrained(tmp_path / "mine.pt")


def test_keys_that_do_not_fit_are_counted_and_named(make_model, tmp_path):
    make_model("sana").save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["encoder.conv_in.bias"], state["decoder.conv_out.bias"]
    state |= {"discriminator.weight": torch.ones(1), "decoder.norm_out.bias": torch.ones(3)}
    save_file(state, path)
    with pytest.raises(ValueError, match="does not fit") as error:
        DCAE.from_pretrained(tmp_path)
    for part in (
        "2 missing (encoder.conv_in.bias, decoder.conv_out.bias)",
        "1 unknown (discriminator.weight)",
        "1 misshapen (decoder.norm_out.bias (3,) instead of (32,))",
        str(path),
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("change", [{"norm": "x"}, {"latent_channels": 7}, {"encoder_block_types": None}], ids=str)
def test_a_configuration_that_cannot_be_is_named(change, make_model, tmp_path):
    make_model("sana").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"config.json: "):
        DCAE.from_pretrained(tmp_path)


def test_another_layout_is_refused_before_anything_is_written(make_model, tmp_path):
    with pytest.raises(ValueError, match="layout is 'native'"):
        make_model("sana").save_pretrained(tmp_path / "new", layout="native")
    assert not (tmp_path / "new").exists()


def test_publishing_uploads_a_folder_that_loads(make_model, monkeypatch):
    calls = []

    def upload(folder, repo, *, card, **options):
        assert f'from_pretrained("{repo}")' in card
        assert DCAE.from_pretrained(folder).config.compression == 32
        calls.append((repo, options))
        return "https://hub/commit"

    monkeypatch.setattr("sana_ae.pretrained.upload", upload)
    assert make_model("sana").push_to_hub("me/ae", licence="mit", private=True, token="t") == "https://hub/commit"
    weights = ("diffusion_pytorch_model*.safetensors*", "sana.json")
    assert calls == [("me/ae", {"weights": weights, "licence": "mit", "private": True, "token": "t"})]


def test_weights_that_are_not_finite_are_not_published(make_model):
    model = make_model("sana")
    with torch.no_grad():
        model.decoder.norm_out.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"decoder\.norm_out\.bias hold NaN or infinity"):
        model.push_to_hub("me/ae")


def test_the_published_configurations_differ_from_each_other_only_where_they_should():
    assert replace(PUBLISHED["dc-ae-f32c32-in-1.0"], scaling_factor=0.4552) == PUBLISHED["dc-ae-f32c32-mix-1.0"]
