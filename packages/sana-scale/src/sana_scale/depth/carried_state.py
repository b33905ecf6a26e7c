"""What belongs to parameters by name, optimizer state above all, taken along to a pruned model."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn
from torch.optim import Optimizer

from sana_scale.depth.plan import PrunePlan
from sana_scale.depth.renumbering import renumbered

T = TypeVar("T")


def prune_named(state: Mapping[str, T], plan: PrunePlan, *, prefix: str = "") -> dict[str, T]:
    """Rename what is named after parameters as `plan` renumbers blocks, and leave out what belongs to removed ones.

    Args:
        state: values under names such as "blocks.7.mix_ffn.point.weight" or, with an optimizer's key behind it,
            "blocks.7.mix_ffn.point.weight.exp_avg": a checkpoint's tensors, averages of weights, a state_dict.
        plan: says which blocks stay.
        prefix: stands before each of the model's names, such as "ema."; other names stay as they are.

    Raises:
        ValueError: a name has a block that the plan's model does not have.
    """
    names = renumbered(state, prefix + plan.blocks, depth=plan.depth, kept=plan.kept)
    return {new: state[name] for name, new in names.items()}


def prune_optimizer(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """Let a live optimizer forget the parameters that `prune_depth` took out of `model`; the others keep their state.

    Only for an optimizer that has no other parameters than the model's. Returns the same optimizer.
    """
    left = set(model.parameters())
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter in left]
    for parameter in [parameter for parameter in optimizer.state if parameter not in left]:
        del optimizer.state[parameter]
    return optimizer
