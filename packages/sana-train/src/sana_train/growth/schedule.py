"""The first steps after growing: new blocks' learning rate rises, and old ones may wait."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

WARM, FROZEN = "growth_warmup_steps", "growth_frozen_steps"  # options of parameter groups


def follow_schedule(optimizer: Optimizer, newest: Tensor) -> None:
    """Let an optimizer obey its groups' options `WARM` and `FROZEN` in every step.

    Args:
        optimizer: its state counts the steps of each parameter under "step", as that of torch's Adam family and CAME.
        newest: a parameter of a new block, by whose steps the others know how long they have waited.
    """
    schedule = _Schedule(newest)
    optimizer.register_step_pre_hook(schedule.begin)
    optimizer.register_step_post_hook(schedule.end)


class _Schedule:
    def __init__(self, newest: Tensor) -> None:
        self._newest = newest
        self._rates: list[tuple[dict[str, Any], Any]] = []
        self._warm: set[Tensor] = set()  # so that a count on a GPU need not be waited for any more

    def begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Lower the learning rates of groups that are warming up; drop the gradients of groups that wait."""
        for group in optimizer.param_groups:
            if WARM in group:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * self._factor(optimizer, group)
            # Without a learning rate state is made for a checkpoint to be read into, which gradients stand for.
            elif FROZEN in group and group["lr"] != 0 and self._waits(optimizer, group[FROZEN]):
                for parameter in group["params"]:
                    parameter.grad = None

    def end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Put back the learning rates."""
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates.clear()

    def _factor(self, optimizer: Optimizer, group: dict[str, Any]) -> float:
        steps, first = group[WARM], group["params"][0]
        if first in self._warm or steps == 0:
            return 1.0
        taken = _steps_taken(optimizer, first)
        if taken >= steps:
            self._warm.add(first)
        return float(min(1.0, (taken + 1) / steps))

    def _waits(self, optimizer: Optimizer, steps: int) -> bool:
        return steps > 0 and _steps_taken(optimizer, self._newest) < steps


def _steps_taken(optimizer: Optimizer, parameter: Tensor) -> float:
    state = optimizer.state.get(parameter)
    if not state:
        return 0.0
    if "step" not in state:
        raise TypeError(
            f"{type(optimizer).__name__} does not count its parameters' steps, by which new blocks are warmed up: "
            "use one that does, such as AdamW or CAME"
        )
    return float(state["step"])
