"""What a run asks of its optimizer: state under the parameters' names, for checkpoints, and whether it fits."""

import json
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sana_train.came import CAME
from sana_train.checkpointing.settings_changes import settings_changes


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every state tensor (or DTensor), named "<parameter>.<key>"; they are the optimizer's own, not copies."""
    return {name: value for name, value in _entries(model, optimizer) if isinstance(value, Tensor)}


def state_numbers(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """What some optimizers keep in plain numbers, such as a step count, named in the same way."""
    return {name: value for name, value in _entries(model, optimizer) if isinstance(value, int | float)}


def load_state_numbers(model: nn.Module, optimizer: Optimizer, numbers: dict[str, float]) -> None:
    """Put back what `state_numbers` gave."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key in state:
            if (name := f"{names[parameter]}.{key}") in numbers:
                state[key] = numbers[name]


def with_state(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The parameters that have state: those that have been stepped."""
    return [name for name, parameter in model.named_parameters() if optimizer.state.get(parameter)]


def create_state(model: nn.Module, optimizer: Optimizer, names: Collection[str]) -> None:
    """Let an optimizer have state for the parameters of `names` and no others, for a checkpoint to be read into.

    torch's optimizers make state in their first step only, so each parameter takes one with a zero gradient and a zero
    learning rate, which leaves its value: one at a time, since all gradients together may not fit.
    """
    wanted = {parameter for name, parameter in model.named_parameters() if name in names}
    if isinstance(optimizer, CAME):
        optimizer.init_state()
    else:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in wanted and not optimizer.state.get(parameter):
                    _step_nowhere(optimizer, group, parameter)
    for parameter in set(optimizer.state) - wanted:
        del optimizer.state[parameter]


def _step_nowhere(optimizer: Optimizer, group: dict[str, Any], parameter: nn.Parameter) -> None:
    lr = group["lr"]
    gradient, parameter.grad = parameter.grad, torch.zeros_like(parameter)
    step_one(optimizer, group | {"lr": lr * 0}, parameter)
    parameter.grad = gradient


def step_one(optimizer: Optimizer, group: dict[str, Any], parameter: nn.Parameter) -> None:
    """Step the optimizer for one parameter of one of its groups; no other is even looked at."""
    groups = optimizer.param_groups
    optimizer.param_groups = [group | {"params": [parameter]}]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups


def optimizer_settings(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's kind and the options of its groups, as JSON gives them back."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    kind = type(optimizer).__name__
    described: dict[str, Any] = json.loads(json.dumps({"kind": kind, "groups": groups}, default=str))
    return described


def optimizer_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two `optimizer_settings`, each as "name before -> now"."""
    if then["kind"] != now["kind"] or len(then["groups"]) != len(now["groups"]):
        before, after = (f"{s['kind']} of {len(s['groups'])} groups" for s in (then, now))
        return [f"optimizer {before} -> {after}"]
    words: list[str] = []
    for old, new in zip(then["groups"], now["groups"], strict=True):
        both = old.keys() & new.keys()  # an option that a later version has is no change
        words += settings_changes({k: old[k] for k in old if k in both}, {k: new[k] for k in new if k in both})
    return list(dict.fromkeys(words))  # most are of all groups


def jumps_at_first(optimizer: Optimizer) -> bool:
    """Whether its first step is far longer than the learning rate: CAME's, where nothing corrects its averages."""
    return isinstance(optimizer, CAME) and not all(group["bias_correction"] for group in optimizer.param_groups)


def check_covered(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ValueError where the optimizer holds tensors that are not parameters of the model."""
    own = set(model.parameters())
    strange = sum(parameter not in own for group in optimizer.param_groups for parameter in group["params"])
    if strange:
        raise ValueError(f"the optimizer has {strange} tensors that are not parameters of the model: make it of them")


def _entries(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, Any]]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return [
        (f"{names[parameter]}.{key}", value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    ]
