"""Low-rank additions to a linear layer: y = x Wᵀ + b + (x Aᵀ) Bᵀ (LoRA, arXiv:2106.09685, section 4.1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRank(NamedTuple):
    """The two factors of one addition.

    Attributes:
        down: A (R, in).
        up: B (out, R), times its scale.
    """

    down: Tensor
    up: Tensor


class AdaptedLinear(nn.Linear):
    """What a linear layer of any kind becomes, in place, while it has additions; its own weights stay where they are.

    Attributes:
        down: The factors A of all additions, one above the other. A buffer that is not saved.
        up: The factors B beside each other; as `down`.
        ranks: How many rows of `down` each addition has, by its name.
        original: The weight without additions, in CPU memory, while they are fused into it.
    """

    __call__: Callable[..., Tensor]
    down: Tensor
    up: Tensor
    ranks: dict[str, int]
    original: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        y = super().forward(x)
        return y if self.original is not None else y + F.linear(F.linear(x, self.down), self.up)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle finds classes by their names, and this one is made at run time.
        return _empty, (_kind(self),), self.__dict__


def is_beside(module: nn.Module) -> bool:
    """Returns whether a module has additions that are not fused into its weight."""
    return isinstance(module, AdaptedLinear) and module.original is None


def additions(linear: nn.Linear) -> dict[str, LowRank]:
    """Returns the additions of a layer by name, in the order in which they came."""
    if not isinstance(linear, AdaptedLinear):
        return {}
    ranks = list(linear.ranks.values())
    parts = zip(linear.ranks, torch.split(linear.down, ranks), torch.split(linear.up, ranks, dim=1), strict=True)
    return {name: LowRank(down, up) for name, down, up in parts}


def set_additions(linear: nn.Linear, wanted: dict[str, LowRank]) -> None:
    """Gives a layer, whose additions are not fused, these and no others; none makes it what it was."""
    adapted = isinstance(linear, AdaptedLinear)
    if not wanted and adapted:
        del linear.down, linear.up, linear.ranks, linear.original
        linear.__class__ = _kind(linear)
    if not wanted:
        return
    down, up = torch.cat([w.down for w in wanted.values()]), torch.cat([w.up for w in wanted.values()], dim=1)
    if not adapted:
        linear.__class__ = _adapted(type(linear))
    assert isinstance(linear, AdaptedLinear)
    linear.register_buffer("down", down, persistent=False)
    linear.register_buffer("up", up, persistent=False)
    linear.ranks = {name: len(w.down) for name, w in wanted.items()}
    linear.original = None


@torch.no_grad()
def fuse(linear: AdaptedLinear) -> None:
    """Adds the additions to the weight, in its place and computed in fp32; once is enough."""
    if linear.original is not None:
        return
    fused = linear.weight.float().addmm(linear.up.float(), linear.down.float())
    linear.original = linear.weight.detach().to("cpu", copy=True)
    linear.weight.copy_(fused)


@torch.no_grad()
def unfuse(linear: AdaptedLinear) -> None:
    """Puts the weight back bit for bit; the additions are computed beside it again."""
    if linear.original is not None:
        linear.weight.copy_(linear.original)
        linear.original = None


# A class of its own for each kind of layer, as torch.nn.utils.parametrize makes them: quantised ones are adapted too.
_ADAPTED: dict[type[nn.Linear], type[AdaptedLinear]] = {}


def _adapted(kind: type[nn.Linear]) -> type[AdaptedLinear]:
    return _ADAPTED.setdefault(kind, type(f"Adapted{kind.__name__}", (AdaptedLinear, kind), {}))


def _kind(linear: nn.Linear) -> type[nn.Linear]:
    return type(linear).__mro__[2]  # after the adapted class and AdaptedLinear


def _empty(kind: type[nn.Linear]) -> AdaptedLinear:
    adapted = _adapted(kind)
    return adapted.__new__(adapted)
