"""Time and state of an optimizer step beside others', on Sana's matrices: `python optimizer_step.py --out result.json`.

All optimizers step the same gradients in turn in one process, so that whatever else the machine does meets all of them.
Nothing is timed unless CAME's weights agree with came-pytorch's within 2e-6 after some steps, and CAME8bit's updates
with CAME's within 2 %. Needs bitsandbytes, came-pytorch and torchao.
"""

import argparse
import copy
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bitsandbytes
import came_pytorch
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torchao.optim import AdamW8bit
from tqdm import tqdm

from sana_train import CAME, CAME8bit

LR = 1e-4
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "AdamW fused, float32": lambda weights: AdamW(weights, LR, fused=True),
    "bitsandbytes AdamW8bit": lambda weights: bitsandbytes.optim.AdamW8bit(weights, LR),
    "torchao AdamW8bit": lambda weights: AdamW8bit(weights, LR),
    "came-pytorch": lambda weights: came_pytorch.CAME(weights, LR),
    "CAME": lambda weights: CAME(weights, LR),
    "CAME8bit row": lambda weights: CAME8bit(weights, LR),
    "CAME8bit flat": lambda weights: CAME8bit(weights, LR, layout="flat"),
    "CAME8bit dynamic": lambda weights: CAME8bit(weights, LR, layout="dynamic"),
}
REFERENCES = ("AdamW fused, float32", "came-pytorch")


def main() -> None:
    """Measures each set of tensors and writes or prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--width", type=int, default=2240, help="of the model; 2240 is Sana 1.6B")
    parser.add_argument("--blocks", type=int, default=1, help="how many transformer blocks' tensors")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and gradients")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    check(device)
    result = {**describe(device), "width": args.width, "blocks": args.blocks, "dtype": args.dtype}
    result["results"] = [
        {
            "tensors": name,
            "parameters": sum(map(count, shapes)),
            "optimizers": measure(shapes, args.repeats, device, dtype),
        }
        for name, shapes in tensor_sets(args.width, args.blocks).items()
    ]
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def tensor_sets(width: int, blocks: int) -> dict[str, list[tuple[int, ...]]]:
    """Returns the shapes of a block's linears, of its 1x1 convolutions, and of all its tensors."""
    hidden = 5 * width // 2
    linears: list[tuple[int, ...]] = [(width, width)] * 8
    convolutions: list[tuple[int, ...]] = [(2 * hidden, width, 1, 1), (width, hidden, 1, 1)]
    others: list[tuple[int, ...]] = [(2 * hidden, 1, 3, 3), (2 * hidden,), (2 * hidden,), (6, width), *[(width,)] * 5]
    return {
        "linears": linears * blocks,
        "1x1 convolutions": convolutions * blocks,
        "whole blocks": (linears + convolutions + others) * blocks,
    }


def measure(
    shapes: Sequence[tuple[int, ...]], repeats: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Returns nanoseconds and bytes of state per parameter of each optimizer, and ratios to the references."""
    torch.manual_seed(0)
    weights = [nn.Parameter(0.02 * torch.randn(shape, device=device, dtype=dtype)) for shape in shapes]
    grads = [torch.randn(shape, device=device).mul_(1e-3).to(dtype) for shape in shapes]
    optimizers = {name: start(make, weights, grads) for name, make in OPTIMIZERS.items()}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    rounds = itertools.product(range(repeats), optimizers.items())
    for _, (name, optimizer) in tqdm(rounds, total=repeats * len(optimizers), unit="step"):
        times[name].append(seconds(optimizer, device))
    parameters = sum(map(count, shapes))
    return [
        {
            "optimizer": name,
            "nanoseconds_per_parameter": 1e9 * statistics.median(times[name]) / parameters,
            "state_bytes_per_parameter": sum(sizes(optimizer.state.values())) / parameters,
            **{
                f"time_over {other}": statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))
                for other in REFERENCES
            },
        }
        for name, optimizer in optimizers.items()
    ]


def start(
    make: Callable[[list[nn.Parameter]], Optimizer], weights: list[nn.Parameter], grads: list[Tensor]
) -> Optimizer:
    """Returns an optimizer of a copy of the weights, with the gradients in place, after two steps."""
    weights = copy.deepcopy(weights)
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    optimizer = make(weights)
    for _ in range(2):
        optimizer.step()
    return optimizer


def seconds(optimizer: Optimizer, device: torch.device) -> float:
    """Returns the time of one step, by `clock`."""
    synchronize(device)
    begin = clock(device)()
    optimizer.step()
    synchronize(device)
    return clock(device)() - begin


def clock(device: torch.device) -> Callable[[], float]:
    """Returns the wall clock, or the CPU time where that is one thread's: other processes add nothing to it."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sizes(state: Any) -> Iterator[int]:
    """Yields the bytes of each tensor of a state, however nested; of torchao's tensors, those of their parts."""
    if isinstance(state, Tensor) and hasattr(state, "__tensor_flatten__"):
        yield from sizes([getattr(state, name) for name in state.__tensor_flatten__()[0]])
    elif isinstance(state, Tensor) and state.ndim:
        yield state.nbytes
    elif isinstance(state, dict):
        yield from sizes([value for key, value in state.items() if "qmap" not in key])  # bitsandbytes shares its maps
    elif not isinstance(state, Tensor | float | int | str):
        yield from itertools.chain.from_iterable(map(sizes, state))


def check(device: torch.device) -> None:
    """Stops the benchmark where CAME is off."""
    torch.manual_seed(0)
    first = [nn.Parameter(torch.randn(160, 144, device=device)), nn.Parameter(torch.randn(256, 72, device=device))]
    copies = {name: copy.deepcopy(first) for name in ("came-pytorch", "CAME", "CAME8bit row")}
    optimizers = [OPTIMIZERS[name](weights) for name, weights in copies.items()]
    for _ in range(20):
        grads = [torch.randn_like(weight) for weight in first]
        for optimizer, weights in zip(optimizers, copies.values(), strict=True):
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad.clone()
            optimizer.step()
    for start, theirs, ours, ours8 in zip(first, *copies.values(), strict=True):
        error = ((ours - theirs).norm() / theirs.norm()).item()
        error8 = ((ours8 - ours).norm() / (ours - start).norm()).item()
        if not (error <= 2e-6 and error8 <= 0.02):
            raise SystemExit(f"CAME is off by {error:.1e}, CAME8bit's updates by {error8:.1e}; nothing was timed")


def count(shape: Sequence[int]) -> int:
    """Returns how many elements a tensor of this shape has."""
    return torch.Size(shape).numel()


def describe(device: torch.device) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    packages = ("sana-train", "torch", "bitsandbytes", "torchao", "came-pytorch")
    return {
        "benchmark": "optimizer steps",
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "clock": clock(device).__name__,
    }


def cpu_name() -> str:
    """Returns the processor's name as the kernel reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
