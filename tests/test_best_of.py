import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import sana_dit.ops
from sana import SanaPipeline
from sana.best_of import make_executor
from sana.commands import app
from sana.judges import load_judge
from sana.run_identity import claim_run
from sana.sampler import FACTS, Drawing, PipelineSampler, load_sampler
from sana.stop_rules import parse_stop
from sana_scale import Budget, ImprovementBelow, Local, NoGain, PreviewingSampler, Ray, SharedDir, Threshold
from sana_scale.files import FileLock

NVILA_TINY = Path(__file__).parents[1] / "packages" / "sana-judge" / "tests" / "fixtures" / "nvila-tiny"


@pytest.fixture
def run(small_folder):
    """`sana best-of` with a small pipeline and a small judge."""

    def invoke(*arguments):
        given = [*arguments, "--model", small_folder, "--judge", NVILA_TINY, "--steps", 2, "--device", "cpu"]
        return CliRunner().invoke(app, ["best-of", *map(str, given), "--no-progress"])

    return invoke


def test_the_best_are_kept_with_their_scores_and_a_sheet(run, tmp_path):
    result = run("a cat", "-n", 6, "--keep", 2, "--batch-size", 4, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert record["judged"] == record["generated"] == 6
    first, second = record["best"]
    assert first["score"] >= second["score"]
    (alone,) = load_judge(str(NVILA_TINY), device="cpu", progress=False)("a cat", [first["path"]])
    # P(yes) in fp32 from another batch shape.
    assert abs(alone - first["score"]) < 1e-4
    with Image.open(first["path"]) as picture:
        assert json.loads(picture.text["sana"])["score"] == first["score"]
    names = {"a-cat-sheet.png", *(f"a-cat-{picture['seed']}.png" for picture in record["best"])}
    assert set(os.listdir(tmp_path)) == names


def test_a_kept_picture_is_drawn_again_from_what_it_says(run, small_folder, tmp_path):
    (record,) = json.loads(run("a cat", "-n", 4, "--keep", 1, "--out", tmp_path, "--json").stdout)
    best = record["best"][0]
    again = tmp_path / "again.png"
    drawn = ("--seed", best["seed"], "--steps", best["steps"], "--model", best["model"], "--out", again)
    arguments = ["generate", best["prompt"], *map(str, drawn), "--device", "cpu", "--no-progress"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with Image.open(best["path"]) as kept, Image.open(again) as alone:
        # Another batch shape may round a pixel the other way.
        assert np.abs(np.asarray(kept).astype(int) - np.asarray(alone).astype(int)).max() <= 1


def test_a_kept_picture_says_what_drew_it_as_generate_does(run, small_folder, tmp_path):
    (record,) = json.loads(run("a cat", "-n", 1, "--out", tmp_path, "--json").stdout)
    ask = ["generate", "a cat", "--model", small_folder, "--steps", 2, "--out", tmp_path / "one.png", "--json"]
    (alone,) = json.loads(CliRunner().invoke(app, [*map(str, ask), "--device", "cpu", "--no-progress"]).stdout)
    best = record["best"][0]
    assert list(alone) == [name for name in best if name not in ("score", "judge")]
    assert [best.get(name) for name in FACTS] == [alone.get(name) for name in FACTS]
    assert (best["sampler"], best["steps"], best["guidance_scale"]) == ("Flow-DPM-Solver", 2, 4.5)


def test_what_drew_a_picture_is_told_without_its_weights(sprint_folder, small_folder):
    given = Drawing(model=str(small_folder), revision=None, loras=(("a", 0.5),), steps=3).facts()
    assert given == {
        "model": str(small_folder),
        "loras": {"a": 0.5},
        "sampler": "Flow-DPM-Solver",
        "steps": 3,
        "guidance_scale": 4.5,
        "negative_prompt": "",
    }
    sprint = Drawing(model=str(sprint_folder)).facts()
    assert (sprint["sampler"], sprint["steps"]) == ("sCM", 2)


def test_a_run_directory_goes_on_and_knows_who_made_it(run, tmp_path):
    ask = ("a cat", "-n", 4, "--keep", 1, "--out", tmp_path / "out", "--run-dir", tmp_path / "run", "--json")
    first, again = run(*ask), run(*ask)
    assert first.exit_code == again.exit_code == 0, first.output
    assert first.stdout == again.stdout
    other = run(*ask, "--cfg", 2)
    assert other.exit_code == 2
    assert "guidance_scale was None and is now 2.0" in other.stderr
    assert "n was 4 and is now 5" in run("a cat", "-n", 5, *ask[3:]).stderr


def test_a_run_directory_knows_weights_and_dtype(small_folder, tmp_path):
    model = shutil.copytree(small_folder, tmp_path / "model")
    drawing = Drawing(model=str(model))
    claim_run(tmp_path / "run", drawing, "clip:nobody/nothing")
    claim_run(tmp_path / "run", drawing, "clip:nobody/nothing")
    with pytest.raises(ValueError, match="dtype was None and is now 'bfloat16'"):
        claim_run(tmp_path / "run", replace(drawing, dtype=torch.bfloat16), "clip:nobody/nothing")
    with pytest.raises(ValueError, match="revision was None and is now 'v1'"):
        claim_run(tmp_path / "run", replace(drawing, revision="v1"), "clip:nobody/nothing")
    weights = next(model.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="model_contents was"):
        claim_run(tmp_path / "run", drawing, "clip:nobody/nothing")


@pytest.mark.parametrize("changed", ["judge.json", "tokenizer.json"])
def test_a_run_directory_knows_how_its_judge_asks_and_reads(tmp_path, changed):
    judge = shutil.copytree(NVILA_TINY, tmp_path / "judge")
    (judge / changed).write_text("{}")
    claim_run(tmp_path / "run", Drawing(model="nobody/nothing"), f"yes-no:{judge}")
    (judge / "README.md").write_text("other words")
    claim_run(tmp_path / "run", Drawing(model="nobody/nothing"), f"yes-no:{judge}")
    (judge / changed).write_text('{"question": "another"}')
    with pytest.raises(ValueError, match="judge_contents was"):
        claim_run(tmp_path / "run", Drawing(model="nobody/nothing"), f"yes-no:{judge}")


def test_a_run_directory_knows_what_the_embedded_judge_holds_and_which_adapters_draw(tmp_path):
    drawing = Drawing(model="nobody/nothing")
    claim_run(tmp_path / "run", drawing, "embedded")
    assert json.loads((tmp_path / "run" / "made-by.json").read_text())["judge_contents"]
    (tmp_path / "style.safetensors").write_bytes(b"one")
    adapted = replace(drawing, loras=((str(tmp_path / "style.safetensors"), 0.5),), quantize="int8")
    with pytest.raises(ValueError, match=r"quantize was None and is now 'int8', loras was \[\] and is now"):
        claim_run(tmp_path / "run", adapted, "embedded")
    claim_run(tmp_path / "adapted", adapted, "embedded")
    (tmp_path / "style.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="loras was"):
        claim_run(tmp_path / "adapted", adapted, "embedded")


def test_a_large_batch_is_drawn_at_once(small_folder):
    drawing = Drawing(model=str(small_folder), device="cpu", steps=1, guidance_scale=1.0)
    sampler = load_sampler(drawing)
    rows = []
    transformer = sampler._pipeline.transformer
    transformer.register_forward_pre_hook(lambda model, args: rows.append(len(args[0])))
    sampler("a cat", range(10))
    sampler.previewing("a cat", range(10), at=(), keep=lambda images: range(10))
    assert rows == [10, 10]
    PipelineSampler(sampler._pipeline, drawing, batch_size=8)("a cat", range(10))
    assert rows[2:] == [8, 2]


def test_adapters_change_what_is_drawn(run, small_folder, tmp_path):
    pipeline = SanaPipeline.from_pretrained(small_folder, device="cpu")
    width = pipeline.transformer.blocks[0].self_attn.to_q.in_features
    weights = {
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, width),
        "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(width, 2),
    }
    save_file(weights, tmp_path / "style.safetensors")
    ask = ("a cat", "-n", 1, "--json", "--out")
    (plain,) = json.loads(run(*ask, tmp_path / "plain").stdout)
    (styled,) = json.loads(run(*ask, tmp_path / "styled", "--lora", f"{tmp_path / 'style.safetensors'}:8").stdout)
    assert styled["best"][0]["loras"] == {str(tmp_path / "style.safetensors"): 8.0}
    pictures = [np.asarray(Image.open(record["best"][0]["path"])) for record in (plain, styled)]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (("-n", 2, "--keep", 4), "n is 2 and keep 4"),
        (("-n", 8, "--keep", 4, "--budget", 2), "budget is 2; it may not give each of 1 prompts keep=4 images"),
    ],
    ids=str,
)
def test_a_senseless_request_claims_no_directory(run, tmp_path, ask, words):
    result = run("a cat", *ask, "--run-dir", tmp_path / "run", "--out", tmp_path)
    assert result.exit_code == 2
    assert words in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_run_directory_that_is_a_file_or_in_use_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in run("a cat", "-n", 1, "--run-dir", tmp_path / "file").stderr
    with FileLock(tmp_path / "lock", purpose="this"):
        result = run("a cat", "-n", 1, "--run-dir", tmp_path)
    assert result.exit_code == 2
    assert "in use by process" in result.stderr
    assert not (tmp_path / "made-by.json").exists()


def test_of_few_pictures_all_are_kept(run, tmp_path):
    (record,) = json.loads(run("a cat", "-n", 2, "--out", tmp_path, "--json").stdout)
    assert len(record["best"]) == 2


def test_prompts_of_a_file_share_a_budget(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n", encoding="utf-8")
    ask = ("--prompts", tmp_path / "prompts.txt", "-n", 8, "--batch-size", 2, "--budget", 8, "--keep", 1)
    result = run(*ask, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [record["prompt"] for record in records] == ["a cat", "a dog"]
    assert sum(record["generated"] for record in records) == 8


def test_prompts_that_read_alike_have_files_of_their_own(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\nA cat!\na dog\n", encoding="utf-8")
    ask = ("--prompts", tmp_path / "prompts.txt", "-n", 1, "--keep", 1)
    records = json.loads(run(*ask, "--out", tmp_path / "out", "--json").stdout)
    for record in records:
        with Image.open(record["best"][0]["path"]) as picture:
            assert json.loads(picture.text["sana"])["prompt"] == record["prompt"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 6  # a picture and a sheet each
    assert {"a-dog-0.png", "a-dog-sheet.png"} <= set(os.listdir(tmp_path / "out"))


def test_it_stops_where_it_is_told_to(run, tmp_path):
    (record,) = json.loads(run("a cat", "-n", 8, "--stop", "p=0", "--keep", 1, "--out", tmp_path, "--json").stdout)
    assert record["stopped"] == "Threshold(score=0.0)"
    assert record["judged"] == 1


def test_pruning_asks_a_pilot_first(run, tmp_path):
    ask = ("a cat", "-n", 24, "--prune", "--prune-at", "0.5", "--keep", 1, "--out", tmp_path, "--json")
    (record,) = json.loads(run(*ask).stdout)
    assert record["pilot"]["at"] == [0.5]
    assert record["pruned"] == (4 if record["pilot"]["used"] else 0)


def test_the_curve_is_written_as_json_and_as_a_picture(run, tmp_path):
    assert run("a cat", "-n", 4, "--keep", 1, "--out", tmp_path, "--curve").exit_code == 0
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["k"] == [1, 2, 3, 4]
    assert curve["mean"] == sorted(curve["mean"])
    assert (tmp_path / "curve.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either prompts or a file of them"),
        (["a", "a"], "'a' is given twice"),
        (["a", "-n", "2", "--keep", "3"], "n is 2 and keep 3; n must be at least keep"),
        (["a", "--stop", "loud"], "--stop is 'loud'"),
        (["a", "--stop", "gain=0"], r"--stop is 'gain=0' \(NoGain"),
        (["a", "--stop", "gain=inf"], r"--stop is 'gain=inf' \(inf is not a whole number"),
        (["a", "--stop", "images=nan"], r"--stop is 'images=nan'"),
        (["a", "--stop", "p=nan"], r"--stop is 'p=nan' \(Threshold"),
        (["a", "--stop", "p=95"], r"--stop is 'p=95' \(p is 95"),
        (["a", "--stop", "improvement=nan"], r"--stop is 'improvement=nan'"),
        (["a", "--prune", "--prune-at", "2"], "--prune-at is '2'"),
        (["a", "--curve", "--stop", "0.9"], "--curve needs complete runs"),
        (["a", "--executor", "shared-dir"], "give --run-dir"),
        (["a", "--workers", "2"], "choose shared-dir or ray"),
        (["a", "--prompts", "nowhere.txt"], "give either"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["a", "--size", "big"], "--size is 'big'"),
        (["a", "--quantize", "int2"], "Invalid value for '--quantize'"),
        (["a", "--kernels", "triton"], "Invalid value for '--kernels'"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("p=0.95", Threshold(0.95)),
        ("0.95", Threshold(0.95)),
        ("gain=16", NoGain(16)),
        ("improvement=0.002", ImprovementBelow(0.002, ceiling=1.0)),
        ("images=40", Budget(images=40)),
        ("seconds=60", Budget(seconds=60)),
    ],
)
def test_a_rule_is_written_as_a_text(text, rule):
    assert parse_stop(text) == rule


def test_executors_go_by_name(small_folder):
    drawing = Drawing(model=str(small_folder), device="cpu", steps=2)
    assert make_executor("local", drawing, "embedded", workers=1) == Local()
    shared = make_executor("shared-dir", drawing, "embedded", workers=3)
    assert isinstance(shared, SharedDir)
    assert (shared.workers, shared.devices) == (3, ())
    on_ray = make_executor("ray", drawing, "embedded", workers=2)
    assert isinstance(on_ray, Ray)
    assert (on_ray.samplers, on_ray.judges, on_ray.sampler_gpus) == (2, 2, 0.0)
    sampler = shared.make_sampler()
    assert isinstance(sampler, PreviewingSampler)
    assert sampler("a cat", [1])[0].tobytes() == load_sampler(drawing)("a cat", [1])[0].tobytes()


def test_workers_load_without_bars_where_none_are_wanted(run, tmp_path, capfd):
    ask = ("a cat", "-n", 1, "--executor", "shared-dir", "--run-dir", tmp_path / "quiet", "--out", tmp_path / "out")
    assert run(*ask).exit_code == 0  # with --no-progress
    assert "Loading weights" not in capfd.readouterr().err  # the bar of transformers 5


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_kernels_reach_the_samplers_of_every_executor(small_folder, kernels):
    drawing = Drawing(model=str(small_folder), device="cpu", kernels=kernels)
    workers = (make_executor(name, drawing, "embedded", workers=2).make_sampler for name in ("shared-dir", "ray"))
    makers = pickle.loads(pickle.dumps([partial(load_sampler, drawing), *workers]))  # as they reach other processes
    assert [make()._pipeline.kernels for make in makers] == [kernels] * 3


def test_a_run_directory_knows_its_kernels(run, tmp_path):
    ask = ("a cat", "-n", 2, "--out", tmp_path / "out", "--run-dir", tmp_path / "run")
    assert run(*ask, "--kernels", "fused").exit_code == 0
    other = run(*ask)
    assert other.exit_code == 2
    assert "kernels was 'fused' and is now 'reference'" in other.stderr


def test_a_run_that_was_begun_before_kernels_were_noted_goes_on(tmp_path):
    drawing = Drawing(model="nobody/nothing")
    claim_run(tmp_path, drawing, "embedded")
    noted = json.loads((tmp_path / "made-by.json").read_text())
    before = {name: value for name, value in noted.items() if name not in ("kernels", "loras")}
    (tmp_path / "made-by.json").write_text(json.dumps(before))
    for kernels in (None, "reference"):
        claim_run(tmp_path, replace(drawing, kernels=kernels), "embedded")
    with pytest.raises(ValueError, match="kernels was 'reference' and is now 'fused'"):
        claim_run(tmp_path, replace(drawing, kernels="fused"), "embedded")


def test_workers_draw_with_the_kernels_in_force_where_they_are_made(small_folder):
    with sana_dit.ops.use("fused"):
        executor = make_executor("shared-dir", Drawing(model=str(small_folder)), "embedded", workers=2)
    assert executor.make_sampler.args[0].kernels == "fused"
