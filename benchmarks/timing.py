"""Time of several contenders that take turns in one process: whatever else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Contender = Callable[[], object]

OURS = ("ours", "ours_as_a_graph", "fused")
OTHERS = ("diffusers", "diffusers_compiled", "released", "eager", "compiled")
FLUSHED_BYTES = 2**28  # five times the L2 cache of an H100


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of each run of a contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def over(self, other: "Times") -> float:
        """How many times longer than the other: the median over pairs of neighbouring runs."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def interleaved(
    contenders: Mapping[str, Contender], *, repeats: int, device: torch.device, cold: bool = False
) -> dict[str, Times]:
    """Runs every contender `repeats` times, in turn, after two runs that do not count.

    Args:
        contenders: What to run, by name.
        repeats: Runs of each.
        device: Where they run. A GPU's own events measure it; on the CPU it is processor time where torch has one
            thread, to which other processes add nothing, else the wall clock.
        cold: Whether caches are flushed before each run. On a GPU the flush is still under way when the contender is
            launched, so that the time is the kernels' and not that of launching them.
    """
    for contender in contenders.values():
        contender()
        contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device) if cold else None
    for _ in range(repeats):
        for name, contender in contenders.items():
            seconds[name].append(_seconds(contender, device, flushed))
    return {name: Times(seconds=tuple(times)) for name, times in seconds.items()}


def summarise(times: Mapping[str, Times], floor: float | None) -> dict[str, float]:
    """Returns medians, others' ratios to our fastest (else the first), and how many times the floor that takes."""
    row = {f"seconds_{name}": time.median for name, time in times.items()}
    ours = [times[name] for name in OURS if name in times] or list(times.values())[:1]
    best = min(ours, key=lambda time: time.median)
    row |= {f"speedup_over_{name}": times[name].over(best) for name in times if name in OTHERS}
    return row if floor is None else row | {"floor_seconds": floor, "over_floor": best.median / floor}


def clock(device: torch.device) -> str:
    """Which clock `interleaved` reads."""
    if device.type == "cuda":
        return "events of the GPU"
    return "processor time" if torch.get_num_threads() == 1 else "wall"


def _seconds(contender: Contender, device: torch.device, flushed: torch.Tensor | None) -> float:
    if device.type == "cuda":
        return _gpu_seconds(contender, flushed)
    if flushed is not None:
        flushed.zero_()
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    contender()
    return now() - start


def _gpu_seconds(contender: Contender, flushed: torch.Tensor | None) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if flushed is not None:
        flushed.zero_()
    start.record()
    contender()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def cuda_graph(contender: Contender) -> Contender:
    """Captures a contender whose shapes and addresses do not change; what is returned replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            contender()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        contender()
    replay: Contender = graph.replay
    return replay
