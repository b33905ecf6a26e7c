import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.emoji import grow, grow_experiment
from recipes.emoji.grow_model import Scenes, embedded_model
from recipes.emoji.grow_report import _cost, steps_to
from recipes.emoji.sprites import NOTO_COLOR_EMOJI
from sana_dit import SanaTransformer
from sana_train.metrics import read_metrics


@pytest.fixture
def latents(tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.zeros(140, 4, 32, dtype=torch.int16)
    tokens[:, :, :3] = torch.randint(1, 100, (140, 4, 3), generator=draw, dtype=torch.int16)
    shard = {"latents": torch.randn(140, 32, 4, 4, generator=draw).half(), "tokens": tokens}
    save_file(shard, folder / "0.safetensors", metadata={"scaling_factor": "0.5"})
    return folder


@pytest.fixture
def experiment(latents, tmp_path, monkeypatch):
    """Calls the command with the smallest sizes."""

    def call(*more):
        sizes = ["--steps", "3", "--seeds", "1", "--width", "32", "--parent-depth", "3", "--depth", "4"]
        where = ["--latents", str(latents), "--out", str(tmp_path / "out"), "--device", "cpu", "--batch-size", "4"]
        monkeypatch.setattr(sys, "argv", ["grow", *where, *sizes, *more])
        grow.main()

    return call


def test_every_arm_is_trained_and_reported(experiment, tmp_path):
    experiment("--arms", "scratch", "cyclic", "partial_preservation-0")
    report = json.loads((tmp_path / "out" / "growth-emoji.json").read_text())
    assert set(report["arms"]) == {"parent", "scratch", "cyclic", "partial_preservation-0"}
    assert all(arm["runs"] == 1 and arm["failed"] == 0 for arm in report["arms"].values())
    assert report["arms"]["scratch"]["steps_saved"] is report["arms"]["parent"]["steps_saved"] is None
    assert (tmp_path / "out" / "growth-emoji.png").stat().st_size > 0


def test_a_growth_that_carries_the_optimizer_goes_on_from_its_parents_step(experiment, tmp_path):
    experiment("--arms", "partial_preservation-0-carried")
    folder = tmp_path / "out" / "partial_preservation-0-carried-0"
    assert [line["step"] for line in read_metrics(folder) if "loss" in line] == [7, 8, 9]  # the parent took 6
    report = json.loads((tmp_path / "out" / "growth-emoji.json").read_text())
    assert [step for step, _ in report["runs"][1]["curve"]] == [1, 2, 3]


@pytest.mark.skipif(not NOTO_COLOR_EMOJI.exists(), reason="no Noto Color Emoji here")
@pytest.mark.emoji_font
def test_the_embedded_model_is_grown_and_its_text_encoder_left_alone(latents, tmp_path, monkeypatch):
    where = ["--latents", str(latents), "--out", str(tmp_path), "--device", "cpu", "--parent", "embedded"]
    sizes = ["--steps", "2", "--seeds", "1", "--depth", "9", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", ["grow", *where, *sizes, "--arms", "scratch", "partial_preservation-0"])
    grow.main()
    report = json.loads((tmp_path / "growth-embedded.json").read_text())
    parent, grown = (report["arms"][arm] for arm in ("parent", "partial_preservation-0"))
    runs = {run["arm"]: run for run in report["runs"]}
    assert runs["partial_preservation-0"]["loss_at_start"] == pytest.approx(runs["parent"]["curve"][0][1], rel=1e-6)
    assert parent["runs"] == grown["runs"] == 1
    trained = SanaTransformer.from_pretrained(tmp_path / "partial_preservation-0-0" / "model" / "transformer")
    assert len(trained.blocks) == 9
    text_encoder = load_file(tmp_path / "partial_preservation-0-0" / "model" / "text_encoder" / "model.safetensors")
    for name, weight in embedded_model().text_encoder.state_dict().items():
        assert torch.equal(text_encoder[name], weight)


def test_a_parent_without_a_run_has_no_optimizer_state_to_carry(experiment):
    with pytest.raises(SystemExit, match="no optimizer state to carry"):
        experiment("--parent", "embedded", "--arms", "partial_preservation-0-carried")


def test_runs_can_be_made_one_by_one_and_merged(experiment, tmp_path):
    for run in ("parent:0", "scratch:0", "cyclic:0"):
        experiment("--only", run)
    assert not (tmp_path / "out" / "growth-emoji.json").exists()
    experiment("--report", "--results", str(tmp_path / "results"))
    report = json.loads((tmp_path / "results" / "growth-emoji.json").read_text())
    assert set(report["arms"]) == {"parent", "scratch", "cyclic"}


def test_a_finished_run_is_not_made_again(experiment, tmp_path):
    experiment("--only", "parent:0")
    written = (tmp_path / "out" / "parent-0" / "result.json").stat().st_mtime_ns
    experiment("--only", "parent:0")
    assert (tmp_path / "out" / "parent-0" / "result.json").stat().st_mtime_ns == written


def test_a_run_that_is_stopped_is_not_taken_for_finished(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(grow_experiment.Trainer, "fit", lambda trainer: False)
    with pytest.raises(SystemExit):
        experiment("--only", "parent:0")
    assert not (tmp_path / "out" / "parent-0" / "result.json").exists()


def test_an_arm_waits_for_its_parent(experiment):
    with pytest.raises(SystemExit, match="grows from parent:0, which is not trained yet"):
        experiment("--only", "cyclic:0")


def test_all_deep_models_of_a_seed_see_the_same_batches(experiment, monkeypatch):
    seen = {}

    class Watched(Scenes):
        def __call__(self, step):
            batch = super().__call__(step)
            seen.setdefault(self.order.seed, []).append(batch["key"])
            return batch

    monkeypatch.setattr(grow_experiment, "Scenes", Watched)
    experiment("--arms", "scratch", "cyclic", "partial_preservation-0-carried")
    assert set(seen) == {0, 1}  # the parent has an order of its own
    assert len(seen[0]) == 9
    assert seen[0][:3] == seen[0][3:6] == seen[0][6:]


def test_a_folder_holds_runs_of_one_kind(experiment, tmp_path):
    experiment("--only", "parent:0")
    with pytest.raises(ValueError, match=r"other settings \(lr 0.001 -> 0.5\)"):
        experiment("--only", "scratch:0", "--lr", "0.5")
    monkeyed = ["grow", "--latents", "unused", "--out", str(tmp_path / "out"), "--report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", monkeyed)
        grow.main()
    assert json.loads((tmp_path / "out" / "growth-emoji.json").read_text())["settings"]["steps"] == 3


def test_scenes_for_validation_are_never_trained_on(latents):
    scenes = Scenes(latents, seed=0, batch_size=3)
    trained = {key for step in range(8) for key in scenes(step)["key"]}
    assert not trained & set(scenes.held_out()["key"])
    assert len(trained) == 12


def test_steps_are_read_off_between_validations():
    curve = [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert [steps_to(curve, loss) for loss in (4.0, 2.5, 1.0, 0.5)] == [10, 15, 30, None]


def test_the_parent_counts_by_its_blocks():
    settings = {"parent_steps": 100, "parent_depth": 6, "steps": 100, "depth": 12}
    assert _cost(25, settings) == 0.75
