import pytest
import torch

from sana_train import CAME, CAME8bit, grow_depth
from sana_train.growth import grow_named, grow_optimizer

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "came": lambda parameters: CAME(parameters, lr=0.1),
    "came8bit": lambda parameters: CAME8bit(parameters, lr=0.1, min_8bit_size=16),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(params=["partial_preservation", "interleaved"])
def grown(request, make_model):
    """A function that gives a model, its optimizer after a step, and the plan once both are grown."""

    def build(make, take_step, **schedule):
        model = make_model(3)
        optimizer = make(model.parameters())
        take_step(model, optimizer)
        held = {name: {k: v.clone() for k, v in optimizer.state[p].items()} for name, p in model.named_parameters()}
        _, plan = grow_depth(model, 5, drop_last=1, init=request.param, progress=False)
        return model, grow_optimizer(optimizer, model, plan, **schedule), plan, held

    return build


def test_names_follow_their_blocks(make_model):
    _, plan = grow_depth(make_model(3), 5, drop_last=1, init="interleaved", progress=False)
    names = ["caption.bias", "blocks.0.out.bias", "blocks.1.out.bias.exp_avg", "blocks.2.out.bias"]
    moved = grow_named({name: name for name in names}, plan)
    assert moved == {
        "caption.bias": "caption.bias",
        "blocks.0.out.bias": "blocks.0.out.bias",
        "blocks.3.out.bias.exp_avg": "blocks.1.out.bias.exp_avg",
    }


def test_a_prefix_stands_before_the_names(make_model):
    _, plan = grow_depth(make_model(3), 5, init="interleaved", progress=False)
    assert grow_named({"ema.blocks.0.x": 1, "blocks.2.x": 2}, plan, prefix="ema.") == {
        "ema.blocks.0.x": 1,
        "blocks.2.x": 2,
    }


def test_a_name_beyond_the_source_is_refused(make_model):
    _, plan = grow_depth(make_model(3), 5, progress=False)
    with pytest.raises(ValueError, match=r"blocks.3.x is of block 3; the plan is for a model of 3 blocks"):
        grow_named({"blocks.3.x": 1}, plan)


@every_optimizer
def test_old_parameters_keep_their_state_bit_for_bit(grown, make, take_step):
    model, optimizer, plan, before = grown(make, take_step, warmup_steps=4)
    moved = grow_named(before, plan)
    names = {parameter: name for name, parameter in model.named_parameters()}
    after = {names[parameter]: state for parameter, state in optimizer.state.items()}
    assert after.keys() == moved.keys()
    assert all(torch.equal(after[name][key], value) for name in moved for key, value in moved[name].items())


@every_optimizer
def test_new_blocks_warm_up_while_old_ones_go_on(grown, make, take_step):
    model, optimizer, plan, _ = grown(make, take_step, warmup_steps=4)
    plain, twin, _, _ = grown(make, take_step, warmup_steps=0)
    moved, moved_plainly = take_step(model, optimizer), take_step(plain, twin)
    new = tuple(f"blocks.{place}." for place in plan.new)
    for name, move in moved_plainly.items():
        share = 0.25 if name.startswith(new) else 1.0
        # w - lr*u rounds in w, of at most 2, so a quarter of a step is one to 2 ulp of 2.4e-7.
        torch.testing.assert_close(moved[name], share * move, rtol=1e-4, atol=1e-6, msg=name)


@every_optimizer
def test_rates_are_as_the_schedule_left_them(grown, make, take_step):
    model, optimizer, _, _ = grown(make, take_step, warmup_steps=4)
    take_step(model, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


@every_optimizer
def test_frozen_parameters_wait_with_their_state(grown, make, take_step):
    model, optimizer, plan, _ = grown(make, take_step, warmup_steps=0, frozen_steps=2)
    new = tuple(f"blocks.{place}." for place in plan.new)
    for step in range(3):
        moves = take_step(model, optimizer)
        moved = {name.startswith(new) for name, move in moves.items() if move.any()}
        assert moved == ({True} if step < 2 else {True, False})
    steps = {float(optimizer.state[p]["step"]) for n, p in model.named_parameters() if not n.startswith(new)}
    assert steps == {2.0}


def test_dropped_parameters_are_forgotten(grown, take_step):
    model, optimizer, _, _ = grown(OPTIMIZERS["adamw"], take_step, warmup_steps=1)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert set(held) == set(model.parameters())
    assert len(held) == len(set(held))


def test_a_fresh_optimizer_of_the_grown_model_is_split_alike(make_model):
    model, plan = grow_depth(make_model(3), 5, progress=False)
    optimizer = grow_optimizer(OPTIMIZERS["adamw"](model.parameters()), model, plan, warmup_steps=3)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2 + 4, 4 * 4]
    assert optimizer.param_groups[1]["growth_warmup_steps"] == 3


def test_new_parameters_take_the_options_of_their_siblings(make_model):
    model = make_model(3)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}])
    _, plan = grow_depth(model, 5, progress=False)
    grow_optimizer(optimizer, model, plan, warmup_steps=1)
    found = {
        (group["weight_decay"], parameter.ndim > 1) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert found == {(0.3, True), (0.0, False)}


def test_joined_matrices_are_joined_in_new_blocks_too(make_model, take_step):
    model = make_model(3)
    for block in model.blocks:
        block.twin = torch.nn.Parameter(torch.zeros_like(block.into.weight))
    optimizer = CAME(model.parameters(), lr=0.1, joined=[[block.into.weight, block.twin] for block in model.blocks])
    _, plan = grow_depth(model, 5, drop_last=1, init="interleaved", progress=False)
    grow_optimizer(optimizer, model, plan, warmup_steps=1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {tuple(names[g["params"][i]] for i in stack) for g in optimizer.param_groups for stack in g["joined"]}
    assert found == {(f"blocks.{place}.into.weight", f"blocks.{place}.twin") for place in range(5)}
    take_step(model, optimizer)


def test_an_optimizer_that_counts_no_steps_is_refused(make_model, take_step):
    model, plan = grow_depth(make_model(3), 5, progress=False)
    optimizer = grow_optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, plan, warmup_steps=2)
    take_step(model, optimizer)
    with pytest.raises(TypeError, match="SGD does not count"):
        take_step(model, optimizer)


def test_an_optimizer_follows_one_growth(make_model):
    model, plan = grow_depth(make_model(3), 5, progress=False)
    optimizer = grow_optimizer(OPTIMIZERS["adamw"](model.parameters()), model, plan, warmup_steps=3)
    with pytest.raises(ValueError, match="followed a growth before"):
        grow_optimizer(optimizer, model, plan, warmup_steps=3)


def test_negative_steps_are_refused(make_model):
    model, plan = grow_depth(make_model(3), 5, progress=False)
    with pytest.raises(ValueError, match="frozen_steps is -1"):
        grow_optimizer(OPTIMIZERS["adamw"](model.parameters()), model, plan, warmup_steps=0, frozen_steps=-1)


def test_another_model_is_refused(make_model):
    _, plan = grow_depth(make_model(3), 5, progress=False)
    other = make_model(3)
    with pytest.raises(ValueError, match=r"has 5 blocks, and BlockVelocity has \[3\]"):
        grow_optimizer(OPTIMIZERS["adamw"](other.parameters()), other, plan, warmup_steps=0)
