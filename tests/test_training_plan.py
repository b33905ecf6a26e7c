import re
from pathlib import Path

import pytest
import torch

from sana.training.model import make_model
from sana.training.optimizer import make_optimizer
from sana.training.plan import describe_schedule, optimizer_bytes, plan_training
from sana.training.settings_reading import read_settings
from sana_train import TrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def plan(tiny_run):
    def read(*changes, processes=1):
        return plan_training(read_settings(tiny_run, changes), processes=processes)

    return read


def test_the_largest_model_fits_into_24_gb(tmp_path):
    recipe = (RECIPES / "sana_1_5_4_8b_24gb.toml").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(re.sub('init = ".*"', 'preset = "SANA_1_5_4_8B"', recipe), encoding="utf-8")
    settings = read_settings(tmp_path / "run.toml")
    assert settings.train.step_in_backward
    assert settings.model.weights == "bf16"
    plan = plan_training(settings)
    assert plan.parameters == 4_721_825_952
    assert plan.memory["weights"] == 2 * plan.parameters
    assert plan.memory["gradients"] == plan.memory["weight average"] == 0
    assert plan.memory["optimizer state"] < 1.03 * plan.parameters
    assert plan.memory_per_gpu < 24e9
    average = plan_training(read_settings(tmp_path / "run.toml", ["train.ema_decay=0.99", "train.ema_offload=true"]))
    assert average.offloaded == 4 * plan.parameters
    assert average.memory_per_gpu == plan.memory_per_gpu


def test_the_recipe_of_the_paper_fits_eight_gpus_of_80_gb():
    plan = plan_training(read_settings(RECIPES / "sana_1_5_1_6b.toml"), processes=8)
    assert plan.parameters == 1_604_641_952
    assert plan.memory_per_gpu < 80e9
    assert plan.warnings == ()
    assert plan.lines["learning rate"] == "rises to 2e-05 over steps 1-2,000, stays at 2e-05 for 98,000 steps"
    assert "data/train is not there yet" in plan.lines["data"]


def test_memory_is_counted_from_weights_and_divided_among_processes(plan):
    one, two = plan("optimizer.kind=adamw"), plan("optimizer.kind=adamw", processes=2)
    n = one.parameters
    assert one.memory["weights"] == one.memory["gradients"] == one.memory["weight average"] == 4 * n
    assert one.memory["optimizer state"] == 8 * n  # AdamW's two moments
    assert two.memory["weights"] == 2 * n
    assert two.memory["activations, at most"] < one.memory["activations, at most"]
    assert "blocks gathered from the other GPUs" in two.memory.keys() - one.memory.keys()
    assert plan("train.ema_decay=none").memory["weight average"] == 0


@pytest.mark.parametrize("kind", ["adamw", "came", "came8bit"])
def test_optimizer_state_is_counted_as_it_is_made(kind, tiny_run):
    settings = read_settings(
        tiny_run, [f"optimizer.kind={kind}", "model.num_attention_heads=32", "model.num_cross_attention_heads=32"]
    )
    model = make_model(settings.model, seed=0, device=torch.device("cpu"))
    optimizer = make_optimizer(model, settings.optimizer, seed=0)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    made = sum(x.nbytes for state in optimizer.state.values() for name, x in state.items() if name != "step")
    assert optimizer_bytes(model, settings.optimizer) == made


def test_recomputing_a_forward_pass_adds_a_third_of_the_work(plan):
    assert 3 * plan("train.activation_checkpointing=true").flops_per_image == 4 * plan().flops_per_image


def test_the_data_and_the_schedule_are_told(plan):
    lines = plan("train.warmup_steps=2", "train.decay_steps=1").lines
    assert lines["data"] == "8 samples (shards: 1, sizes: 1); 2 steps an epoch, 2.0 epochs"
    assert lines["latents"] == "2x2 cells, at most 5 caption tokens"
    assert lines["step"] == "4 samples = 1 x 1 x 4 (processes x micro-batches x samples)"


def test_a_schedule_is_told_in_words():
    train = TrainConfig(run_dir="runs", steps=10, warmup_steps=2, decay_steps=3, final_lr_factor=0.1)
    assert describe_schedule(train, 1e-4) == (
        "rises to 0.0001 over steps 1-2, stays at 0.0001 for 5 steps, falls to 1e-05 over steps 8-10"
    )
    assert [train.lr_factor(step) for step in (1, 2, 6)] == [1, 1, 1]  # steps 2 to 7, counted from 1
    assert train.lr_factor(7) < 1


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ([], 3, "batch_size 4 cannot be divided among 3 processes with 1 micro-batches each: make it a multiple of 3"),
        (["train.step_in_backward=true", "train.grad_clip=none"], 2, "step_in_backward is for one process"),
        (["model.in_channels=3"], 1, "4 latent channels and the model takes 3"),
    ],
)
def test_a_run_that_cannot_start_has_no_plan(plan, changes, processes, message):
    with pytest.raises(ValueError, match=message):
        plan(*changes, processes=processes)


def test_what_is_hardly_meant_is_warned_of(plan):
    warnings = plan("model.weights=bf16", "train.warmup_steps=0").warnings
    assert [warning.split()[0] for warning in warnings] == ["CAME's", "bf16"]
    assert plan("model.weights=bf16", "optimizer.stochastic_rounding=true").warnings == ()


def test_long_sums_of_bf16_gradients_are_warned_of(plan):
    bf16 = ("model.weights=bf16", "optimizer.stochastic_rounding=true", "data.batch_size=4")
    few, many = ("train.accumulate=4",), ("data.shards=later", "data.batch_size=256", "train.accumulate=256")
    assert plan(*bf16, *few).warnings == ()
    (warning,) = plan(*bf16, *many).warnings
    assert "accumulate 256" in warning
    assert sum(torch.ones(512, dtype=torch.bfloat16).unbind()) == 256


def test_bf16_loses_updates_below_1_256_of_a_weight():
    one = torch.tensor(1.0, dtype=torch.bfloat16)
    assert one + 0.9 / 256 == one
    assert one + 1.1 / 256 > one
