import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_scale.depth import block_importance, model_hash, prune_depth


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_layers: int
    width: int = 2


class Model(nn.Module):
    """Blocks that add a number each, and a configuration."""

    def __init__(self, *numbers, config=None):
        super().__init__()
        self.config = Config(num_layers=len(numbers)) if config is None else config
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in numbers)
        for block, number in zip(self.blocks, numbers, strict=True):
            nn.init.eye_(block.weight)
            nn.init.constant_(block.bias, number)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def numbers(model):
    return [block.bias[0].item() for block in model.blocks]


def test_the_blocks_of_highest_importance_stay_in_their_order():
    model = Model(1, 2, 3, 4)
    pruned, plan = prune_depth(model, keep=2, importance=[0.4, 0.1, 0.2, 0.3])
    assert pruned is model
    assert numbers(model) == [1, 4]
    assert plan.kept == (0, 3)
    assert plan.removed == (1, 2)
    assert plan.scores == (0.4, 0.1, 0.2, 0.3)
    assert model(torch.zeros(1, 2)).tolist() == [[5, 5]]


def test_blocks_are_numbered_anew_and_counted():
    model = Model(1, 2, 3)
    prune_depth(model, keep=[0, 2])
    assert list(model.state_dict()) == ["blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"]
    assert model.config == Config(num_layers=2)


@pytest.mark.parametrize("keep", [[2, 0], (0, 2), range(0, 3, 2), torch.tensor([2, 0])])
def test_a_list_names_blocks_in_any_order(keep):
    model, plan = prune_depth(Model(1, 2, 3), keep=keep)
    assert numbers(model) == [1, 3]
    assert plan.scores is None


def test_head_and_tail_are_protected_on_request():
    model, _ = prune_depth(Model(1, 2, 3, 4), keep=2, importance=[0, 1, 2, 0], protect_head=1, protect_tail=1)
    assert numbers(model) == [1, 4]


@pytest.mark.parametrize("config", [SimpleNamespace(num_layers=2), {"num_layers": 2}])
def test_any_kind_of_configuration_counts_the_blocks(config):
    model, _ = prune_depth(Model(1, 2, config=config), keep=[1])
    counted = model.config["num_layers"] if isinstance(config, dict) else model.config.num_layers
    assert counted == 1


def test_a_model_without_configuration_is_pruned_too():
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Identity() for _ in range(3))
    assert len(prune_depth(model, keep=[0])[0].blocks) == 1


def test_other_lists_of_blocks_are_pruned_by_name():
    model = Model(1, 2)
    model.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(2))
    _, plan = prune_depth(model, keep=[1], blocks="layers")
    assert plan.blocks == "layers"
    assert len(model.layers) == 1
    assert len(model.blocks) == 2


def test_the_errors_and_the_calibration_of_importance_go_into_the_plan():
    model = Model(1, 2, 3)
    importance = block_importance(model.blocks, lambda: model(torch.ones(2, 3, 2)), calibration=["a", "b"])
    _, plan = prune_depth(model, keep=1, importance=importance)
    assert plan.standard_errors == tuple(importance.standard_errors.tolist())
    assert plan.calibration == importance.calibration is not None


def test_a_plan_reproduces_the_pruning():
    first, plan = prune_depth(Model(1, 2, 3), keep=[0, 2])
    second = plan.apply(Model(1, 2, 3))
    assert second.state_dict().keys() == first.state_dict().keys()
    assert numbers(second) == [1, 3]
    assert model_hash(second) == model_hash(first) == plan.pruned


@pytest.mark.parametrize("other", [Model(1, 2, 4), Model(1, 2, 3).bfloat16()])
def test_a_plan_is_refused_by_another_model_which_stays_whole(other):
    _, plan = prune_depth(Model(1, 2, 3), keep=[0, 2])
    with pytest.raises(ValueError, match=f"the plan is for weights with the hash {plan.model}"):
        plan.apply(other)
    assert len(other.blocks) == other.config.num_layers == 3


def test_a_plan_goes_onto_another_model_of_its_depth_if_allowed():
    _, plan = prune_depth(Model(1, 2, 3), keep=[0, 2])
    assert numbers(plan.apply(Model(5, 6, 7), allow_other_model=True)) == [5, 7]
    with pytest.raises(ValueError, match="the plan is for a model of 3 blocks; this one has 2"):
        plan.apply(Model(5, 6), allow_other_model=True)


def test_a_plan_of_another_calibration_is_refused():
    model = Model(1, 2)
    importance = block_importance(model.blocks, lambda: model(torch.ones(1, 1, 2)), calibration={"prompts": ["a"]})
    _, plan = prune_depth(model, keep=1, importance=importance)
    assert len(plan.apply(Model(1, 2), calibration={"prompts": ["a"]}).blocks) == 1
    with pytest.raises(ValueError, match="calibration has the hash"):
        plan.apply(Model(1, 2), calibration={"prompts": ["b"]})


def test_a_model_without_memory_can_be_pruned():
    with torch.device("meta"):
        model = Model(*range(60))
    _, plan = prune_depth(model, keep=20, importance=torch.arange(60))
    assert plan.kept == tuple(range(40, 60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0, "importance": [1, 2, 3]}, "keep is 0; it must be 1 to 3"),
        ({"keep": 4, "importance": [1, 2, 3]}, "keep is 4; it must be 1 to 3"),
        ({"keep": 2}, "no importance to choose by"),
        ({"keep": 2, "importance": [1, 2]}, "2 scores for 3 blocks"),
        ({"keep": []}, "at least one"),
        ({"keep": [0, 3]}, "0 to 2"),
        ({"keep": [-1]}, "0 to 2"),
        ({"keep": [1, 1]}, "different indices"),
        ({"keep": [1], "protect_head": 1}, "not with a list"),
        ({"keep": 1, "importance": [1, 2, 3], "protect_tail": 2}, "keep is 1; it must be 2 to 3"),
        ({"keep": [1], "blocks": "layers"}, "no nn.ModuleList layers; it has blocks"),
    ],
)
def test_bad_requests_leave_the_model_whole(options, message):
    model = Model(1, 2, 3)
    with pytest.raises(ValueError, match=message):
        prune_depth(model, **options)
    assert len(model.blocks) == model.config.num_layers == 3


@pytest.mark.parametrize("keep", [True, 1.5, "1"])
def test_what_is_no_number_of_blocks_is_a_type_error(keep):
    with pytest.raises(TypeError):
        prune_depth(Model(1, 2, 3), keep=keep, importance=[1, 2, 3])


@pytest.mark.parametrize(
    ("config", "message"),
    [(Config(num_layers=5), "says num_layers=5 and blocks holds 2"), (SimpleNamespace(depth=2), "has no num_layers")],
)
def test_a_configuration_that_cannot_count_the_blocks_is_refused(config, message):
    model = Model(1, 2, config=config)
    with pytest.raises(ValueError, match=message):
        prune_depth(model, keep=[0])
    assert len(model.blocks) == 2


def test_importance_of_windows_is_no_importance_of_blocks():
    model = Model(1, 2, 3)
    importance = block_importance(model.blocks, lambda: model(torch.ones(1, 1, 2)), window=2)
    with pytest.raises(ValueError, match="importance is of windows of 2 blocks"):
        prune_depth(model, keep=1, importance=importance)
