"""Each fused operation beside plain and compiled PyTorch: `python -m benchmarks.operations --device cuda`."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gate import pass_tests
from benchmarks.kernels import check_kernels
from benchmarks.machine import add_row, ceilings, describe
from benchmarks.timing import Contender, interleaved, summarise
from sana_dit import ops
from sana_dit.ops.implementation import Implementation

WIDTH, HEADS, HIDDEN = 2240, 70, 5600  # Sana 1.6B and 4.8B


class Case(NamedTuple):
    """An operation with operands, and the elements it has to read and write at least, forward."""

    operation: str
    call: Callable[..., Tensor]
    operands: list[Tensor]
    elements: int


def main() -> None:
    """Runs the tests of the operations, measures all of them, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--batch", type=int, default=2, help="2 is one picture with guidance")
    parser.add_argument("--side", type=int, default=32, help="of the token grid; 32 is 1024 px")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    if not args.no_tests:
        pass_tests(device)
    result: dict[str, Any] = {"benchmark": "operations", **describe(device), "dtype": args.dtype, "width": WIDTH}
    rates = ceilings(device, dtype)
    result |= {"batch": args.batch, "tokens": args.side**2, "ceilings": rates}
    name = f"operations-{args.dtype}-{args.side}x{args.batch}"
    for case in cases(args.batch, args.side, dtype=dtype, device=device):
        for row in measure(case, args.repeats, device, bandwidth=rates["bytes"]):
            add_row(result, row, name, args.out)


def cases(batch: int, side: int, *, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """Yields the five operations as a block of Sana 1.6B uses them."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    tokens, n = side**2, batch * side**2 * WIDTH
    x = draw(batch, tokens, WIDTH)
    rows = [draw(batch, WIDTH) for _ in range(2)]
    yield Case("modulated_norm", ops.modulated_norm, [x, *rows], 2 * n)
    yield Case("gated_residual", ops.gated_residual, [x, draw(batch, tokens, WIDTH), rows[0]], 3 * n)
    yield Case("rms_norm", partial(ops.rms_norm, eps=1e-5), [x, draw(WIDTH)], 2 * n)
    qkv = [draw(batch, tokens, WIDTH) for _ in range(3)]
    norms = [draw(WIDTH) for _ in range(2)]
    yield Case("linear_attention", attend, [*qkv, *norms], 4 * n)
    convolution = draw(2 * HIDDEN, 1, 3, 3), draw(2 * HIDDEN)
    gated = partial(ops.gated_depthwise, height=side, width=side)
    u = draw(batch, tokens, 2 * HIDDEN)
    yield Case("gated_depthwise", gated, [u, *convolution], u.numel() * 3 // 2)


def attend(q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor, k_norm: Tensor) -> Tensor:
    """Linear attention with normed queries and keys, as in SANA-1.5."""
    return ops.linear_attention(q, k, v, num_heads=HEADS, q_norm=q_norm, k_norm=k_norm)


def measure(case: Case, repeats: int, device: torch.device, *, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Yields a row for the forward alone and one for forward and backward."""
    for direction, passes in (("forward", forward), ("forward and backward", forward_and_backward)):
        contenders = {"fused": passes(case, case.call, "fused")}
        check_kernels(contenders["fused"], kernels(case, direction), device)
        if device.type != "cuda":
            contenders = {}
        contenders["eager"] = passes(case, case.call, "reference")
        contenders["compiled"] = passes(case, torch.compile(case.call), "reference")
        times = interleaved(contenders, repeats=repeats, device=device, cold=True)
        row: dict[str, Any] = {"operation": case.operation, "direction": direction}
        if direction == "forward":
            floor: float | None = case.elements * case.operands[0].element_size() / bandwidth
        else:
            floor = None
        yield row | summarise(times, floor)


def kernels(case: Case, direction: str) -> frozenset[str]:
    """Returns the operators that a fused run calls."""
    name = f"sana_dit::{case.operation}"
    return frozenset({name} if direction == "forward" else {name, f"{name}_backward"})


def forward(case: Case, call: Callable[..., Tensor], implementation: Implementation) -> Contender:
    """Returns a run of the operation without gradients."""

    def run() -> None:
        with ops.use(implementation), torch.no_grad():
            call(*case.operands)

    return run


def forward_and_backward(case: Case, call: Callable[..., Tensor], implementation: Implementation) -> Contender:
    """Returns a run of the operation with all its gradients."""
    operands = [operand.detach().requires_grad_() for operand in case.operands]
    upstream = torch.randn_like(case.call(*case.operands))

    def run() -> None:
        with ops.use(implementation):
            torch.autograd.grad(call(*operands), operands, upstream)

    return run


if __name__ == "__main__":
    main()
