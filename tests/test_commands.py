import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana_ae import DCAE
from sana_ae.ops.implementation import selected


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_generate_writes_pictures_that_carry_their_settings(run, small_folder, tmp_path):
    result = run(
        *("generate", "A red apple", "一只猫", "--model", small_folder, "-n", 2, "--seed", 5, "--steps", 2),
        *("--cfg", 3, "--out", tmp_path / "new", "--device", "cpu", "--no-progress"),
    )
    assert result.exit_code == 0, result.output
    names = ["a-red-apple-5.png", "a-red-apple-6.png", "一只猫-5.png", "一只猫-6.png"]
    assert sorted(os.listdir(tmp_path / "new")) == names
    record = json.loads(Image.open(tmp_path / "new" / "一只猫-6.png").text["sana"])
    assert record == {
        "prompt": "一只猫",
        "seed": 6,
        "model": str(small_folder),
        "sampler": "Flow-DPM-Solver",
        "steps": 2,
        "guidance_scale": 3.0,
        "negative_prompt": "",
        "height": 64,
        "width": 64,
    }


def test_generate_prints_json_for_scripts(run, small_folder, tmp_path):
    out = tmp_path / "one.png"
    result = run("generate", "a dog", "--model", small_folder, "--steps", 1, "--out", out, "--json", "--no-progress")
    (record,) = json.loads(result.stdout)
    assert record["path"] == str(out)
    assert out.exists()


def test_the_settings_in_a_picture_draw_it_again(run, small_folder, tmp_path):
    common = ("--model", small_folder, "--steps", 2, "--no-progress", "--out")
    run("generate", "a dog", "--seeds", "9", *common, tmp_path / "first.png")
    record = json.loads(Image.open(tmp_path / "first.png").text["sana"])
    run("generate", record["prompt"], "--seed", record["seed"], *common, tmp_path / "again.png")
    first, again = (Image.open(tmp_path / name).tobytes() for name in ("first.png", "again.png"))
    assert first == again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64"], "--size is '64'"),
        (["--size", "65x64"], "multiples of 32"),
        (["--seeds", "1,x"], "--seeds is '1,x'"),
        (["--seeds", "1,2", "-n", "2"], "leave --seed and -n out"),
        (["--cfg", "nan"], "guidance_scale is nan"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--out", "one.jpg"], "written as PNG"),
        (["--steps", "0"], "steps=0"),
        (["--steps", "-4"], "steps=-4"),
        (["--dtype", "int8"], "--dtype is 'int8'"),
        (["--kernels", "triton"], "--kernels is 'triton'; it is reference or fused"),
        (["--tile", "48"], "tile is 48 pixels; it must be a multiple of 32"),
        (["-n", "2", "--out", "one.png"], "one file, for 2 pictures"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(run, small_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("generate", "a dog", "--model", small_folder, "--device", "cpu", "--no-progress", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


def test_emoji_prompts_do_not_write_over_each_other(run, small_folder, tmp_path):
    common = ("--model", small_folder, "--steps", 1, "--no-progress", "--out", tmp_path)
    run("generate", "🍎", "🐈", *common)
    run("generate", "🐕", "x" * 60, *common)
    assert len(os.listdir(tmp_path)) == 4


def test_negative_prompt_and_guidance_reach_the_pipeline(run, small_folder, tmp_path):
    common = ("generate", "a cat", "--model", small_folder, "--steps", 2, "--no-progress", "--out")
    run(*common, tmp_path / "plain.png")
    run(*common, tmp_path / "negative.png", "--negative", "a dog")
    run(*common, tmp_path / "strong.png", "--cfg", 9)
    pictures = {name: Image.open(tmp_path / f"{name}.png").tobytes() for name in ("plain", "negative", "strong")}
    assert len(set(pictures.values())) == 3


def test_tiles_and_batches_change_no_picture(run, small_folder, tmp_path):
    common = ("generate", "a cat", "a dog", "--model", small_folder, "--size", "128x128", "--steps", 1, "--no-progress")
    assert run(*common, "--out", tmp_path / "whole").exit_code == 0
    assert run(*common, "--out", tmp_path / "pieces", "--tile", 64, "--batch-size", 1).exit_code == 0
    for name in ("a-cat-0.png", "a-dog-0.png"):
        whole, pieces = (np.asarray(Image.open(tmp_path / out / name)).astype(int) for out in ("whole", "pieces"))
        assert np.abs(whole - pieces).max() <= 1  # sums are rounded otherwise


def test_kernels_reach_the_pipeline(run, small_folder, tmp_path, monkeypatch):
    seen = []
    decode = DCAE.decode
    monkeypatch.setattr(DCAE, "decode", lambda *args, **options: seen.append(selected()) or decode(*args, **options))
    for options in (["--kernels", "fused"], []):
        arguments = ["--model", small_folder, "--steps", 1, "--no-progress", "--out", tmp_path]
        assert run("generate", "a cat", *arguments, *options).exit_code == 0
    assert seen == ["fused", "reference"]


def test_an_unknown_model_is_said_in_one_line(run, tmp_path):
    for command in ("generate a --model", "info"):
        result = run(*command.split(), tmp_path / "nowhere")
        assert result.exit_code == 2
        assert "nowhere" in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_said_before_anything_is_drawn(run, small_folder, tmp_path):
    tmp_path.chmod(0o500)
    result = run("generate", "a dog", "--model", small_folder, "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "new" in result.stderr


def test_an_out_folder_that_is_a_file_is_refused(run, small_folder, tmp_path):
    (tmp_path / "taken").write_text("")
    result = run("generate", "a dog", "--model", small_folder, "--out", tmp_path / "taken")
    assert result.exit_code == 2
    assert "taken" in result.stderr


def test_info_counts_a_model_without_loading_it(run, small_folder):
    result = run("info", small_folder, "--json")
    facts = json.loads(result.stdout)
    from sana import SanaPipeline

    pipeline = SanaPipeline.from_pretrained(small_folder, device="cpu")
    for name, part in (
        ("transformer", pipeline.transformer),
        ("autoencoder", pipeline.autoencoder),
        ("text_encoder", pipeline.caption_encoder.text_encoder),
    ):
        assert facts["components"][name]["parameters"] == sum(weight.numel() for weight in part.parameters())
    assert (facts["width"], facts["height"], facts["steps"], facts["flow_shift"]) == (64, 64, 20, 3.0)
    assert "transformer" in run("info", small_folder).stdout


def test_info_counts_every_evaluation_of_a_picture(run, small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "own")
    flops = []
    for facts in ({}, {"steps": 10}, {"steps": 10, "guidance_scale": 1.0}):  # 40, 20 and 10 evaluations
        (folder / "sana.json").write_text(json.dumps({"pipeline": facts}))
        printed = json.loads(run("info", folder, "--json").stdout)
        flops.append(printed["components"]["transformer"]["flops_per_picture"])
    assert flops[2] > 0
    assert flops == [4 * flops[2], 2 * flops[2], flops[2]]
