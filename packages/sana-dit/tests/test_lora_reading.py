"""Files of adapters: every spelling of a layer's name, settings from header or file, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sana_dit.lora_reading import find_lora, read_lora

QUERY, UP, PATCH = "transformer_blocks.1.attn1.to_q", "transformer_blocks.1.ff.conv_inverted", "patch_embed.proj"
DOWN_FACTOR, UP_FACTOR = torch.arange(12.0).reshape(2, 6), torch.arange(16.0).reshape(8, 2)


@pytest.fixture
def layers():
    return {QUERY: nn.Linear(6, 8), UP: nn.Linear(6, 8), PATCH: nn.Linear(12, 8), "proj_out": nn.Linear(6, 8)}


@pytest.fixture
def write(tmp_path):
    def write(state, settings=None, name="pytorch_lora_weights.safetensors"):
        header = None if settings is None else {"lora_adapter_metadata": json.dumps(settings)}
        save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / name, metadata=header)
        return tmp_path / name

    return write


def factors(module=f"transformer.{QUERY}", down=DOWN_FACTOR, up=UP_FACTOR):
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model.", "base_model.model."])
@pytest.mark.parametrize(("down", "up"), [("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up")])
def test_every_spelling_of_a_layer_is_read(layers, write, prefix, down, up):
    path = write({f"{prefix}{QUERY}.{down}.weight": DOWN_FACTOR, f"{prefix}{QUERY}.{up}.weight": UP_FACTOR})
    read = read_lora(path, layers)
    assert read.keys() == {QUERY}
    assert torch.equal(read[QUERY].down, DOWN_FACTOR)
    assert torch.equal(read[QUERY].up, UP_FACTOR)


def test_kohyas_names_and_alphas_are_read(layers, write):
    name = "lora_unet_transformer_blocks_1_attn1_to_q"
    path = write(
        {
            f"{name}.lora_down.weight": DOWN_FACTOR,
            f"{name}.lora_up.weight": UP_FACTOR,
            f"{name}.alpha": torch.tensor(1.0),
        }
    )
    assert torch.equal(read_lora(path, layers)[QUERY].up, UP_FACTOR / 2)  # alpha / rank


def test_convolutions_are_linear_layers(layers, write):
    up = UP_FACTOR[:, :, None, None]
    state = factors(UP, DOWN_FACTOR[:, :, None, None], up) | factors(PATCH, torch.arange(24.0).reshape(2, 3, 2, 2), up)
    read = read_lora(write(state), layers)
    assert read[UP].down.shape == (2, 6)
    assert torch.equal(read[PATCH].down, torch.arange(24.0).reshape(2, 12))  # channels, rows, columns


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 2, "lora_alpha": 8}, 4),
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"r": 16, "rank_pattern": {"to_q": 2}, "lora_alpha": 1, "alpha_pattern": {"attn1.to_q": 6}}, 3),
        ({"alpha_pattern": {f"^{QUERY}": 6, "to_q": 100}, "lora_alpha": 1}, 3),
        ({"alpha_pattern": {"o_q": 6}, "lora_alpha": 2}, 1),  # the end of a name, but not a name
        ({"r": 2}, 1),
    ],
)
def test_settings_scale_the_factors(layers, write, settings, scale):
    in_header = write(factors(), {f"transformer.{name}": value for name, value in settings.items()})
    torch.testing.assert_close(read_lora(in_header, layers)[QUERY].up, scale * UP_FACTOR)
    beside = write(factors("base_model.model." + QUERY), name="adapter_model.safetensors")
    (beside.parent / "adapter_config.json").write_text(json.dumps(settings))
    torch.testing.assert_close(read_lora(beside, layers)[QUERY].up, scale * UP_FACTOR)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            factors("transformer.transformer_blocks.30.attn1.to_q"),
            r"2 unknown keys \(transformer.transformer_blocks.30",
        ),
        (factors() | {"text_encoder.layers.0.lora_A.weight": DOWN_FACTOR}, r"1 unknown keys \(text_encoder"),
        (factors() | {f"transformer.{QUERY}.lora_B.bias": torch.ones(8)}, r"unknown keys \(.*lora_B.bias"),
        (factors() | {f"transformer.{QUERY}.lora_magnitude_vector": torch.ones(8)}, "unknown keys"),
        (factors("transformer.transformer_blocks.1.ff.conv_depth"), "a depthwise convolution takes no adapter"),
        ({f"{QUERY}.lora_A.weight": DOWN_FACTOR}, r"1 layers with one factor of two \(transformer_blocks.1.attn1.to_q"),
        (factors(down=torch.ones(2, 7)), r"attn1.to_q: 7 to 8, not 6 to 8"),
        (factors(up=torch.ones(9, 2)), r"attn1.to_q: 6 to 9, not 6 to 8"),
        (factors(up=torch.ones(8, 3)), r"attn1.to_q: ranks 2 and 3"),
        (factors(up=torch.ones(8, 2, 3, 3)), "are no factors"),
        (factors(up=torch.ones(8)), "are no factors"),
        (factors(up=UP_FACTOR / 0), r"1 layers with NaN or infinity \(transformer_blocks.1.attn1.to_q"),
        ({}, "it is empty"),
    ],
)
def test_what_does_not_fit_is_named(layers, write, state, message):
    with pytest.raises(ValueError, match=message) as error:
        read_lora(write(state), layers)
    assert "does not fit this transformer of width 6" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "is a LORA use_dora; only plain"),
        ({"peft_type": "LOHA"}, "is a LOHA; only plain"),
        ({"init_lora_weights": "pissa_niter_4"}, "was started with pissa_niter_4"),
        ({"r": 4}, "says rank 4 of transformer_blocks.1.attn1.to_q, and its factors have rank 2"),
        ({"lora_alpha": "8"}, "has '8' for lora_alpha; it must be a number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "only names of layers can be followed"),
        ({"alpha_pattern": 3}, "has a alpha_pattern of 3"),
        ([], "that is no object"),
    ],
)
def test_odd_settings_are_refused(layers, write, settings, message):
    with pytest.raises(ValueError, match=message):
        read_lora(write(factors(), settings), layers)


def test_a_header_that_is_no_json_is_refused(layers, tmp_path):
    save_file(factors(), tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(ValueError, match="that is no JSON"):
        read_lora(tmp_path / "a.safetensors", layers)


def test_a_damaged_file_is_refused(layers, write):
    path = write(factors())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is truncated"):
        read_lora(path, layers)


def test_the_usual_file_is_found_else_the_only_one_else_the_one_asked_for(write, tmp_path):
    style = write({"x": torch.ones(1)}, name="style.safetensors")
    assert find_lora(tmp_path, file=None, revision=None) == style
    assert find_lora(style, file=None, revision=None) == style
    other = write({"x": torch.ones(1)}, name="other.safetensors")
    with pytest.raises(ValueError, match=r"holds \['other.safetensors', 'style.safetensors'\]: say which with file="):
        find_lora(tmp_path, file=None, revision=None)
    assert find_lora(tmp_path, file="other.safetensors", revision=None) == other
    usual = write({"x": torch.ones(1)})
    assert find_lora(str(tmp_path), file=None, revision=None) == usual


def test_a_missing_or_foreign_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*: it has no pytorch_lora_weights"):
        find_lora(tmp_path, file=None, revision=None)
    with pytest.raises(FileNotFoundError, match="it has no mine"):
        find_lora(tmp_path, file="mine.safetensors", revision=None)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        find_lora("nowhere", file=None, revision=None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*; that of a run is in .*model$"):
        find_lora(tmp_path, file=None, revision=None)
    with pytest.raises(FileNotFoundError, match=r"it has no mine\.safetensors; name its file"):
        find_lora(tmp_path, file="mine.safetensors", revision=None)
    (tmp_path / "lora.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="could run foreign code"):
        find_lora(tmp_path / "lora.bin", file=None, revision=None)
