"""The state that the parameters of a group must have, and whether a saved one is that."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from sana_train.came.joining import stacks
from sana_train.came.sharding import local
from sana_train.came.state import EightBit, StateTensor, is_matrix, state_tensors


def wanted_state(group: Mapping[str, Any]) -> dict[Tensor, dict[str, StateTensor]]:
    """The state that each parameter of a group must have."""
    eight, wanted = EightBit.of(group), {}
    for members in stacks(group):
        rows = sum(member.shape[0] for member in members) if is_matrix(members[0].shape) else None
        wanted.update({member: state_tensors(member.shape, eight, stacked_rows=rows) for member in members})
    return wanted


def checked_state(
    group: Mapping[str, Any], saved: Mapping[str, Any], state: Mapping[int, Mapping[str, Tensor]]
) -> dict[Tensor, dict[str, Tensor]]:
    """The saved state of each parameter of a group; ValueError where it is not what the saved options ask for."""
    if not group.keys() <= saved.keys() or (group["layout"] is None) != (saved["layout"] is None):
        raise ValueError(
            f"the saved options {sorted(saved)} are another optimizer's: load them into the kind that saved them"
        )
    found: dict[Tensor, dict[str, Tensor]] = {}
    wanted = wanted_state({**saved, "params": group["params"]})
    for parameter, number in zip(group["params"], saved["params"], strict=False):
        if number in state:
            _check_state(state[number], wanted[parameter], parameter)
            found[parameter] = dict(state[number])
    return found


def _check_state(saved: Mapping[str, Tensor], wanted: Mapping[str, StateTensor], parameter: Tensor) -> None:
    needed = {"step": (), **{name: tuple(tensor.shape) for name, tensor in wanted.items()}}
    given = {name: tuple(value.shape) if isinstance(value, Tensor) else value for name, value in saved.items()}
    if given != needed:
        raise ValueError(
            f"the saved state of a parameter {tuple(parameter.shape)} is {given}, and {needed} is needed: was it saved "
            "by the same optimizer, with the same options?"
        )
    for name, tensor in wanted.items():
        _check_sharding(name, saved[name], tensor, parameter)


def _check_sharding(name: str, saved: Tensor, wanted: StateTensor, parameter: Tensor) -> None:
    """Raise ValueError where a state tensor is not divided over processes as its parameter's must be."""
    rows = local(parameter).shape[:1] if wanted.divided else wanted.shape[:1]
    needed, given = (*rows, *wanted.shape[1:]), tuple(local(saved).shape)
    if isinstance(saved, DTensor) != isinstance(parameter, DTensor) or given != needed:
        raise ValueError(
            f"the saved {name} of a parameter {tuple(parameter.shape)} is {_held(saved, given)}, and "
            f"{_held(parameter, needed)} is needed: take and load it with get_optimizer_state_dict and "
            "set_optimizer_state_dict of torch.distributed.checkpoint.state_dict and "
            "StateDictOptions(full_state_dict=True)"
        )


def _held(beside: Tensor, shape: tuple[int, ...]) -> str:
    return f"a process's part {shape} of a DTensor" if isinstance(beside, DTensor) else f"a plain tensor {shape}"
