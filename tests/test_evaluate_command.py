import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
)
from typer.testing import CliRunner

from sana.commands import app
from sana.png import save_png
from sana_judge import Detection, geneval

CAT = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
RED_CAT = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"}


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, ["evaluate", "geneval", *map(str, arguments)])


@pytest.fixture
def images(tmp_path):
    """Two prompts of two images; one of each is right by `made`."""
    for number, metadata in enumerate((CAT, RED_CAT)):
        geneval.save_prompt(tmp_path / "images", number, metadata, [Image.new("RGB", (32, 32), "red")] * 2)
    return tmp_path / "images"


@pytest.fixture
def made(tmp_path, images):
    red, blue = (Detection(name="cat", score=0.8, box=(0, 0, 9, 9), color=color) for color in ("red", "blue"))
    names = [path.relative_to(images).as_posix() for path in sorted(images.rglob("*.png"))]
    found = dict(zip(names, ([red], [], [blue], [red]), strict=True))
    geneval.write_detections(tmp_path / "made.jsonl", found)
    return tmp_path / "made.jsonl"


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    """A tiny Mask2Former of random weights."""
    torch.manual_seed(0)
    stages = [f"stage{number}" for number in range(1, 5)]
    swin = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages)
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    sizes = dict.fromkeys(widths, 32) | {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    config = Mask2FormerConfig(backbone_config=swin, num_queries=12, num_labels=80, **sizes)
    folder = tmp_path_factory.mktemp("detector")
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP of random weights."""
    folder = tmp_path_factory.mktemp("clip")
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "a", "[END]", "photo", "of", "object"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": 3}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    return folder


def test_detector_and_colours_are_loaded_and_what_they_saw_is_kept(run, tmp_path, detector_folder, clip_folder):
    for number, metadata in enumerate((CAT, RED_CAT)):
        geneval.save_prompt(tmp_path / "images", number, metadata, [Image.new("RGB", (40, 2), "red")])
    weak = ("--threshold", 0, "--device", "cpu", "--no-progress", "--json", "--no-sheets")
    result = run(tmp_path / "images", "--detector", detector_folder, "--clip", clip_folder, *weak)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["judged"] == 2
    kept = geneval.read_detections(tmp_path / "images" / "detections.jsonl")
    assert list(kept) == ["00000/samples/00000.png", "00001/samples/00000.png"]


def test_the_table_is_printed_and_saved(run, images, made, tmp_path):
    result = run(images, "--detections", made, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "single_object" in result.stdout
    assert "mean of 2 of 6 tasks" in result.stdout
    assert result.stdout.count("50.00") == 4
    assert json.loads((tmp_path / "out" / "table.json").read_text())["overall"] == 0.5
    assert len(geneval.read_results(tmp_path / "out" / "results.jsonl")) == 4
    with Image.open(tmp_path / "out" / "failures-1.png") as sheet:
        assert sheet.width > 500


def test_json_is_printed_for_scripts(run, images, made, tmp_path):
    result = run(images, "--detections", made, "--out", tmp_path / "out", "--json", "--no-progress")
    printed = json.loads(result.stdout)
    assert printed["tasks"] == {"single_object": 0.5, "colors": 0.5}
    assert (printed["overall"], printed["judged"]) == (0.5, 4)
    assert printed["failures"] == [str(tmp_path / "out" / "failures-1.png")]


def test_results_lie_beside_the_images_unless_asked_otherwise(run, images, made):
    assert run(images, "--detections", made, "--no-sheets").exit_code == 0
    assert sorted(path.name for path in images.iterdir()) == ["00000", "00001", "results.jsonl", "table.json"]


def test_a_folder_that_is_not_there_is_said_before_a_detector_is_fetched(run, tmp_path):
    result = run(tmp_path / "nowhere", "--detector", tmp_path / "no-detector")
    assert (result.exit_code, "nowhere" in result.stderr, "no-detector" in result.stderr) == (2, True, False)


def test_thresholds_are_options(run, images, made, tmp_path):
    common = (images, "--detections", made, "--out", tmp_path / "out", "--json")
    assert json.loads(run(*common, "--threshold", 0.9).stdout)["overall"] == 0.0


def test_pages_of_an_earlier_run_are_removed(run, images, made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    save_png(Image.new("RGB", (2, 2)), out / "failures-2.png", {"failures": 50, "page": 2})
    for name in ("failures-3.png", "failures-mine.png"):
        Image.new("RGB", (2, 2)).save(out / name)
    run(images, "--detections", made, "--out", out)
    left = ["failures-1.png", "failures-3.png", "failures-mine.png"]
    assert sorted(path.name for path in out.glob("failures*")) == left


@pytest.mark.filterwarnings("default")
def test_an_unreadable_image_is_a_warning_and_a_failure(run, images, made, tmp_path):
    found = geneval.read_detections(made)
    geneval.write_detections(made, dict(list(found.items())[1:]))
    (images / "00000" / "samples" / "00000.png").write_text("no image")
    result = run(images, "--detections", made, "--out", tmp_path / "out", "--json")
    assert "warning: 1 images cannot be read" in result.stderr
    assert json.loads(result.stdout)["tasks"]["single_object"] == 0.0


@pytest.mark.filterwarnings("default")
def test_official_metadata_can_be_given(run, images, made, tmp_path):
    geneval.write_metadata(tmp_path / "evaluation_metadata.jsonl", [RED_CAT | {"prompt": CAT["prompt"]}, RED_CAT])
    result = run(
        *(images, "--detections", made, "--out", tmp_path / "out", "--json"),
        *("--metadata", tmp_path / "evaluation_metadata.jsonl"),
    )
    assert "ask for something else" in result.stderr
    assert list(json.loads(result.stdout)["tasks"]) == ["colors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detections", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--detector", "/nowhere/model"], "no model '/nowhere/model'"),
        (["--detections", "made.jsonl", "--clip", "a/b"], "--clip is given with --detections"),
        (["--detections", "made.jsonl", "--metadata", "made.jsonl"], "it must have tag and prompt"),
        (["--detections", "made.jsonl", "--out", "made.jsonl/out"], "made.jsonl"),
    ],
)
def test_trouble_is_one_line_and_leaves_nothing(run, images, made, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(images, "--no-progress", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in images.iterdir()) == ["00000", "00001"]


def test_a_folder_without_prompts_is_said(run, tmp_path, made):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        result = run(tmp_path / name, "--detections", made)
        assert result.exit_code == 2
        assert name in result.stderr


def test_a_table_says_how_its_pictures_were_drawn(run, images, made):
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        drawn = {"model": "embedded", "seed": number % 2, "steps": 20, "guidance_scale": 4.0, "negative_prompt": ""}
        save_png(Image.new("RGB", (32, 32), "red"), path, drawn)
    assert run(images, "--detections", made, "--no-sheets", "--no-progress").exit_code == 0
    settings = json.loads((images / "table.json").read_text())["settings"]
    assert settings == {"model": "embedded", "steps": 20, "guidance_scale": 4.0, "seeds": "0 to 1"}


def test_pictures_that_were_drawn_in_several_ways_are_told_so(run, images, made):
    first, second, *_ = sorted(images.rglob("*.png"))
    for steps, path in ((10, first), (20, second)):
        save_png(Image.new("RGB", (32, 32), "red"), path, {"model": "a/b", "seed": 7, "steps": steps})
    assert run(images, "--detections", made, "--no-sheets", "--no-progress").exit_code == 0
    settings = json.loads((images / "table.json").read_text())["settings"]
    assert settings == {"model": "a/b", "steps": [10, 20], "seeds": "7", "pictures_without_settings": 2}
