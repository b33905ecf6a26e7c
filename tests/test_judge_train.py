import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana.training import judge_run
from sana.training.judge_run import JudgeRun, _fixed, judge_examples
from sana_judge import Calibration, VILAJudge
from sana_judge.training import read_examples

NVILA_TINY = Path(__file__).parents[1] / "packages" / "sana-judge" / "tests" / "fixtures" / "nvila-tiny"


@pytest.fixture
def data(tmp_path):
    """Noisy red and blue pictures, each with a prompt that says a colour; and a line whose image is not there."""
    lines = [{"prompt": "gone", "image": "gone.png", "label": 1}]
    rng = np.random.default_rng(0)
    for number in range(40):
        shown, said = rng.integers(0, 2, 2)
        pixels = rng.integers(0, 60, (56, 56, 3), dtype=np.uint8)
        pixels[..., 2 * shown] += 180
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        prompt = f"a {('red', 'blue')[said]} thing, number {number % 10}"
        label, task = int(shown == said), ("odd", "even")[number % 2]
        lines.append({"prompt": prompt, "image": f"{number}.png", "label": label, "task": task})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def judge_train(data, tmp_path):
    arguments = ["judge-train", str(data), "--base", str(NVILA_TINY), "--steps", "2", "--batch-size", "4"]
    arguments += ["--validation-share", "0.5", "--max-tiles", "1", "--device", "cpu", "--no-progress"]
    return lambda *more: CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), *more])


@pytest.mark.parametrize("options", [("--lora", "2"), ("--full", "--pairwise", "0.5")])
def test_a_run_ends_in_a_judge_and_a_report(judge_train, tmp_path, options):
    result = judge_train(*options, "--json")
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    assert json.loads(result.stdout) == report
    assert report["data"]["refused"] == 1
    assert "gone.png is missing" in result.stderr
    judge = VILAJudge.from_pretrained(run / "judge")
    assert judge("a red thing", [tmp_path / "0.png"]) != VILAJudge.from_pretrained(NVILA_TINY)(
        "a red thing", [tmp_path / "0.png"]
    )
    assert {"reliability.png", "risk_coverage.png", "loss.png"} <= {path.name for path in run.iterdir()}


def test_the_trainer_is_gone_when_the_trained_judge_is_loaded(judge_train, monkeypatch):
    trainers, alive = [], []
    make, load = judge_run.make_judge_trainer, VILAJudge.from_pretrained

    def made(*arguments, **options):
        trainer = make(*arguments, **options)
        trainers.append(weakref.ref(trainer))
        return trainer

    def loaded(*arguments, **options):
        alive.append([trainer() is not None for trainer in trainers])
        return load(*arguments, **options)

    monkeypatch.setattr(judge_run, "make_judge_trainer", made)
    monkeypatch.setattr(VILAJudge, "from_pretrained", loaded)
    assert judge_train("--lora", "2").exit_code == 0
    assert alive == [[], [False]]


def test_the_report_weighs_each_task_by_its_own_calibration(data):
    judge = VILAJudge.from_pretrained(NVILA_TINY)
    judge.facts = replace(judge.facts, tasks={"odd": Calibration(offset=50.0), "even": Calibration(offset=-50.0)})
    examples = read_examples(data, progress=False).usable[:4]
    judged = judge_examples(judge, [*examples, replace(examples[0], task="")])
    p_yes = [example.p_yes for example in judged]
    assert p_yes[:4] == pytest.approx([float(example.task == "odd") for example in examples], abs=1e-6)
    assert 1e-6 < p_yes[4] < 1 - 1e-6


def test_a_stopped_run_is_resumed_to_the_same_bits(judge_train, tmp_path):
    straight = judge_train("--lora", "2", "--out", str(tmp_path / "straight"))
    first = judge_train("--lora", "2")
    assert straight.exit_code == first.exit_code == 0, straight.output + first.output
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    checkpoints[-1].rename(tmp_path / "lost")  # as if the run had been killed before its last checkpoint
    again = judge_train("--lora", "2", "--resume")
    assert again.exit_code == 0, again.output
    judges = [VILAJudge.from_pretrained(tmp_path / name / "judge") for name in ("run", "straight")]
    states = [judge.model.state_dict() for judge in judges]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_a_run_is_not_written_over_nor_resumed_with_other_data(judge_train, data):
    assert judge_train("--lora", "2").exit_code == 0
    again = judge_train("--lora", "2")
    assert again.exit_code == 2
    assert "add --resume" in again.output
    data.write_text(data.read_text().replace('"label": 1', '"label": 0'))
    changed = judge_train("--lora", "2", "--resume")
    assert changed.exit_code == 2
    assert "was started otherwise (data" in changed.output
    assert "start anew with another --out" in changed.output


def test_hard_negatives_and_folders_of_images_are_part_of_the_data(data):
    run = JudgeRun(data=data, base="base", out=data.parent / "run")
    example = read_examples(data, progress=False).usable[0]
    elsewhere = replace(example, image=data.parent / "other" / example.image.name)
    told = [_fixed(run, [one])["data"] for one in (example, elsewhere, replace(example, negatives=("a green thing",)))]
    assert len(set(told)) == 3


def test_data_that_were_moved_as_a_whole_are_the_same(data, tmp_path):
    run = JudgeRun(data=data, base="base", out=tmp_path / "run")
    moved = shutil.copytree(data.parent, tmp_path / "moved") / data.name
    told = [
        _fixed(replace(run, data=path), read_examples(path, progress=False).usable)["data"] for path in (data, moved)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lora", "2", "--full"), "exclude each other"),
        (("--validation-share", "1.5"), "validation_share is 1.5"),
        (("--validation-share", "0.01"), "give more prompts"),
        (("--base", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(judge_train, tmp_path, options, message):
    result = judge_train(*options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()
