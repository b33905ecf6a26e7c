"""Low-rank additions to a linear layer: y = x Wᵀ + b + (x Aᵀ) Bᵀ (LoRA, arXiv:2106.09685, section 4.1)."""

from collections.abc import Callable, Mapping
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


class TrainableLowRank(nn.Module):
    """An addition that is trained: its scale stands beside the factors, so that they are those that PEFT trains.

    Whatever dtype the layer computes in, the factors keep their own.

    Args:
        down: A (R, in).
        up: B (out, R).
        alpha: Over the rank R, what the product of the factors is multiplied by.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, down: Tensor, up: Tensor, *, alpha: float):
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.alpha = alpha
        self.scale = alpha / len(down)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        down, up = self.folded()
        return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))

    def folded(self) -> LowRank:
        """Returns the factors with the scale in them."""
        return LowRank(self.down, self.scale * self.up)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        # The state of a model has no factors (see AdaptedLinear.state_dict): those in its layers stay as they are.
        if not prefix.endswith("trained.") or any(name.startswith(prefix) for name in state):
            super()._load_from_state_dict(state, prefix, *rest)


Addition = LowRank | TrainableLowRank


class AdaptedLinear(nn.Linear):
    """What a linear layer of any kind becomes, in place, while it has additions; its own weights stay where they are.

    Attributes:
        down: The factors A of all fixed additions, one above the other. A buffer that is not saved; None without any.
        up: The factors B beside each other; as `down`.
        ranks: How many rows of `down` each fixed addition has, by its name.
        trained: The addition that is trained, by its name; there is at most one.
        original: The weight without additions, in CPU memory, while they are fused into it.
    """

    __call__: Callable[..., Tensor]
    down: Tensor
    up: Tensor
    ranks: dict[str, int]
    trained: TrainableLowRank | None
    trained_name: str
    original: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        y = super().forward(x)
        if self.original is not None:
            return y
        if self.ranks:
            y = y + F.linear(F.linear(x, self.down), self.up)
        return y if self.trained is None else y + self.trained(x)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Returns the state of the layer without additions, trained ones too: files of a model never hold them."""
        state = super().state_dict(*args, **options)
        for name in ("down", "up"):
            state.pop(f"{options.get('prefix', '')}trained.{name}", None)
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle finds classes by their names, and this one is made at run time.
        return _empty, (_kind(self),), self.__dict__


def is_beside(module: nn.Module) -> bool:
    """Returns whether a module has additions that are not fused into its weight."""
    return isinstance(module, AdaptedLinear) and module.original is None


def trained_adapter(model: nn.Module) -> str | None:
    """Returns the name of the adapter that is trained in a model, if there is one."""
    layers = (module for module in model.modules() if isinstance(module, AdaptedLinear))
    return next((layer.trained_name for layer in layers if layer.trained is not None), None)


def additions(linear: nn.Linear) -> dict[str, Addition]:
    """Returns the additions of a layer by name: fixed ones in the order in which they came, then the trained one."""
    if not isinstance(linear, AdaptedLinear):
        return {}
    found: dict[str, Addition] = {}
    if linear.ranks:
        ranks = list(linear.ranks.values())
        parts = zip(linear.ranks, torch.split(linear.down, ranks), torch.split(linear.up, ranks, dim=1), strict=True)
        found = {name: LowRank(down, up) for name, down, up in parts}
    return found if linear.trained is None else found | {linear.trained_name: linear.trained}


def set_additions(linear: nn.Linear, wanted: Mapping[str, Addition]) -> None:
    """Gives a layer, whose additions are not fused, these and no others; none makes it what it was."""
    adapted = isinstance(linear, AdaptedLinear)
    if not wanted and adapted:
        del linear.down, linear.up, linear.ranks, linear.trained, linear.trained_name, linear.original
        linear.__class__ = _kind(linear)
    if not wanted:
        return
    fixed = {name: factors for name, factors in wanted.items() if isinstance(factors, LowRank)}
    trained = {name: factors for name, factors in wanted.items() if isinstance(factors, TrainableLowRank)}
    assert len(trained) <= 1
    down = torch.cat([factors.down for factors in fixed.values()]) if fixed else None
    up = torch.cat([factors.up for factors in fixed.values()], dim=1) if fixed else None
    if not adapted:
        linear.__class__ = _adapted(type(linear))
    assert isinstance(linear, AdaptedLinear)
    linear.register_buffer("down", down, persistent=False)
    linear.register_buffer("up", up, persistent=False)
    linear.ranks = {name: len(factors.down) for name, factors in fixed.items()}
    linear.register_module("trained", next(iter(trained.values()), None))
    linear.trained_name = next(iter(trained), "")
    linear.original = None


@torch.no_grad()
def fuse(linear: AdaptedLinear) -> None:
    """Adds the additions to the weight, in its place and computed in fp32; once is enough."""
    if linear.original is not None:
        return
    fused = linear.weight.float()
    for addition in additions(linear).values():
        down, up = addition.folded() if isinstance(addition, TrainableLowRank) else addition
        fused = fused.addmm(up.float(), down.float())
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
