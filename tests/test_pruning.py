import json
import os
import re

import pytest
import torch
from diffusers import SanaPipeline as DiffusersPipeline
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana.pruning import calibration as calibration_module
from sana.pruning.calibration import Calibration, VelocityError, calibration_prompts, draw_samples, measure_importance
from sana.pruning.choice import Choice, read_scores
from sana.pruning.pruned_pipeline import PruneRequest, prune_folder, prune_pipeline
from sana.pruning.recovery import DrawnSamples, empty_caption, recovery_settings
from sana_dit import SanaTransformer
from sana_scale import PrunePlan
from sana_train import write_shard

PROMPTS = ("a cat", "two red apples", "一只猫", "a dog")


@pytest.fixture
def pipeline(small_folder):
    return SanaPipeline.from_pretrained(small_folder, device="cpu")


@pytest.fixture
def calibration():
    return Calibration(prompts=PROMPTS, seed=0, steps=2, guidance_scale=3.0)


@pytest.fixture
def run(small_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")

    def invoke(*arguments):
        given = ["prune", small_folder, *arguments, "--calibrate", tmp_path / "prompts.txt", "--steps", 2]
        return CliRunner().invoke(app, [*map(str, given), "--device", "cpu", "--no-progress"])

    return invoke


def test_importance_is_measured_on_what_the_model_draws(pipeline, calibration):
    importance, samples = measure_importance(pipeline, calibration, progress=False)
    assert importance.values.shape == (2,)
    assert set(importance.branches) == {"self_attn", "cross_attn", "mix_ffn"}
    assert set(importance.parts) == {"unconditional", "conditional"}
    assert importance.units == len(PROMPTS)
    assert importance.samples == len(PROMPTS) * 2 * 2  # steps, both halves of guidance
    drawn = list(draw_samples(pipeline, calibration))
    for one, other in zip(samples, drawn, strict=True):
        # Hooks keep blocks from being fused: fp32 rounds otherwise.
        assert (one.latents - other.latents).abs().max() <= 1e-5 * other.latents.abs().max()


def test_the_bar_of_importance_says_how_many_prompts_there_are(pipeline, calibration, capsys):
    measure_importance(pipeline, calibration)
    assert "block importance: 100%" in capsys.readouterr().err


def test_the_velocity_error_is_nothing_for_the_model_itself(pipeline, calibration):
    error = VelocityError(pipeline, calibration, progress=False)
    assert error(pipeline.transformer) == 0
    prune_pipeline(pipeline, Choice(keep=(0,)), calibration, progress=False)
    assert error(pipeline.transformer) > 0


@pytest.mark.parametrize("selector", ["importance", "iterative", "leave-one-out", "window", "uniform", "random"])
def test_every_selector_leaves_as_many_blocks_as_asked(pipeline, calibration, selector):
    plan, _, _ = prune_pipeline(pipeline, Choice(keep=1, selector=selector), calibration, progress=False)
    assert len(pipeline.transformer.blocks) == pipeline.transformer.config.num_layers == len(plan.kept) == 1
    assert plan.calibration is not None


def test_given_scores_are_not_measured_again(pipeline, calibration):
    plan, importance, samples = prune_pipeline(pipeline, Choice(keep=1, scores=(0.1, 0.2)), calibration, progress=False)
    assert plan.kept == (1,)
    assert importance is None
    assert samples == []


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 9},
        {"keep": 1, "protect_head": 2},
        {"keep": (0, 2)},
        {"keep": (0, 0)},
        {"keep": 1, "selector": "leave-one-out", "protect_tail": 3},
        {"keep": 1, "scores": (0.1,)},
        {"keep": 1, "scores": ()},
    ],
    ids=str,
)
def test_a_choice_that_does_not_fit_is_refused_before_anything_is_drawn(pipeline, calibration, tmp_path, options):
    drawn = []
    pipeline.transformer.register_forward_pre_hook(lambda *arguments: drawn.append(arguments))
    request = PruneRequest(choice=Choice(**options), calibration=calibration)
    with pytest.raises(ValueError, match="blocks"):
        prune_folder(pipeline, tmp_path / "new", request, progress=False)
    assert drawn == []


def test_the_plan_of_another_depth_is_refused_before_anything_is_drawn(pipeline, calibration, tmp_path):
    plan, _, _ = prune_pipeline(pipeline, Choice(keep=(0,)), calibration, progress=False)  # of two blocks
    plan.save(tmp_path / "plan.json")
    request = PruneRequest(choice=tmp_path / "plan.json", calibration=calibration)
    with pytest.raises(ValueError, match="is a plan for 2 blocks, and the model has 1"):
        prune_folder(pipeline, tmp_path / "new", request, progress=False)


def test_the_velocity_error_reads_each_caption_once(pipeline, calibration, monkeypatch):
    error, read = VelocityError(pipeline, calibration, progress=False), []
    guided = calibration_module.guided_velocity
    monkeypatch.setattr(
        calibration_module, "guided_velocity", lambda *given, **more: read.append(given) or guided(*given, **more)
    )
    error(pipeline.transformer)
    assert len(read) == len(PROMPTS)


def test_batches_of_drawn_pictures_leave_some_captions_empty(pipeline, calibration):
    samples, nothing = list(draw_samples(pipeline, calibration)), empty_caption(pipeline)
    batches = DrawnSamples(samples, nothing, batch_size=4)
    captions = torch.cat([batches(step)["caption"] for step in range(40)])
    empty = (captions == nothing.embeddings.float()).flatten(1).all(1).float().mean().item()
    # A tenth of 160: binomial, so four standard deviations are 0.095.
    assert abs(empty - 0.1) < 0.095
    assert torch.equal(batches(7)["latents"], batches(7)["latents"])
    assert sorted(batches(7)["key"]) == sorted(PROMPTS)


def test_a_pruned_folder_loads_here_and_in_diffusers_with_its_report(run, tmp_path):
    result = run(tmp_path / "small", "--keep", 1, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    pruned = SanaPipeline.from_pretrained(tmp_path / "small", device="cpu")
    assert len(pruned.transformer.blocks) == 1
    assert DiffusersPipeline.from_pretrained(tmp_path / "small").transformer.config.num_layers == 1
    pruned.transformer.save_pretrained(tmp_path / "native", layout="native")
    native = SanaTransformer.from_pretrained(tmp_path / "native")
    assert len(native.blocks) == 1
    report = set(os.listdir(tmp_path / "small" / "pruning"))
    assert report == {
        "parent.json",
        "plan.json",
        "report.md",
        "report.json",
        "importance.png",
        "importance_by_time.png",
    }
    assert [stage["name"] for stage in record["stages"]] == ["unpruned", "pruned"]
    assert PrunePlan.load(tmp_path / "small" / "pruning" / "plan.json").kept == tuple(record["plan"]["kept"])


def test_a_plan_is_done_again(run, tmp_path):
    run(tmp_path / "first", "--keep", 1)
    plan = tmp_path / "first" / "pruning" / "plan.json"
    assert run(tmp_path / "again", "--plan", plan).exit_code == 0
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "first" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    assert read_scores(plan) == PrunePlan.load(plan).scores


def test_recovery_brings_the_model_closer_to_what_it_was(run, tmp_path):
    result = run(tmp_path / "small", "--blocks", 1, "--recover", 60, "--json")
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["unpruned", "pruned", "recovered, 60 steps"]
    before, after = (stage["scores"]["velocity error"] for stage in stages[1:])
    assert 0 < after < before
    assert len(SanaPipeline.from_pretrained(tmp_path / "small", device="cpu").transformer.blocks) == 1


@pytest.mark.parametrize(
    ("change", "words"), [(["--blocks", 0], r"blocks \[1\] -> \[0\]"), (["--blocks", 1, "--seed", 5], "data ")]
)
def test_a_recovery_does_not_go_on_for_another_plan_or_other_pictures(run, tmp_path, monkeypatch, change, words):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SanaPipeline, "save_pretrained", killed)
        assert run(tmp_path / "small", "--blocks", 1, "--recover", 2).exit_code != 0
    result = run(tmp_path / "small", *change, "--recover", 2)
    assert result.exit_code == 2
    assert re.search(words, result.stderr)
    assert not (tmp_path / "small" / "model_index.json").exists()
    assert run(tmp_path / "small", "--blocks", 1, "--recover", 2).exit_code == 0


def test_calibration_prompts_are_a_hundred_different_ones():
    for model in ("embedded", "anything/else"):
        prompts = calibration_prompts(model)
        assert len(prompts) == len(set(prompts)) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --keep"),
        (["--keep", 1, "--blocks", "0"], "give one of --keep"),
        (["--keep", 3], "keep is 3; it must be 1 to 2"),
        (["--blocks", "0,x"], "--blocks is '0,x'"),
        (["--blocks", "0,7"], "indices of blocks, 0 to 1"),
        (["--keep", 1, "--protect-head", 1, "--selector", "random"], "blocks can only be protected in a ranking"),
        (["--keep", 1, "--importance", "nowhere.json"], "nowhere.json"),
        (["--plan", "nowhere.json"], "nowhere.json"),
        (["--plan", "nowhere.json", "--selector", "random"], "--plan says which blocks stay"),
        (["--plan", "nowhere.json", "--protect-tail", 1], "--plan says which blocks stay"),
        (["--plan", "nowhere.json", "--importance", "scores.json"], "--plan says which blocks stay"),
        (["--blocks", 1, "--selector", "random"], "the blocks are listed and the selector is 'random'"),
        (["--keep", 1, "--recover", "nowhere.toml"], "there is no run file"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(run, tmp_path, arguments, message):
    result = run(tmp_path / "small", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "small").exists()


def test_a_folder_with_a_pipeline_is_not_written_over(run, small_folder):
    result = run(small_folder, "--keep", 1)
    assert result.exit_code == 2
    assert "holds a pipeline already" in result.stderr


RECIPE = """
[train]
run_dir = "replaced"
steps = 3
checkpoint_every = 3
log_every = 1

[model]
init = "replaced"

[optimizer]
kind = "came8bit"
lr = 1e-4

[objective]
caption_dropout = 0.0

[data]
shards = "SHARDS"
batch_size = 4
"""


@pytest.fixture
def recipe(pipeline, tmp_path):
    """A run file of `sana train` with a shard of four encoded pictures."""
    captions = pipeline.caption_encoder(list(PROMPTS))
    draw = torch.Generator().manual_seed(0)
    shard = tmp_path / "shards" / "0.safetensors"
    write_shard(
        shard,
        torch.randn(4, 8, 2, 2, generator=draw),
        captions.embeddings,
        captions.mask.bool(),
        keys=list(PROMPTS),
        scaling_factor=0.5,
    )
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("SHARDS", str(shard.parent)))
    return tmp_path / "recipe.toml"


def test_recovery_follows_a_run_file(run, recipe, tmp_path):
    result = run(tmp_path / "small", "--keep", 1, "--recover", recipe, "--json")
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)["stages"]
    assert stages[-1]["name"] == "recovered, 3 steps"
    lines = (tmp_path / "small.recovery" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_a_run_file_may_describe_another_model(recipe, tmp_path):
    shape = '[model]\npreset = "SANA_1_5_1_6B"\nnum_layers = 2\n'
    recipe.write_text(recipe.read_text().replace('[model]\ninit = "replaced"\n', shape))
    settings = recovery_settings(recipe, 'C:\\new "model"', tmp_path / 'run "1"')
    assert (settings.model.init, settings.model.config) == ('C:\\new "model"', None)
    assert settings.train.run_dir == str(tmp_path / 'run "1"')


def test_what_only_weights_in_bf16_can_do_is_refused(recipe, tmp_path):
    text = recipe.read_text().replace('init = "replaced"\n', 'init = "replaced"\nweights = "bf16"\n')
    recipe.write_text(text.replace("lr = 1e-4\n", "lr = 1e-4\nstochastic_rounding = true\n"))
    with pytest.raises(ValueError, match=r'stochastic_rounding is true and .model. weights "fp32"'):
        recovery_settings(recipe, "embedded", tmp_path)


def test_recovery_draws_captions_as_the_run_file_says(run, recipe, pipeline, tmp_path):
    captions = pipeline.caption_encoder([*PROMPTS, *reversed(PROMPTS)])
    latents = torch.randn(4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    several = {"captions_of": [2] * 4, "caption_scores": [0.0, 90.0] * 4, "keys": PROMPTS, "scaling_factor": 0.5}
    write_shard(tmp_path / "shards" / "0.safetensors", latents, captions.embeddings, captions.mask.bool(), **several)
    text, losses = recipe.read_text(), []
    for tau in (0.1, '"none"'):  # the better caption always, or either
        recipe.write_text(f"{text}caption_tau = {tau}\n")
        assert run(tmp_path / str(tau), "--blocks", 1, "--recover", recipe).exit_code == 0
        metrics = (tmp_path / f"{tau}.recovery" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in metrics])
    assert losses[0] != losses[1]


def test_a_run_file_with_its_own_validation_is_refused(run, recipe, tmp_path):
    text = recipe.read_text() + '[validation]\nshards = "x"\n'
    recipe.write_text(text.replace("steps = 3\n", "steps = 3\nvalidate_every = 1\n", 1))
    result = run(tmp_path / "small", "--keep", 1, "--recover", recipe)
    assert result.exit_code == 2
    assert "recovery is scored by the report" in result.stderr
