import copy

import pytest
import torch
from torch import nn

from sana_scale.depth import prune_depth, prune_named, prune_optimizer


class Model(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        self.embed = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


def trained(steps=3):
    torch.manual_seed(0)
    model = Model()
    groups = [{"params": model.embed.parameters(), "lr": 1e-2}, {"params": model.blocks.parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(3, 2)).square().sum().backward()
    optimizer.step()


def named_state(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{names[p]}.{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


def test_state_under_names_is_renumbered_like_the_live_optimizer():
    model, optimizer = trained()
    before = named_state(model, optimizer)
    _, plan = prune_depth(model, keep=[0, 3])
    assert prune_optimizer(optimizer, model) is optimizer
    by_name = prune_named(before, plan)
    live = named_state(model, optimizer)
    assert by_name.keys() == live.keys()
    assert all(by_name[name] is live[name] for name in live)
    assert by_name["blocks.1.weight.exp_avg"] is before["blocks.3.weight.exp_avg"]


def test_an_optimizer_goes_on_with_what_it_knew_of_the_blocks_that_stay():
    model, optimizer = trained()
    prune_depth(model, keep=[0, 3])
    prune_optimizer(optimizer, model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    restarted = copy.deepcopy(model)
    fresh = torch.optim.AdamW(restarted.parameters(), lr=1e-3)
    step(model, optimizer)
    step(restarted, fresh)
    assert not torch.equal(model.blocks[1].weight, restarted.blocks[1].weight)


def test_a_pruned_state_dict_fits_the_pruned_model():
    weights = trained()[0].state_dict()
    model, plan = prune_depth(Model(), keep=[1, 2])
    model.load_state_dict(prune_named(weights, plan))
    assert torch.equal(model.blocks[0].weight, weights["blocks.1.weight"])


def test_names_behind_a_prefix_are_renumbered_and_others_stay():
    _, plan = prune_depth(Model(), keep=[1, 2])
    state = {"ema.blocks.2.weight": 1, "ema.blocks.3.weight": 2, "blocks.3.weight": 3, "ema.blocks_norm": 4}
    pruned = prune_named(state, plan, prefix="ema.")
    assert pruned == {"ema.blocks.1.weight": 1, "blocks.3.weight": 3, "ema.blocks_norm": 4}


def test_state_of_a_deeper_model_is_refused():
    _, plan = prune_depth(Model(), keep=[1, 2])
    with pytest.raises(ValueError, match=r"blocks\.4\.weight is of block 4; the plan is for a model of 4 blocks"):
        prune_named({"blocks.4.weight": 0}, plan)
