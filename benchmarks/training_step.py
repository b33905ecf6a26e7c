"""A training step of Sana 1.6B: forward, backward, optimizer: `python -m benchmarks.training_step --device cuda`.

The reference is diffusers' model under autocast with fused AdamW, what its training scripts run. Floor: three times the
operations of a forward at the device's measured rate; its share of our time is the MFU.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gate import OPERATION_TESTS, pass_tests
from benchmarks.machine import ceilings, describe, write_result
from benchmarks.references import TRANSFORMERS, build, call_diffusers, count_flops, draw_inputs
from benchmarks.timing import Contender, interleaved
from sana_dit import ops
from sana_dit.ops.implementation import Implementation
from sana_train import CAME8bit
from sana_train.came.backends import Backend


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="1.5-1.6b", choices=TRANSFORMERS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="of the token grid; 32 is 1024 px")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, config = torch.device(args.device), TRANSFORMERS[args.model]
    if device.type == "cuda" and not args.no_tests:
        pass_tests(OPERATION_TESTS, device)
    rates = ceilings(device, torch.bfloat16)
    ours, theirs = build(config, device=device, dtype=torch.float32)
    inputs = draw_inputs(config, batch=args.batch, side=args.side, device=device, dtype=torch.float32)
    target = torch.randn_like(inputs["latents"])
    contenders = {"ours": our_step(ours, inputs, target), "diffusers": their_step(theirs, inputs, target)}
    rows: dict[str, Any] = {}
    for name, step in contenders.items():
        rows |= {f"peak_bytes_{name}": peak_bytes(step, device)}
    times = interleaved(contenders, repeats=args.repeats, device=device)
    flops = 3 * count_flops(config, batch=args.batch, side=args.side)
    rows |= {f"seconds_{name}": time.median for name, time in times.items()}
    rows |= {"speedup_over_diffusers": times["diffusers"].over(times["ours"])}
    rows |= {"mfu": flops / rates["flops"] / times["ours"].median, "flops": flops, "ceilings": rates}
    result = {"benchmark": f"training step of {args.model} beside diffusers", **describe(device)}
    result |= {"batch": args.batch, "side": args.side, "results": rows}
    print(rows)
    print(write_result(result, f"train-{args.model}", args.out))


def our_step(model: torch.nn.Module, inputs: dict[str, Tensor], target: Tensor) -> Contender:
    """Returns a step of ours: fused operations and CAME8bit."""
    cuda = target.is_cuda
    implementation: Implementation = "fused" if cuda else "reference"
    backend: Backend = "triton" if cuda else "eager"
    optimizer = CAME8bit(model.parameters(), 1e-5, backend=backend)

    def step() -> None:
        with ops.use(implementation), torch.autocast(target.device.type, torch.bfloat16):
            loss = F.mse_loss(model(**inputs).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(model: Any, inputs: dict[str, Tensor], target: Tensor) -> Contender:
    """Returns a step of diffusers' model with fused AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def step() -> None:
        with torch.autocast(target.device.type, torch.bfloat16):
            loss = F.mse_loss(call_diffusers(model, inputs).float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


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
