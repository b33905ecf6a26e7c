"""A training step of Sana 1.6B: forward, backward, optimizer: `python -m benchmarks.training_step --device cuda`.

The reference is diffusers' model under autocast with fused AdamW, what its training scripts run. Floor: three times the
operations of a forward at the device's measured rate; its share of our time is the MFU. Compiled diffusers steps the
same weights with the same optimizer as plain diffusers.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.floors import count_flops
from benchmarks.gate import pass_tests
from benchmarks.kernels import TRANSFORMER_KERNELS, check_kernels, fastest
from benchmarks.machine import add_row, ceilings, describe
from benchmarks.references import REFERENCE, TRANSFORMERS, build, call_reference, draw_inputs
from benchmarks.timing import Contender, interleaved, summarise
from sana_train import CAME8bit
from sana_train.came.backends import Backend


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="1.5-1.6b", choices=TRANSFORMERS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="of the token grid; 32 is 1024 px")
    parser.add_argument("--compiled", action="store_true", help="measure compiled diffusers as well")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, config = torch.device(args.device), TRANSFORMERS[args.model]
    if device.type == "cuda" and not args.no_tests:
        pass_tests(device)
    rates = ceilings(device, torch.bfloat16)
    ours, theirs = build(config, device=device, dtype=torch.float32)
    inputs = draw_inputs(config, batch=args.batch, side=args.side, device=device, dtype=torch.float32)
    target = torch.randn_like(inputs["latents"])
    contenders = {"ours": our_step(ours, inputs, target)}
    check_kernels(
        contenders["ours"], TRANSFORMER_KERNELS | {f"{name}_backward" for name in TRANSFORMER_KERNELS}, device
    )
    if theirs is not None:
        contenders |= their_steps(theirs, inputs, target, compiled=args.compiled)
    row: dict[str, Any] = {f"peak_bytes_{name}": peak_bytes(step, device) for name, step in contenders.items()}
    times = interleaved(contenders, repeats=args.repeats, device=device)
    flops = 3 * count_flops(config, batch=args.batch, side=args.side)
    floor = flops / rates["flops"]
    row |= {"flops": flops, "mfu": floor / times["ours"].median} | summarise(times, floor)
    result = {"benchmark": f"training step of {args.model} beside diffusers", **describe(device)}
    result |= {"reference": REFERENCE, "ceilings": rates, "dtype": "bfloat16", "batch": args.batch, "side": args.side}
    add_row(result, row, f"train-{args.model}-{args.side}x{args.batch}", args.out)


def our_step(model: torch.nn.Module, inputs: dict[str, Tensor], target: Tensor) -> Contender:
    """Returns a step of ours: fused operations and CAME8bit."""
    backend: Backend = "triton" if target.is_cuda else "eager"
    optimizer = CAME8bit(model.parameters(), 1e-5, backend=backend)

    def step() -> None:
        with fastest(target.device), torch.autocast(target.device.type, torch.bfloat16):
            loss = F.mse_loss(model(**inputs).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_steps(model: Any, inputs: dict[str, Tensor], target: Tensor, *, compiled: bool) -> dict[str, Contender]:
    """Returns a step of diffusers' model with fused AdamW, plain and compiled."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def step(forward: Any) -> None:
        with torch.autocast(target.device.type, torch.bfloat16):
            loss = F.mse_loss(call_reference(forward, inputs).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    steps: dict[str, Contender] = {"diffusers": partial(step, model)}
    return steps | ({"diffusers_compiled": partial(step, torch.compile(model))} if compiled else {})


def peak_bytes(step: Contender, device: torch.device) -> int | None:
    """Returns the largest memory in use during a step, both models' weights included; None where it is not counted."""
    if device.type != "cuda":
        return None
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return int(torch.cuda.max_memory_allocated(device))


if __name__ == "__main__":
    main()
