"""What a forward pass costs: parameters, floating-point operations and time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of one forward pass.

    Attributes:
        blocks: depth of the model.
        parameters: numbers in the model's weights.
        flops: of matrix products, convolutions and attention; one multiply-add is two.
        seconds: median time.
    """

    blocks: int
    parameters: int
    flops: int
    seconds: float


def forward_cost(model: nn.Module, forward: Callable[[], object], *, blocks: int, repeats: int = 5) -> Cost:
    """Measure `forward()`, one forward pass of `model` on its device: once for operations, `repeats` times for time.

    Custom kernels (Triton) are not seen by the counter of operations: count with PyTorch's own.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1")
    device = next(model.parameters()).device
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            forward()
        seconds = [_timed(forward, device) for _ in range(repeats)]
    return Cost(
        blocks=blocks,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=counter.get_total_flops(),
        seconds=statistics.median(seconds),
    )


def _timed(forward: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    forward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
