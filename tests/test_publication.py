"""What may be published: a folder is refused before anything is sent, with everything that is wrong with it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sana.commands import app
from sana.publishing.publication import inspect_folder

JUDGE = Path(__file__).parents[1] / "src" / "sana" / "embedded" / "judge"
CARD = "---\nlicense: apache-2.0\n---\n# A model\n\nIt draws.\n"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def test_weights_that_are_not_finite_are_named(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.bias"][1] = torch.nan
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"model.safetensors has NaN or infinity in proj_out.bias"):
        inspect_folder(folder)


def _point_to_nothing(folder):
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "absent.safetensors"}}')


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), r"transformer/config.json has no \[diff"),
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "transformer/w.safetensors"),
            "transformer/config.json has no ",
        ),
        (lambda folder: shutil.rmtree(folder / "vae"), "vae is missing"),
        (lambda folder: (folder / "tokenizer/tokenizer_config.json").unlink(), "tokenizer is missing, or has no"),
        (_point_to_nothing, r"index.json names transformer/absent.safetensors, which is missing"),
        (lambda folder: (folder / f"{WEIGHTS}.index.json").write_text("{}"), "names no files of weights"),
        (lambda folder: shutil.copy(folder / WEIGHTS, folder / "model-00001-of-00002.safetensors"), "no index names"),
        (
            lambda folder: (folder / "transformer/config.json").write_text('{"a":'),
            "transformer/config.json is not JSON",
        ),
        (lambda folder: (folder / "transformer/config.json").write_text("[]"), "holds a list, not an object"),
        (lambda folder: (folder / "x.json").write_bytes(pickle.dumps({})), "x.json is not UTF-8 text"),
        (lambda folder: (folder / "x.model").write_bytes(pickle.dumps({})), "x.model is not a .model file"),
        (lambda folder: (folder / "x.png").write_bytes(pickle.dumps({})), "x.png is not a .png file"),
        (lambda folder: (folder / "README.md").write_bytes(CARD.encode("utf-16")), "README.md is not UTF-8 text"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused(folder, damage, problem):
    damage(folder)
    with pytest.raises(ValueError, match=problem):
        inspect_folder(folder)


def _change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _drop_a_weight(path):
    weights = load_file(path)
    del weights[sorted(weights)[0]]
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: save_file({}, folder / WEIGHTS), "transformer cannot be loaded: .*is not a Sana transformer"),
        (lambda folder: _change(folder / "transformer/config.json", num_layers=7), "transformer cannot be .* missing"),
        (lambda folder: _change(folder / "transformer/config.json", more=7), r"unknown fields \['more'\]"),
        (lambda folder: _drop_a_weight(folder / VAE), "vae cannot be loaded: .* 1 missing"),
        (lambda folder: _drop_a_weight(folder / "text_encoder/model.safetensors"), "text_encoder cannot be .* lacks 1"),
        (lambda folder: (folder / "vae/config.json").write_text("{}"), "vae cannot be loaded: .* no config.json"),
        (lambda folder: (folder / "model_index.json").write_text("{}"), "model_index.json cannot be loaded: .* a None"),
        (lambda folder: _change(folder / "model_index.json", _class_name="Mine"), "is that of a Mine"),
        (
            lambda folder: _change(folder / "text_encoder/config.json", auto_map={"AutoModel": "m.M"}),
            "names code to run",
        ),
    ],
)
def test_a_model_whose_weights_are_not_what_its_configuration_says_is_refused(folder, damage, problem):
    damage(folder)
    with pytest.raises(ValueError, match=problem):
        inspect_folder(folder)


@pytest.mark.parametrize(
    ("file", "fields", "problem"),
    [
        (
            "text_encoder/config.json",
            {"num_hidden_layers": "2"},
            "config.json does not describe a text encoder that tr",
        ),
        ("text_encoder/config.json", {"hidden_activation": "nonsense"}, "KeyError: 'nonsense'"),
        ("text_encoder/config.json", {"model_type": "nope"}, "model type `nope`"),
        ("text_encoder/sana.json", {"captions": 3}, "has 3 under 'captions', not an object"),
    ],
)
def test_a_text_encoder_that_cannot_be_made_is_told_before_a_card_is_made_of_it(folder, file, fields, problem):
    (folder / "README.md").unlink()
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))
    refused = CliRunner().invoke(app, ["publish", str(folder), "me/tiny", "--license", "mit", "--dry-run"])
    assert refused.exit_code == 2
    assert f"{folder} cannot be published:\n- text_encoder cannot be loaded: " in refused.stderr
    assert problem in refused.stderr
    assert len(refused.stderr) < 800


def test_a_tokenizer_that_loads_but_takes_no_captions_is_refused(folder):
    (folder / "tokenizer/tokenizer_config.json").write_text('{"tokenizer_class": "NopeTokenizer"}')
    (folder / "tokenizer/special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"text_encoder cannot be loaded: .*tokenizer"):
        inspect_folder(folder)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_part_by_itself_is_tried_as_well(folder, part):
    _drop_a_weight(folder / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"the model cannot be loaded: .* missing"):
        inspect_folder(folder / part, card=CARD)


def test_a_judge_whose_weights_are_not_those_of_its_configuration_is_refused(tmp_path):
    shutil.copytree(JUDGE, tmp_path / "judge")
    _change(tmp_path / "judge" / "llm" / "config.json", intermediate_size=9)
    with pytest.raises(ValueError, match=r"the model cannot be loaded: .* have another shape"):
        inspect_folder(tmp_path / "judge")


def test_a_judge_without_one_of_its_parts_is_refused(tmp_path):
    shutil.copytree(JUDGE, tmp_path / "judge")
    assert inspect_folder(tmp_path / "judge").sizes
    shutil.rmtree(tmp_path / "judge" / "llm")
    with pytest.raises(ValueError, match="llm is missing"):
        inspect_folder(tmp_path / "judge")


def test_everything_that_is_wrong_is_named_at_once(folder, tmp_path):
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "model.py").write_text("print()")
    (folder / "vae" / "config.json.tmp").write_text("{")
    (tmp_path / "outside").write_text("secret")
    (folder / "inside").symlink_to(tmp_path / "outside")
    (folder / "WEIGHTS.PT").write_bytes(b"x")
    (folder / "recovery").mkdir()
    (folder / "recovery" / "__0_0.distcp").write_bytes(b"x")
    (folder / "recovery" / "lock").write_text("a host and a process")
    (folder / "LICENSE").write_text("a licence may be published")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be published") as error:
        inspect_folder(folder)
    for part in (
        "optimizer.pt may run code",
        "model.py is code",
        "tmp looks unfinished",
        "inside is a link",
        "damaged",
        "WEIGHTS.PT may run code",
        "recovery/__0_0.distcp may run code",
        "recovery/lock is not a file that a model needs",
    ):
        assert part in str(error.value)
    assert "hidden" not in str(error.value)
    assert "LICENSE" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nowhere", "me/tiny"), "nowhere is not a folder"),
        (("pipeline", "tiny"), "a Hub id is owner/name"),
        (("pipeline", "me/ti ny"), "alphanumeric"),
    ],
)
def test_a_wrong_folder_or_name_is_told_before_the_hub_is_asked(folder, monkeypatch, arguments, problem):
    (folder / "README.md").unlink()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused = CliRunner().invoke(app, ["publish", *arguments, "--license", "mit", "--dry-run"])
    assert refused.exit_code == 2
    assert problem in refused.stderr


@pytest.mark.parametrize("options", [("--what", "It is tried."), ("--base-model", "a/b", "--results", "no.json")])
def test_what_is_said_for_a_card_that_nobody_makes_is_refused(folder, options):
    refused = CliRunner().invoke(app, ["publish", str(folder), "me/tiny", *options, "--dry-run"])
    assert refused.exit_code == 2
    assert f"{', '.join(options[::2])} {'are' if options[2:] else 'is'} for the card" in refused.stderr


def test_a_model_that_cannot_be_a_parent_makes_no_card(folder):
    (folder / "README.md").unlink()
    made = ["publish", str(folder), "me/tiny", "--license", "mit", "--base-model", "not an id", "--dry-run"]
    refused = CliRunner().invoke(app, made)
    assert refused.exit_code == 2
    assert "base_model is 'not an id'; a Hub id is owner/name" in refused.stderr


def test_a_result_file_that_is_not_there_is_told_before_the_weights_are_read(folder):
    (folder / "README.md").unlink()
    (folder / WEIGHTS).write_bytes(b"short")
    made = ["publish", str(folder), "me/tiny", "--license", "mit", "--results", "no.json", "--dry-run"]
    refused = CliRunner().invoke(app, made)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: no.json is not a file")


def test_the_files_come_last_where_they_are_seen(folder):
    shown = CliRunner().invoke(app, ["publish", str(folder), "me/tiny", "--dry-run"])
    assert "It draws." in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith("files for me/tiny")


def test_a_licence_that_nobody_knows_makes_no_card(folder):
    (folder / "README.md").unlink()
    refused = CliRunner().invoke(app, ["publish", str(folder), "me/tiny", "--license", "nonsense", "--dry-run"])
    assert refused.exit_code == 2
    assert "'nonsense', which is not one that the Hub knows" in refused.stderr


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("# No header", "names no licence"),
        ("---\nlicense: other\n---\n", "license_name"),
        ("---\nlicense: mit\n---\n# A model\n", "says nothing about the model"),
        ("---\nlicense: mit\n---\nIt draws:\n```python\nload('{{ repo }}')\n```", "repo"),
        ("---\nlicense: mit\n---\nIt draws.{% if x %}", "if x"),
        ("---\nlicense: mit\n---\n[More Information Needed]", "More Information Needed"),
        ("---\nlicense: mit\n---\n{{ what }}", "what"),
        ("---\nlicense: [mit\n---\n", "not YAML"),
        ("---\nlicense: unknown\n---\nIt draws.", "'unknown', which is not one that the Hub knows"),
        ("---\nlicense: foo bar\n---\nIt draws.", "'foo bar'"),
        ("---\nlicense: [mit]\n---\nIt draws.", r"\['mit'\]"),
        ("---\nlicense: Apache-2.0\n---\nIt draws.", r"did you mean apache-2\.0"),
    ],
)
def test_a_card_that_is_not_ready_is_refused(card, problem, folder):
    (folder / "README.md").write_text(card)
    with pytest.raises(ValueError, match=problem):
        inspect_folder(folder)


def test_a_card_may_speak_of_variables_mathematics_and_papers(folder):
    paper = "```bibtex\n@article{x, title={{SANA 1.5: Efficient Scaling}}}\n```\n"
    card = f"---\nlicense: mit\n---\nSet `$HF_HOME`; the loss is $loss = x$; TODO lists are drawn well.\n{paper}"
    assert inspect_folder(folder, card=card).card == card


def test_an_adapter_is_told_how_it_is_uploaded(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(FileNotFoundError, match=f"but an adapter: upload that with `hf upload OWNER/NAME {tmp_path}`"):
        inspect_folder(tmp_path)


def test_publishing_shows_no_bars_where_none_are_wanted(folder):
    result = CliRunner().invoke(app, ["publish", str(folder), "me/tiny", "--dry-run", "--no-progress"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_folder_without_a_card_or_model_is_refused(folder, tmp_path):
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"no README\.md"):
        inspect_folder(folder)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        inspect_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        inspect_folder(tmp_path / "nowhere")
