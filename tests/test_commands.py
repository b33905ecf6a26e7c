import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana.commands.drawing_checks import check_size
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
        (["--size", "65x64"], "--size is 65x64; both sides must be positive multiples of 32"),
        (["--seeds", "1,x"], "--seeds is '1,x'"),
        (["--seeds", "3,-1"], "give whole numbers from 0"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--seeds", "1,2", "-n", "2"], "leave --seed and -n out"),
        (["--cfg", "nan"], "nan is not a finite number"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--out", "one.jpg"], "written as PNG"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--steps", "-4"], "Invalid value for '--steps'"),
        (["--dtype", "int8"], "Invalid value for '--dtype'"),
        (["--kernels", "triton"], "Invalid value for '--kernels'"),
        (["--tile", "48"], "tile is 48 pixels; it must be a multiple of 32"),
        (["-n", "2", "--out", "one.png"], "one file, for 2 images"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(run, small_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("generate", "a dog", "--model", small_folder, "--device", "cpu", "--no-progress", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [("--size", "65x64"), ("--steps", 0), ("--quantize", "int2"), ("--cfg", "inf")])
def test_settings_are_looked_at_before_weights_are_loaded(run, small_folder, tmp_path, options):
    folder = shutil.copytree(small_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    for command in (("generate", "a dog"), ("best-of", "a dog")):
        result = run(*command, "--model", folder, "--out", tmp_path, *options)
        assert result.exit_code == 2
        assert options[0] in result.stderr


@pytest.mark.parametrize(("size", "warned"), [((), False), (("--size", "64x64"), False), (("--size", "96x64"), True)])
def test_a_size_that_was_not_trained_is_drawn_with_a_warning(run, small_folder, tmp_path, size, warned):
    result = run(
        "generate", "a dog", "--model", small_folder, "--steps", 1, "--out", tmp_path, "--device", "cpu", *size
    )
    assert result.exit_code == 0, result.output
    assert ("--size is 96x64, and the model was trained only at 64x64" in result.stderr) == warned


def test_a_checkpoint_with_bins_takes_any_size(diffusers_folder, capsys):
    check_size(str(diffusers_folder), 300, 501)
    assert capsys.readouterr().err == ""


def test_guidance_goes_by_the_name_diffusers_has_for_it(run, small_folder, tmp_path):
    common = ("generate", "a dog", "--model", small_folder, "--steps", 1, "--json", "--out", tmp_path)
    assert json.loads(run(*common, "--guidance-scale", 2).stdout)[0]["guidance_scale"] == 2.0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write to either")
def test_a_folder_that_even_root_cannot_write_to_is_said_before_weights_are_loaded(run, small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    for command in ("generate", "best-of"):
        result = run(command, "a dog", "--model", folder, "--out", "/proc/new")
        assert result.exit_code == 2
        assert "--out is /proc/new, but nothing can be written to /proc" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("generate", "--geneval", "nowhere"), "--geneval"),
        (("best-of", "--prompts", "nowhere"), "--prompts"),
        (("evaluate", "geneval", ".", "--metadata", "nowhere"), "--metadata"),
        (("judge-data", "nowhere", "out.jsonl"), "RESULTS.jsonl"),
        (("prune", "embedded", "new", "--keep", 1, "--calibrate", "nowhere"), "--calibrate"),
    ],
)
def test_a_file_that_is_not_there_is_said_with_its_option_and_what_to_give(run, arguments, option):
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"error: {option} nowhere is not there: give " in result.stderr


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
        result = run("generate", "a cat", *arguments, *options, "--device", "cpu")
        assert result.exit_code == 0
        assert ("--kernels fused has no effect on cpu" in result.stderr) == bool(options)
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
        flops.append(printed["components"]["transformer"]["flops_per_image"])
    assert flops[2] > 0
    assert flops == [4 * flops[2], 2 * flops[2], flops[2]]


def test_versions_are_those_that_a_bug_report_needs():
    printed = subprocess.run([sys.executable, "-m", "sana", "--version"], capture_output=True, text=True, check=True)
    names = ("sana-suite", "sana-ae", "sana-dit", "sana-train", "sana-scale", "sana-judge", "torch")
    assert printed.stdout.splitlines() == [f"{name} {version(name)}" for name in names]
