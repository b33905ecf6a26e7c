"""What a CAME step needs to know of a parameter group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The numbers of CAME, Algorithm 1, checked.

    Attributes:
        lr: learning rate.
        betas: how long the averages of the update, of its square and of its residual remember.
        eps: added to the squared gradient and to the squared residual.
        clip_threshold: the greatest root mean square of an update.
        weight_decay: share of the weight, times lr, that a step takes away.
        bias_correction: count out of the averages that they started at zero.
    """

    lr: float
    betas: tuple[float, float, float]
    eps: tuple[float, float]
    clip_threshold: float
    weight_decay: float
    bias_correction: bool

    def __post_init__(self) -> None:
        if not self.lr >= 0:
            raise ValueError(f"lr is {self.lr}; it must be at least 0")
        if len(self.betas) != 3 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; it must be three numbers from 0 to below 1")
        if len(self.eps) != 2 or not all(eps > 0 for eps in self.eps):
            raise ValueError(f"eps is {self.eps}; it must be two numbers above 0")
        if not self.clip_threshold > 0:
            raise ValueError(f"clip_threshold is {self.clip_threshold}; it must be above 0; float('inf') clips nothing")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self:
        """The settings of an optimizer's parameter group; a tensor as lr is read, which may wait for its device."""
        return cls(
            lr=float(group["lr"]),
            betas=tuple(group["betas"]),
            eps=tuple(group["eps"]),
            clip_threshold=group["clip_threshold"],
            weight_decay=group["weight_decay"],
            bias_correction=group["bias_correction"],
        )

    def bias_divisor(self, number: int, age: int) -> float:
        """The bias-correction divisor of the average with `betas[number]` at step `age`, from 1."""
        return 1 - self.betas[number] ** age if self.bias_correction else 1.0
