"""One step of a parameter group, with three all-reduces for all parameters that are sharded alike."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sana_train.came.backends import passes_of
from sana_train.came.blocks import Dynamic, Quantized, row_blocks
from sana_train.came.factored import AddUp, FactoredStep, Matrix, Means, Stack
from sana_train.came.joining import stacks
from sana_train.came.passes import Momentum
from sana_train.came.rounding import Noise, noise_key
from sana_train.came.settings import Settings
from sana_train.came.sharding import Shards, first_row, local, shards_of
from sana_train.came.state import is_matrix
from sana_train.came.unfactored import Unfactored, UnfactoredStep

State = MutableMapping[Tensor, dict[str, Tensor]]
_Place = tuple[Shards | None, torch.device]


@dataclass
class _Bucket:
    """What is stepped together."""

    stacks: list[Stack] = field(default_factory=list)
    unfactored: list[Unfactored] = field(default_factory=list)


def step_group(group: Mapping[str, Any], state: State, numbers: Mapping[Tensor, int]) -> None:
    """Move the parameters of a group that have a gradient, and their state.

    Args:
        group: an optimizer's parameter group.
        state: the state of each of these parameters.
        numbers: of the optimizer's parameters, to name their random bits.

    Raises:
        RuntimeError: a gradient is sparse, or only some of several joined matrices have one.
    """
    settings, passes = Settings.of(group), passes_of(group["backend"])
    for (shards, _), bucket in _buckets(group, state, numbers).items():
        add_up: AddUp = shards.add_up if shards else list
        steps: list[FactoredStep | UnfactoredStep] = []
        if bucket.stacks:
            steps.append(FactoredStep(bucket.stacks, settings, passes, add_up))
        if bucket.unfactored:
            steps.append(UnfactoredStep(bucket.unfactored, settings))
        norms = [step.scale() for step in steps]
        totals = iter(add_up([norm for of_step in norms for norm in of_step]))
        for step, of_step in zip(steps, norms, strict=True):
            step.clip(list(islice(totals, len(of_step))))
        for step in steps:
            step.move()


def _buckets(group: Mapping[str, Any], state: State, numbers: Mapping[Tensor, int]) -> dict[_Place, _Bucket]:
    buckets: dict[_Place, _Bucket] = {}
    moving = list(_moving(group))  # raises before anything has changed
    if moving:
        torch._foreach_add_([state[parameter]["step"] for members in moving for parameter in members], 1)
    for members in moving:
        first = members[0]
        bucket = buckets.setdefault((shards_of(first), first.device), _Bucket())
        age = int(state[first]["step"])
        noises = [_noise(parameter, group, numbers[parameter], age=age) for parameter in members]
        if is_matrix(first.shape):
            matrices = [_matrix(p, state[p], group, noise) for p, noise in zip(members, noises, strict=True)]
            rows = sum(parameter.shape[0] for parameter in members)
            bucket.stacks.append(Stack(matrices, rows, first.shape[1], age))
        else:
            bucket.unfactored.append(_unfactored(first, state[first], age, noises[0]))
    return buckets


def _moving(group: Mapping[str, Any]) -> Iterator[list[Tensor]]:
    """The stacks of a group whose members have gradients."""
    for members in stacks(group):
        grads = [parameter.grad for parameter in members if parameter.grad is not None]
        if grads and len(grads) < len(members):
            shapes = [tuple(parameter.shape) for parameter in members]
            raise RuntimeError(f"{len(grads)} of the joined {shapes} have a gradient: all or none must have one")
        if any(grad.layout != torch.strided for grad in grads):
            raise RuntimeError(
                "a gradient is sparse, which CAME cannot use: make it dense, as by Embedding(sparse=False)"
            )
        if grads and sum(parameter.numel() for parameter in members):
            yield members


def _matrix(parameter: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], noise: Noise | None) -> Matrix:
    weight, grad = local(parameter), _local_grad(parameter)
    here = {name: local(tensor) for name, tensor in state.items()}
    return Matrix(
        weight=weight[:, :, 0, 0] if weight.ndim == 4 else weight,
        grad=grad[:, :, 0, 0] if grad.ndim == 4 else grad,
        momentum=_momentum(here, group),
        square=Means(here["square_rows"], here["square_columns"]),
        residual=Means(here["residual_rows"], here["residual_columns"]),
        noise=noise,
    )


def _momentum(state: Mapping[str, Tensor], group: Mapping[str, Any]) -> Momentum:
    if "momentum" in state:
        return state["momentum"]
    codes, scale, size = state["codes"], state["scale"], group["block_size"]
    if group["layout"] == "dynamic":
        return Dynamic(codes, scale, size)
    width = row_blocks(codes.shape[1], size)[1] if group["layout"] == "row" else size
    return Quantized(codes, scale, state["low"], width)


def _unfactored(parameter: Tensor, state: Mapping[str, Tensor], age: int, noise: Noise | None) -> Unfactored:
    momentum, square = local(state["momentum"]), local(state["square"])
    return Unfactored(local(parameter), _local_grad(parameter), momentum, square, parameter.numel(), age, noise)


def _local_grad(parameter: Tensor) -> Tensor:
    grad = parameter.grad
    assert grad is not None
    if isinstance(grad, DTensor) and isinstance(parameter, DTensor) and grad.placements != parameter.placements:
        grad = grad.redistribute(placements=parameter.placements)
    return local(grad)


def _noise(parameter: Tensor, group: Mapping[str, Any], number: int, *, age: int) -> Noise | None:
    if not group["stochastic_rounding"]:
        return None
    row_size = parameter.numel() // max(1, parameter.shape[0]) if parameter.ndim else 1
    return Noise(noise_key(group["seed"], age, number), first_row(parameter) * row_size)
