import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sana_train import CAME, CAME8bit, CheckpointError, Trainer
from sana_train.growth import GrowthPlan, grow_depth, grow_optimizer, grow_run

OPTIMIZERS = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    "came": lambda model: CAME(model.parameters(), lr=1e-2),
    "came8bit": lambda model: CAME8bit(model.parameters(), lr=1e-2, min_8bit_size=16),
}


@pytest.fixture
def parent(make_model, train_config, run_parts):
    """A function that trains a model of three blocks for three steps and gives its trainer."""

    def train(make=OPTIMIZERS["adamw"], wrap=lambda model: model, **changes):
        model, (objective, batches) = wrap(make_model(3)), run_parts
        trainer = Trainer(model, objective, make, batches, train_config(**changes))
        trainer.fit()
        return trainer

    return train


@pytest.fixture
def go_on(make_model, train_config, run_parts):
    """A function that resumes a grown run up to `steps` and gives its trainer."""

    def resume(folder, steps, make=OPTIMIZERS["adamw"], **schedule):
        plan = GrowthPlan.load(folder / "growth.json")
        model, (objective, batches) = make_model(len(plan.sources)), run_parts
        return Trainer.resume(
            folder,
            model,
            objective,
            lambda model: grow_optimizer(make(model), model, plan, **schedule),
            batches,
            train_config(steps=steps),
            allow_changes=True,
        )

    return resume


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_grown_run_has_the_weights_averages_and_state_of_its_parent(parent, go_on, make_model, tmp_path, make):
    trainer = parent(make)
    grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, drop_last=0, progress=False)
    resumed = go_on(tmp_path / "grown", 6, make, warmup_steps=2)
    old, new = dict(trainer.model.named_parameters()), dict(resumed.model.named_parameters())
    assert resumed.step == 3
    for name, parameter in old.items():
        assert torch.equal(new[name], parameter)
        assert torch.equal(resumed.ema.averages[name], trainer.ema.averages[name])
        then, now = trainer.optimizer.state[parameter], resumed.optimizer.state[new[name]]
        assert then.keys() == now.keys()
        assert all(torch.equal(now[key], value) for key, value in then.items())
    assert not any(resumed.optimizer.state.get(new[name]) for name in new.keys() - old.keys())


def test_a_grown_run_that_is_stopped_in_its_warm_up_ends_in_the_same_bits(parent, go_on, make_model, tmp_path):
    parent()
    schedule = {"warmup_steps": 5, "frozen_steps": 2}
    for folder, stops in (("whole", [9]), ("stopped", [4, 6, 9])):
        grow_run(tmp_path / "run", tmp_path / folder, make_model(3), 5, progress=False)
        for steps in stops:
            trainer = go_on(tmp_path / folder, steps, **schedule)
            trainer.fit()
        if folder == "whole":
            expected = copy.deepcopy(trainer.model.state_dict())
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


def test_a_part_of_a_model_can_be_grown(parent, make_model, tmp_path):
    def wrap(inner: nn.Module) -> nn.Module:
        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
                return self.inner(*inputs)

        return Outer()

    trainer = parent(wrap=wrap)
    model, plan = grow_run(
        tmp_path / "run", tmp_path / "grown", wrap(make_model(3)), 5, part="inner", init="interleaved", progress=False
    )
    assert plan.staying == (0,)
    assert torch.equal(model.inner.blocks[0].out.weight, trainer.model.inner.blocks[0].out.weight)


def test_the_plan_of_a_run_reproduces_it(parent, make_model, tmp_path):
    trainer = parent()
    _, plan = grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, progress=False)
    assert GrowthPlan.load(tmp_path / "grown" / "growth.json") == plan
    plan.apply(trainer.model, progress=False)


def test_a_grown_run_has_a_model_of_its_averages(parent, make_model, tmp_path):
    trainer = parent()
    model, plan = grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, drop_last=0, progress=False)
    written = load_file(tmp_path / "grown" / "model" / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    for place in plan.staying:
        name = f"blocks.{place}.out.weight"
        assert torch.equal(written[name], trainer.ema.averages[name])
        assert not torch.equal(written[name], model.state_dict()[name])


def test_the_guard_forgets_the_losses_before(parent, go_on, make_model, tmp_path):
    trainer = parent()
    grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, progress=False)
    assert trainer.guard.state_dict()["losses"]
    assert not go_on(tmp_path / "grown", 6, warmup_steps=0).guard.state_dict()["losses"]


def test_a_run_without_checkpoints_is_refused(make_model, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        grow_run(tmp_path / "none", tmp_path / "grown", make_model(3), 5)
    assert not (tmp_path / "grown").exists()


def test_another_model_is_refused(parent, make_model, tmp_path):
    parent()
    with pytest.raises(CheckpointError, match=r"is of another model \(blocks.3"):
        grow_run(tmp_path / "run", tmp_path / "grown", make_model(4), 5)


def test_a_folder_with_something_in_it_is_refused(parent, make_model, tmp_path):
    parent()
    with pytest.raises(FileExistsError, match="run is not empty"):
        grow_run(tmp_path / "run", tmp_path / "run", make_model(3), 5)


def test_a_bad_target_writes_nothing(parent, make_model, tmp_path):
    parent()
    with pytest.raises(ValueError, match="depth is 3"):
        grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_average_is_not_invented(parent, make_model, tmp_path, go_on):
    parent(ema_decay=None)
    grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, progress=False)
    with pytest.raises(CheckpointError, match="cannot gain or lose its weight average"):
        go_on(tmp_path / "grown", 6, warmup_steps=0)


def test_growing_a_live_model_and_growing_its_checkpoint_agree(parent, make_model, tmp_path):
    trainer = parent()
    grown, _ = grow_run(tmp_path / "run", tmp_path / "grown", make_model(3), 5, seed=3, progress=False)
    live, plan = grow_depth(trainer.model, 5, seed=3, progress=False)
    assert all(map(torch.equal, grown.state_dict().values(), live.state_dict().values()))
    assert dataclasses.asdict(plan)["grown"] == GrowthPlan.load(tmp_path / "grown" / "growth.json").grown
