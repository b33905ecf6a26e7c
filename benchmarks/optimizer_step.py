"""Time and state of an optimizer step beside others', on Sana's matrices: `python -m benchmarks.optimizer_step`.

All optimizers step the same gradients in turn in one process. Nothing is timed unless CAME's weights agree with
came-pytorch's within 2e-6 after some steps, and CAME8bit's updates with CAME's within 2 %. Optimizers of packages that
are not installed are left out: bitsandbytes, came-pytorch, torchao.
"""

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks.machine import add_row, ceilings, describe
from benchmarks.timing import interleaved
from sana_train import CAME, CAME8bit

LR = 1e-4
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
REFERENCES = ("AdamW fused, float32", "came-pytorch")


def main() -> None:
    """Measures each set of tensors and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--width", type=int, default=2240, help="of the model; 2240 is Sana 1.6B")
    parser.add_argument("--blocks", type=int, default=1, help="how many transformer blocks' tensors")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and gradients")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    contenders = optimizers(device)
    check(contenders, device)
    result: dict[str, Any] = {"benchmark": "optimizer steps", **describe(device)}
    result |= {"optimizers": packages(), "width": args.width, "blocks": args.blocks, "dtype": args.dtype}
    bandwidth = ceilings(device, dtype)["bytes"]
    file = f"optimizer-step-{args.width}x{args.blocks}-{args.dtype}"
    for name, shapes in tensor_sets(args.width, args.blocks).items():
        rows = measure(contenders, shapes, args.repeats, device, dtype)
        for row in rows:
            row |= floor(row, dtype, bandwidth)
        add_row(result, {"tensors": name, "parameters": sum(map(count, shapes)), "optimizers": rows}, file, args.out)


def optimizers(device: torch.device) -> dict[str, MakeOptimizer]:
    """Returns what is measured, by name: ours, torch's own, and those of packages that are installed."""
    found: dict[str, MakeOptimizer] = {"AdamW fused, float32": lambda weights: AdamW(weights, LR, fused=True)}
    with suppress(ImportError):
        import bitsandbytes

        found["bitsandbytes AdamW8bit"] = lambda weights: bitsandbytes.optim.AdamW8bit(weights, LR)
        found["CAME8bit dynamic"] = lambda weights: CAME8bit(weights, LR, layout="dynamic")
    with suppress(ImportError):
        from torchao.optim import AdamW8bit

        found["torchao AdamW8bit"] = lambda weights: AdamW8bit(weights, LR)
    with suppress(ImportError):
        import came_pytorch

        found["came-pytorch"] = lambda weights: came_pytorch.CAME(weights, LR)
    found |= {
        "CAME": lambda weights: CAME(weights, LR),
        "CAME8bit row": lambda weights: CAME8bit(weights, LR),
        "CAME8bit flat": lambda weights: CAME8bit(weights, LR, layout="flat"),
    }
    if device.type == "cuda":
        found["CAME8bit row, triton"] = lambda weights: CAME8bit(weights, LR, backend="triton")
    return found


def packages() -> dict[str, str]:
    """Returns the versions of the packages that others' optimizers come from."""
    found = {}
    for name in ("bitsandbytes", "torchao", "came-pytorch"):
        with suppress(ImportError):
            found[name] = version(name)
    return found


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
    makers: dict[str, MakeOptimizer],
    shapes: Sequence[tuple[int, ...]],
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Returns nanoseconds and bytes of state per parameter of each optimizer, and ratios to the references."""
    torch.manual_seed(0)
    weights = [nn.Parameter(0.02 * torch.randn(shape, device=device, dtype=dtype)) for shape in shapes]
    grads = [torch.randn(shape, device=device).mul_(1e-3).to(dtype) for shape in shapes]
    started = {name: start(make, weights, grads) for name, make in makers.items()}
    steps = {name: optimizer.step for name, optimizer in started.items()}
    times = interleaved(steps, repeats=repeats, device=device)
    parameters = sum(map(count, shapes))
    return [
        {
            "optimizer": name,
            "nanoseconds_per_parameter": 1e9 * times[name].median / parameters,
            "state_bytes_per_parameter": sum(sizes(optimizer.state.values())) / parameters,
            **{f"time_over {other}": times[name].over(times[other]) for other in REFERENCES if other in times},
        }
        for name, optimizer in started.items()
    ]


def floor(row: dict[str, Any], dtype: torch.dtype, bandwidth: float) -> dict[str, float]:
    """Returns the least time of this optimizer's traffic: gradients read once, weights and its state also written."""
    least = 1e9 * (3 * dtype.itemsize + 2 * row["state_bytes_per_parameter"]) / bandwidth
    return {"floor_nanoseconds_per_parameter": least, "over_floor": row["nanoseconds_per_parameter"] / least}


def start(make: MakeOptimizer, weights: list[nn.Parameter], grads: list[Tensor]) -> Optimizer:
    """Returns an optimizer of a copy of the weights, with the gradients in place."""
    weights = copy.deepcopy(weights)
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    return make(weights)


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


def check(makers: dict[str, MakeOptimizer], device: torch.device) -> None:
    """Stops the benchmark where CAME is off; CAME itself is compared where came-pytorch is installed."""
    torch.manual_seed(0)
    first = [nn.Parameter(torch.randn(160, 144, device=device)), nn.Parameter(torch.randn(256, 72, device=device))]
    compared = [name for name in makers if name.startswith(("came", "CAME")) and "flat" not in name]
    copies = {name: copy.deepcopy(first) for name in compared if "dynamic" not in name}
    optimizers = {name: makers[name](weights) for name, weights in copies.items()}
    for _ in range(20):
        grads = [torch.randn_like(weight) for weight in first]
        for name, optimizer in optimizers.items():
            for weight, grad in zip(copies[name], grads, strict=True):
                weight.grad = grad.clone()
            optimizer.step()
    for name, weights in copies.items():
        error = max(difference(*each) for each in zip(weights, copies["CAME"], first, strict=True))
        allowed = 0.02 if "8bit" in name else 2e-6
        if not error <= allowed:
            raise SystemExit(f"{name} is off CAME by {error:.1e} of its updates; nothing was timed")


def difference(weight: Tensor, expected: Tensor, start: Tensor) -> float:
    """Returns by how much a weight is off, relative to how far it has come."""
    return float((weight - expected).norm() / (expected - start).norm())


def count(shape: Sequence[int]) -> int:
    """Returns how many elements a tensor of this shape has."""
    return torch.Size(shape).numel()


if __name__ == "__main__":
    main()
