"""Matrices updated as the one that they make on top of each other, such as q, k and v of an attention."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sana_train.came.state import is_matrix


def joined_members(joined: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor]) -> list[list[int]]:
    """The places in `parameters` of each sequence that lies in there; one that lies elsewhere is left out.

    Raises:
        ValueError: a sequence lies there only in part, or its members cannot be put on top of each other.
    """
    places = {parameter: place for place, parameter in enumerate(parameters)}
    members = [[places[tensor] for tensor in tensors if tensor in places] for tensors in joined]
    for tensors, found in zip(joined, members, strict=True):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if found and len(found) < len(tensors):
            raise ValueError(f"joined {shapes}: {len(found)} of them are in a parameter group: put all in one group")
        if not all(is_matrix(shape) for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
            raise ValueError(f"joined {shapes}: members must be matrices, or 1x1 convolutions, with as many columns")
    taken = [place for found in members for place in found]
    if len(set(taken)) < len(taken):
        raise ValueError("joined names a parameter twice: a matrix can be in one stack only")
    return [found for found in members if len(found) > 1]


def check_all_joined(joined: Sequence[Sequence[Tensor]], groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError where a member of `joined` is not a parameter of any group."""
    known = {parameter for group in groups for parameter in group["params"]}
    for tensors in joined:
        if strangers := [tuple(tensor.shape) for tensor in tensors if tensor not in known]:
            raise ValueError(
                f"joined names tensors {strangers} that are not parameters of this optimizer: join the model's own "
                "parameters, as they are after sharding"
            )


def stacks(group: Mapping[str, Any]) -> list[list[Tensor]]:
    """The parameters of a group, joined ones together and others alone, in the order of their first members.

    Raises:
        RuntimeError: the group does not hold all members.
    """
    parameters, joined = group["params"], group["joined"]
    if any(place >= len(parameters) for places in joined for place in places):
        raise RuntimeError("joined matrices must be stepped together: do not step the optimizer for one parameter")
    others = {place for places in joined for place in places[1:]}
    together = {places[0]: places for places in joined}
    firsts = (place for place in range(len(parameters)) if place not in others)
    return [[parameters[member] for member in together.get(place, [place])] for place in firsts]
