"""What belongs to parameters by name, optimizer state above all, taken along to a grown model."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from sana_train.growth.plan import GrowthPlan
from sana_train.growth.renumbering import renumbered
from sana_train.growth.schedule import FROZEN, WARM, follow_schedule

logger = logging.getLogger(__name__)
T = TypeVar("T")
_Group = dict[str, Any]


def grow_named(state: Mapping[str, T], plan: GrowthPlan, *, prefix: str = "") -> dict[str, T]:
    """Rename what is named after parameters as `plan` renumbers blocks, and leave out what belongs to dropped ones.

    New blocks have no entries.

    Args:
        state: values under names such as "blocks.7.mix_ffn.point.weight" or, with an optimizer's key behind it,
            "blocks.7.mix_ffn.point.weight.exp_avg": a checkpoint's tensors, averages of weights, a state_dict.
        plan: says where each block goes.
        prefix: stands before each of the model's names, such as "ema."; other names stay as they are.

    Raises:
        ValueError: a name has a block that the plan's model does not have.
    """
    names = renumbered(state, prefix + plan.blocks, depth=plan.depth, sources=plan.sources)
    return {new: state[name] for name, new in names.items()}


def grow_optimizer(
    optimizer: Optimizer, model: nn.Module, plan: GrowthPlan, *, warmup_steps: int, frozen_steps: int = 0
) -> Optimizer:
    """Let an optimizer train a model that `plan` has grown: old parameters keep their state, new ones are warmed up.

    New blocks' parameters come into groups of their own, with the options of the groups that hold the blocks before
    them. Their learning rate rises over their first `warmup_steps` steps, on top of any schedule, since a fresh state
    takes long steps: CAME's first one is 11 times the learning rate, and undoes an exact growth at once. How far it has
    risen is read off the steps that their state counts, so a resumed run needs nothing else.

    Args:
        optimizer: a live one of the model before it was grown, or a fresh one of the grown model.
        model: the grown model, or a module that holds it; after sharding, if it is sharded.
        plan: of the growth.
        warmup_steps: of new blocks.
        frozen_steps: steps in which only the new blocks are trained (LLaMA-Pro, arXiv 2401.02415); the gradients of
            all else are dropped. Not with the trainer's `step_in_backward`.

    Returns:
        The same optimizer.

    Raises:
        ValueError: a number of steps is negative, the model is not the plan's, or the optimizer was given here before.
    """
    for name, steps in (("warmup_steps", warmup_steps), ("frozen_steps", frozen_steps)):
        if steps < 0:
            raise ValueError(f"{name} is {steps}; it must not be negative")
    if any(WARM in group for group in optimizer.param_groups):
        raise ValueError("the optimizer has followed a growth before: make a new one of the model that was grown again")
    siblings = _siblings(model, plan)
    present = set(model.parameters())
    for parameter in [parameter for parameter in optimizer.state if parameter not in present]:
        del optimizer.state[parameter]
    homes = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    first = optimizer.param_groups[0]
    new = {new: homes.get(new, homes.get(old, first)) for new, old in siblings.items()}
    for group in list(optimizer.param_groups):
        mine = [parameter for parameter, home in new.items() if home is group]
        _split(optimizer, group, mine, present=present, siblings=siblings, warmup_steps=warmup_steps)
        group[FROZEN] = frozen_steps
    follow_schedule(optimizer, next(iter(siblings)))
    logger.info("%d new blocks, warmed up over %d steps, alone for %d", len(plan.new), warmup_steps, frozen_steps)
    return optimizer


def _split(
    optimizer: Optimizer,
    group: _Group,
    new: list[Tensor],
    *,
    present: set[nn.Parameter],
    siblings: Mapping[Tensor, Tensor],
    warmup_steps: int,
) -> None:
    """Give the group's new parameters a group of their own; those that have left the model leave it too."""
    stacks = [[group["params"][place] for place in places] for places in group.get("joined", ())]
    gone = set(new)
    group["params"] = [parameter for parameter in group["params"] if parameter in present and parameter not in gone]
    options = {name: value for name, value in group.items() if name != "params"} | {WARM: warmup_steps}
    if "joined" in group:
        places = {parameter: place for place, parameter in enumerate(group["params"])}
        group["joined"] = [[places[tensor] for tensor in stack] for stack in stacks if set(stack) <= places.keys()]
        options["joined"] = _copied_stacks(stacks, new, siblings)
    if new:
        optimizer.add_param_group({"params": new} | options)


def _copied_stacks(
    stacks: list[list[Tensor]], new: list[Tensor], siblings: Mapping[Tensor, Tensor]
) -> list[list[Tensor]]:
    """The stacks of joined matrices of the new blocks, as those of the block that they are the siblings of."""
    copies: dict[Tensor, list[Tensor]] = {}
    for parameter in new:
        copies.setdefault(siblings[parameter], []).append(parameter)
    return [
        list(members)
        for stack in stacks
        if all(tensor in copies for tensor in stack)
        for members in zip(*(copies[tensor] for tensor in stack), strict=True)
    ]


def _siblings(model: nn.Module, plan: GrowthPlan) -> dict[Tensor, Tensor]:
    """Each parameter of a new block, and the one of the same name in the first block."""
    blocks = _grown_blocks(model, plan)
    old = dict(blocks[plan.staying[0]].named_parameters())
    return {parameter: old[name] for place in plan.new for name, parameter in blocks[place].named_parameters()}


def _grown_blocks(model: nn.Module, plan: GrowthPlan) -> nn.ModuleList:
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == plan.blocks
    ]
    lengths = [len(blocks) for blocks in found]
    if len(plan.sources) not in lengths:
        raise ValueError(
            f"the plan's model has {len(plan.sources)} {plan.blocks}, and {type(model).__name__} has "
            f"{lengths or 'no such list'}: give the model that was grown"
        )
    return found[lengths.index(len(plan.sources))]
